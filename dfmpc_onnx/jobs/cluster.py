"""The engine of many machines: a dask scheduler hands jobs to its workers, each of which starts a process a job.

A worker that is killed takes its jobs with it; the scheduler gives them to another. Workers that declare how much
memory they have (``dask worker --resources "memory=16e9"``) get no more jobs at once than fit.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from dfmpc_onnx.api.provenance import version
from dfmpc_onnx.errors import OptionError, RuntimeUnavailable, printable, shown
from dfmpc_onnx.extras import install_command
from dfmpc_onnx.jobs.job import Order
from dfmpc_onnx.jobs.local import need_of
from dfmpc_onnx.jobs.parcel import (
    Files,
    Named,
    NamedFiles,
    check_sent,
    missing_data,
    model_files,
    order_below,
    pack,
    page_of,
    row_of,
    save_written,
    unpack,
)
from dfmpc_onnx.jobs.processes import Processes, is_disk_full
from dfmpc_onnx.model.write import save_bytes
from dfmpc_onnx.report.batch_row import JobRow

CONNECT_SECONDS = 30
RETRIES = 2  # of a job whose worker fails otherwise than by being lost; of lost ones the scheduler's own limit holds
AHEAD = 2  # jobs handed over for each that can run: enough to keep workers busy, and few files' bytes on the way
MEMORY = "memory"  # the resource, in any case
Result = tuple[bytes, Files, bytes]  # of a job: its row as JSON, and as bytes the files of its model and its report


class DaskEngine:
    """address: of the scheduler. by_bytes: whether the files of jobs and their results travel with them; otherwise
    workers find them under the same paths, on storage that all share."""

    def __init__(self, address: str, *, by_bytes: bool = False) -> None:
        self._address, self._by_bytes = address, by_bytes

    def run(self, orders: Sequence[Order]) -> Generator[JobRow, None, None]:
        named = NamedFiles()
        if self._by_bytes:
            for order in orders:
                check_sent(order.job, named.of(order.job).size)
        with _client(self._address) as client:
            handed = _Handed(client, named if self._by_bytes else None)
            yield from handed.run(sorted(orders, key=need_of, reverse=True))


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    """A connection to a scheduler. Raises RuntimeUnavailable and OptionError."""
    try:
        import dask
        import distributed
    except ImportError:
        raise RuntimeUnavailable(f"dask: not installed; {install_command('dask')}") from None
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OptionError(f"dask {shown(address)}: no scheduler answers there ({printable(str(error))})") from None
    # A model is a large part of what is sent with its job, and meant to be.
    with _one_voice(), client, dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        yield client


@contextlib.contextmanager
def _one_voice() -> Iterator[None]:
    """Within the block dask logs no traceback of a scheduler that was lost: we say it in one line."""
    logger = logging.getLogger("distributed.client")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Try(NamedTuple):
    """A job that has been handed over. data: names of files of weights that go with it; None in its first try."""

    order: Order
    data: tuple[str, ...] | None = None


class _Handed:
    """The jobs that a scheduler has been given, a few more than run at once. named: where files travel with them."""

    def __init__(self, client: Any, named: NamedFiles | None) -> None:
        self._client, self._named = client, named
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        resources = [item for worker in workers for item in worker.get("resources", {}).items()]
        declared = [(name, float(size)) for name, size in resources if name.lower() == MEMORY]
        self._resource, self._largest = "", 0.0
        if declared and len(declared) == len(workers):
            self._resource, self._largest = max(declared, key=lambda item: item[1])
        self._most = AHEAD * max(sum(worker["nthreads"] for worker in workers), 1)
        self._sent: dict[tuple[str, ...], Any] = {}

    def run(self, orders: Sequence[Order]) -> Generator[JobRow, None, None]:
        import distributed

        waiting = [_Try(order) for order in reversed(orders)]
        handed: dict[Any, _Try] = {}
        ended = distributed.as_completed(loop=self._client.loop)
        try:
            while waiting or handed:
                while waiting and len(handed) < self._most:
                    attempt = waiting.pop()
                    future = self._submit(attempt)
                    handed[future] = attempt
                    ended.add(future)
                future = next(ended)
                attempt = handed.pop(future)
                row, again = self._ended(future, attempt)
                if again is None:
                    yield row
                else:
                    waiting.append(again)
        finally:
            self._client.cancel(list(handed))

    def _submit(self, attempt: _Try) -> Any:
        order = attempt.order
        # What fits nowhere would wait for ever: the largest worker does it, and nothing beside it.
        resources = {self._resource: min(need_of(order), self._largest)} if self._resource else {}
        usual = {"pure": False, "retries": RETRIES, "resources": resources}
        if self._named is None:
            return self._client.submit(_do, version(), msgspec.json.encode(order), **usual)
        own, named = pack(model_files(order.job, attempt.data or ())), self._named.of(order.job)
        sent = (msgspec.json.encode(order), own, self._sent_once(named), dict(named.options))
        return self._client.submit(_do_by_bytes, version(), *sent, **usual)

    def _sent_once(self, named: Named) -> Any:
        """Files that many jobs read. The scheduler keeps them as a task, which it does again where a worker is lost."""
        if not named.files:
            return {}
        key = tuple(map(str, named.files.values()))
        if key not in self._sent:
            self._sent[key] = self._client.submit(_same, pack(named.files), pure=False, retries=RETRIES)
        return self._sent[key]

    def _ended(self, future: Any, attempt: _Try) -> tuple[JobRow, _Try | None]:
        """The row of a job, and its next try where the first one lacked files of weights that are here."""
        found = self._result(future, attempt.order)
        if isinstance(found, JobRow):
            return found, None
        row, written, report = msgspec.json.decode(found[0], type=JobRow), *found[1:]
        order = attempt.order
        if self._named is not None and attempt.data is None:
            try:
                data = missing_data(order.job, row, self._named.of(order.job))
            except OptionError as error:
                return msgspec.structs.replace(row, status="refused", code="not-sent", reason=str(error)), None
            if data:
                return row, attempt._replace(data=data)
        save_written(written, order.output)
        if report:
            save_bytes(report, order.report)
        return row, None

    def _result(self, future: Any, order: Order) -> Result | JobRow:
        """What a worker sent; a row where none could."""
        import distributed

        try:
            found: Result = future.result()
        except distributed.KilledWorker:
            return _lost(order, "its dask workers were lost one after another; see their logs")
        except (ImportError, AttributeError) as error:
            raise RuntimeUnavailable(
                f"dask: its workers cannot run jobs ({printable(str(error))}); install this version of dfmpc-onnx there"
            ) from None
        except Exception as error:  # of any kind, from another machine
            if future.cancelled():
                raise RuntimeUnavailable(
                    "dask: the scheduler was lost; start it again, then run the same command: what is done stays done"
                ) from None
            return _lost(order, f"{type(error).__name__}: {error}")
        return found


def _lost(order: Order, reason: str) -> JobRow:
    options = msgspec.json.encode(order.job.options, order="sorted").decode()
    return JobRow(
        name=order.job.name, model=order.job.model, code="worker-lost", reason=printable(reason), options=options
    )


# -- on the workers


def _do(wanted: str, order: bytes) -> Result:
    _check_version(wanted)
    return msgspec.json.encode(Processes().run(msgspec.json.decode(order, type=Order))), {}, b""


def _check_version(wanted: str) -> None:
    """Raise ImportError where another version than that of the batch is installed: rows say which one was at work."""
    if version() != wanted:
        raise ImportError(f"dfmpc-onnx is {version()} there and {wanted} here")


def _same(files: Files) -> Files:
    return files


def _do_by_bytes(wanted: str, order: bytes, own: Files, named: Files, options: Mapping[str, str]) -> Result:
    """The row of a job, the files of its quantized model by their names, and its report; empty where there is none."""
    import distributed

    _check_version(wanted)
    given = msgspec.json.decode(order, type=Order)
    # What a worker leaves there that is killed, the next one takes away.
    with tempfile.TemporaryDirectory(dir=distributed.get_worker().local_directory) as folder:
        moved = order_below(given, options, pathlib.Path(folder))
        unpack({**named, **own}, pathlib.Path(folder))
        row = Processes().run(moved)
        if is_disk_full(row):  # not that of the batch: another worker may have room
            raise OSError(f"the worker's disk is full: {row.reason}")
        made = pathlib.Path(moved.output).parent.iterdir() if row.output else ()
        written = {path.name: path.read_bytes() for path in made if path.is_file()}
        report = page_of(pathlib.Path(row.report).read_bytes(), given, moved) if row.report else b""
    return msgspec.json.encode(row_of(row, given, moved)), written, report
