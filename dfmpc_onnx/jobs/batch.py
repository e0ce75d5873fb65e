"""batch(): many models through `quantize`, each in a process of its own, and a row for each whatever it is."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from dfmpc_onnx.api.boundary import Path, public
from dfmpc_onnx.api.provenance import version
from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.jobs.content import Keys
from dfmpc_onnx.jobs.given_options import REPORT, SEPARATOR, plain_options, with_places
from dfmpc_onnx.jobs.job import BY_SIZE, Job, JobLimits, Order, model_place, processors, report_place
from dfmpc_onnx.jobs.ledger import Ledger, check_folder, read_rows
from dfmpc_onnx.jobs.local import JobEngine, LocalEngine
from dfmpc_onnx.jobs.processes import is_disk_full
from dfmpc_onnx.jobs.sources import Shard, find_jobs
from dfmpc_onnx.memory import free_memory
from dfmpc_onnx.model.staging import publishing, remove_orphans
from dfmpc_onnx.model.write import save_text
from dfmpc_onnx.pipeline.progress import ProgressReport, no_report
from dfmpc_onnx.report.batch_changes import BatchChanges, changes_between
from dfmpc_onnx.report.batch_page import index_page
from dfmpc_onnx.report.batch_row import Gates, JobRow, counts, csv_table, moment
from dfmpc_onnx.runtime.threads import check_threads

TABLE_FILE, PAGE_FILE = "results.csv", "index.html"
MEMORY_TO_USE = 0.9  # of what is free: something else runs, too


class BatchResult(msgspec.Struct, frozen=True):
    """What became of a batch. rows: of its jobs by name, those of other shards left out. kept: how many an earlier run
    had done already. left: how many were not begun, since too many failed. notes: a line each."""

    folder: str
    rows: tuple[JobRow, ...]
    kept: int = 0
    left: int = 0
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs ended ok, below a gate, refused, failed."""
        return counts(self.rows)

    @property
    def exit_code(self) -> int:
        """0: all are written and reach the gates; 1: some do not reach them; 5: some are not written."""
        found = self.counts
        return 5 if found["refused"] or found["failed"] or self.left else 1 if found["below"] else 0


@public
def batch(
    sources: Path | Sequence[Path],
    output: Path,
    *,
    sweep: Mapping[str, Sequence[object]] | Sequence[str] = (),
    workers: int | None = None,
    threads: int = 1,
    time_limit: str | float | None = BY_SIZE,
    memory_limit: str | int | None = None,
    dask: str | None = None,
    dask_files: Literal["shared", "bytes"] = "shared",
    shard: str | None = None,
    retry: bool = False,
    max_failures: int | None = None,
    min_agreement: float | None = None,
    progress: ProgressReport | None = None,
    **options: Any,
) -> BatchResult:
    """Quantize many models, each in a process of its own; each ends as a row, whatever becomes of it.

    sources: models, folders, patterns, and manifests (.csv, .toml). output: a folder for ``results.jsonl``, to which a
    row is added as its job ends, ``results.csv``, ``index.html``, and the models in ``models/``. A second call with the
    same folder does only what has changed: the model, its options or the version. Who interrupts it finds the table and
    the page of what is done. sweep: ``{"recipe": ["int8", "mixed"]}``, every combination for every model. workers: jobs
    at once; as many as processors divided by threads where None. threads: of each job. time_limit, memory_limit: of
    each job, "30m" and "4GB"; None for none; "auto": ten minutes, and twenty seconds for each MB of its model. dask:
    the address of a scheduler whose workers do the jobs. dask_files: whether they find files under the same paths, or
    are sent their bytes. shard: "I/N", part I of N. retry: whether jobs that an earlier run could not do are done
    again. max_failures: stop once so many jobs were refused or failed. min_agreement: per cent, a gate. progress:
    called with (done, total, name). options: any of `quantize`, for all models.

    Raises UserError for what the caller can correct, before the first job begins or where a disk is full.
    """
    folder, part = pathlib.Path(output), Shard.parse(shard)
    limits = JobLimits.parse(time_limit, memory_limit, check_threads(threads) or processors())
    if max_failures is not None and max_failures < 1:
        raise OptionError(f"max-failures {max_failures}: not understood; give 1 or more")
    if min_agreement is not None and not 0 <= min_agreement <= 100:
        raise OptionError(f"min-agreement {min_agreement}: not understood; give per cent, from 0 to 100")
    given = with_places(plain_options(options), pathlib.Path())
    check_folder(folder, (TABLE_FILE, PAGE_FILE))
    jobs = find_jobs(_places(sources), given, _texts(sweep), folder)
    mine = part.of(jobs)
    engine = _engine(workers, limits, dask, dask_files)
    with Ledger.open(folder, part) as ledger:
        run = _Batch(folder, ledger, Gates(min_agreement), max_failures, progress or no_report)
        try:
            run.leave_out_others(jobs)
            run.sort_out(mine, retry)
            run.do(engine, limits)
        except BaseException:  # such as an interrupt: what is done is to be seen all the same
            with contextlib.suppress(OptionError):  # such as a full disk, which has been said
                if read_rows(folder):
                    run.write_tables(jobs)
            raise
    return run.finish(mine, jobs)


def compare_batches(old: Path, new: Path) -> BatchChanges:
    """What changed from one run of a batch to another: status, bytes, agreement, SQNR and time, by the names of jobs.

    old, new: their folders; jobs whose models were no longer among the sources of the last run there are left out.
    Raises OptionError where one holds no results.
    """
    before, after = (_present(read_rows(pathlib.Path(folder))) for folder in (old, new))
    return changes_between(str(old), before, str(new), after)


def _present(rows: Mapping[str, JobRow]) -> dict[str, JobRow]:
    return {name: row for name, row in rows.items() if not row.removed}


def _places(sources: Path | Sequence[Path]) -> list[str]:
    places = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    for place in places:
        if not isinstance(place, (str, os.PathLike)) or not os.fspath(place):
            raise OptionError(f"sources: of type {type(place).__name__} or empty; give paths of models or manifests")
    return [os.fspath(place) for place in places]


def _texts(sweep: Mapping[str, Sequence[object]] | Sequence[str]) -> list[str]:
    if isinstance(sweep, str):
        return [sweep]
    if isinstance(sweep, Mapping):
        return [f"{name}={SEPARATOR.join(map(str, values))}{SEPARATOR}" for name, values in sweep.items()]
    return list(sweep)


def _engine(workers: int | None, limits: JobLimits, dask: str | None, files: str) -> JobEngine:
    if dask is not None:
        from dfmpc_onnx.jobs.cluster import DaskEngine

        if workers is not None:
            raise OptionError("workers: dask's own are as many as have been started; leave it out, or --dask")
        if files not in ("shared", "bytes"):
            raise OptionError(f"dask-files '{files}': not understood; give shared or bytes")
        return DaskEngine(dask, by_bytes=files == "bytes")
    if workers is not None and workers < 1:
        raise OptionError(f"workers {workers}: not understood; give 1 or more")
    usual = max(processors() // limits.threads, 1)
    return LocalEngine(workers or usual, _memory_to_use(), free=_memory_to_use)


def _memory_to_use() -> int:
    return int(free_memory() * MEMORY_TO_USE)


def _no_rows() -> Generator[JobRow, None, None]:
    """Nothing to do, so no cluster has to be there."""
    yield from ()


class _Batch:
    """One run over a folder: which jobs are done already, and the rows of those that are done now."""

    def __init__(
        self, folder: pathlib.Path, ledger: Ledger, gates: Gates, max_failures: int | None, progress: ProgressReport
    ) -> None:
        self._folder, self._ledger, self._gates, self._progress = folder, ledger, gates, progress
        self._most = max_failures
        self._before = read_rows(folder)
        self._rows: dict[str, JobRow] = {}
        self._keys: dict[str, str] = {}
        self._waiting: list[Job] = []
        self._version = version()
        self._notes: list[str] = []
        self._kept = self._left = 0

    def leave_out_others(self, jobs: Sequence[Job]) -> None:
        """Note which rows of earlier runs are of jobs that are no longer there. jobs: of all shards."""
        names = {job.name for job in jobs}
        for name, row in self._before.items():
            if name not in names and not row.removed:
                self._ledger.append(msgspec.structs.replace(row, removed=True, ended=moment()))

    def sort_out(self, jobs: Sequence[Job], retry: bool) -> None:
        """Find out which jobs are still to be done; that reads all of their files, so each is reported."""
        keys = Keys(self._version, self._folder)
        for number, job in enumerate(jobs, 1):
            self._progress(0, len(jobs), f"is it done already? {job.name}, {number} of {len(jobs)}")
            key = self._keys[job.name] = keys.key(job)
            row = self._before.get(job.name)
            if row is not None and not (retry and not row.written) and keys.is_done(job, key, row):
                self._keep(row)
                self._kept += 1
            elif job.mistake:
                self._add(self._refused(job))
            else:
                self._waiting.append(job)

    def do(self, engine: JobEngine, limits: JobLimits) -> None:
        """Do what waits; a row is on the disk before the next is looked at. Raises OptionError where that is full."""
        orders = [self._order(job, limits) for job in self._waiting]
        self._make(*{pathlib.Path(path).parent for order in orders for path in (order.output, order.report) if path})
        failures, ended = 0, 0
        self._progress(0, len(orders), "")
        with self._noting(), contextlib.closing(engine.run(orders) if orders else _no_rows()) as rows:
            for row in rows:
                if is_disk_full(row):
                    raise OptionError(
                        f"{shown(str(self._folder))}: its disk is full ({row.name}); make room, then run the same "
                        "command again: what is done stays done"
                    )
                self._add(self._gates.judge(self._completed(row)))
                ended += 1
                failures += not row.written
                self._progress(ended, len(orders), row.name)
                if self._most is not None and failures >= self._most:
                    break
        self._left = len(orders) - ended
        if self._left:
            self._notes.append(f"stopped after {failures} failures; {self._left} jobs are left")

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Within the block who interrupts the run hears how far it has come."""
        try:
            yield
        except KeyboardInterrupt as error:
            error.add_note(f"{len(self._rows)} of {len(self._keys)} done; the same command goes on")
            raise

    def write_tables(self, jobs: Sequence[Job]) -> str:
        """The table and the page of all rows that there are, other shards' included; what to note of them.

        The last of several shards to end is the last to write, and has read the rows of all.
        """
        with publishing(self._folder):
            known = read_rows(self._folder)
            rows = [known[job.name] for job in jobs if job.name in known]
            save_text(csv_table(rows), self._folder / TABLE_FILE)
            return index_page(rows, self._folder / PAGE_FILE)

    def finish(self, mine: Sequence[Job], jobs: Sequence[Job]) -> BatchResult:
        """What became of the jobs, once all tables are written."""
        note = self.write_tables(jobs)
        notes = (*self._notes, *([note] if note else []))
        own = tuple(self._rows[job.name] for job in mine if job.name in self._rows)
        return BatchResult(str(self._folder), own, self._kept, self._left, notes)

    def _add(self, row: JobRow) -> None:
        """A row of this run; it is on the disk when this returns."""
        self._rows[row.name] = row  # first: who interrupts what follows hears of every row that is on the disk
        self._ledger.append(row)
        self._remove_former(row)

    def _refused(self, job: Job) -> JobRow:
        """The row of a combination that needs no process to be refused."""
        options = msgspec.json.encode(self._without_report(job).options, order="sorted").decode()
        return JobRow(
            name=job.name,
            model=job.model,
            key=self._keys[job.name],
            status="refused",
            code="option",
            reason=job.mistake,
            options=options,
            version=self._version,
            ended=moment(),
        )

    def _keep(self, row: JobRow) -> None:
        judged = self._gates.judge(row)
        if row.removed:  # it is there again, which has to be the later line also where another shard noted the removal
            judged = msgspec.structs.replace(judged, removed=False, ended=moment())
        if judged != row:
            self._ledger.append(judged)
        self._rows[row.name] = judged

    def _make(self, *folders: pathlib.Path) -> None:
        for folder in folders:
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise OptionError(f"{shown(str(folder))}: cannot be made ({error.strerror})") from None

    def _completed(self, row: JobRow) -> JobRow:
        """A row with what the batch knows; paths as seen from its folder, which may be moved."""
        names = {"output": row.output, "report": row.report}
        inner = {
            n: pathlib.Path(p).relative_to(self._folder.absolute()).as_posix() if p else "" for n, p in names.items()
        }
        return msgspec.structs.replace(row, key=self._keys[row.name], version=self._version, **inner)

    def _order(self, job: Job, limits: JobLimits) -> Order:
        wanted = bool(job.options.get(REPORT))
        report = str(report_place(self._folder, job.name).absolute()) if wanted else ""
        place = str(model_place(self._folder, job.name).absolute())
        return Order(self._without_report(job), place, report, limits.of(job))

    @staticmethod
    def _without_report(job: Job) -> Job:
        """A job with the options that its row shows."""
        options = {name: value for name, value in job.options.items() if name != REPORT}
        return msgspec.structs.replace(job, options=options)

    def _remove_former(self, row: JobRow) -> None:
        """Take away the files of an earlier run where this one wrote none: they would pass for its results."""
        former = self._before.get(row.name)
        if former is not None and former.output and not row.written:
            model = model_place(self._folder, row.name)
            with contextlib.suppress(OSError):
                model.unlink(missing_ok=True)
                remove_orphans(model, ())
                report_place(self._folder, row.name).unlink(missing_ok=True)
