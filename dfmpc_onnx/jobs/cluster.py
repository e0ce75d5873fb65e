"""The engine of many machines: a dask scheduler hands jobs to its workers, each of which starts a process a job.

A worker that is killed takes its jobs with it; the scheduler gives them to another. Workers that declare how much
memory they have (``dask worker --resources "memory=16e9"``) get no more jobs at once than fit.
"""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import msgspec

from dfmpc_onnx.errors import OptionError, RuntimeUnavailable, printable, shown
from dfmpc_onnx.extras import install_command
from dfmpc_onnx.jobs.job import Order
from dfmpc_onnx.jobs.local import need_of
from dfmpc_onnx.jobs.processes import Processes
from dfmpc_onnx.model.write import save_bytes
from dfmpc_onnx.report.batch_row import JobRow

CONNECT_SECONDS = 30
RETRIES = 2  # of a job whose worker fails otherwise than by being lost; of lost ones the scheduler's own limit holds
AHEAD = 2  # jobs handed over for each that can run: enough to keep workers busy, and few files' bytes on the way
MEMORY = "memory"  # the resource, in any case


class DaskEngine:
    """address: of the scheduler. by_bytes: whether models and results travel with the jobs; otherwise workers find
    them under the same paths, on storage that all share."""

    def __init__(self, address: str, *, by_bytes: bool = False) -> None:
        self._address, self._by_bytes = address, by_bytes

    def run(self, orders: Sequence[Order]) -> Generator[JobRow, None, None]:
        if self._by_bytes:
            for order in orders:
                _check_sent(order)
        with _client(self._address) as client:
            yield from _Handed(client, self._by_bytes).run(sorted(orders, key=need_of, reverse=True))


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
    with client, dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        yield client


class _Handed:
    """The jobs that a scheduler has been given, a few more than run at once."""

    def __init__(self, client: Any, by_bytes: bool) -> None:
        self._client, self._by_bytes = client, by_bytes
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        declared = [name for worker in workers for name in worker.get("resources", {}) if name.lower() == MEMORY]
        self._resource = declared[0] if len(declared) == len(workers) and declared else None
        self._most = AHEAD * max(sum(worker["nthreads"] for worker in workers), 1)

    def run(self, orders: Sequence[Order]) -> Generator[JobRow, None, None]:
        import distributed

        waiting: list[Order] = list(reversed(orders))
        handed: dict[Any, Order] = {}
        ended = distributed.as_completed(loop=self._client.loop)
        try:
            while waiting or handed:
                while waiting and len(handed) < self._most:
                    order = waiting.pop()
                    future = self._submit(order)
                    handed[future] = order
                    ended.add(future)
                future = next(ended)
                yield self._row(future, handed.pop(future))
        finally:
            self._client.cancel(list(handed))

    def _submit(self, order: Order) -> Any:
        sent: tuple[bytes, ...] = (msgspec.json.encode(order),)
        if self._by_bytes:
            sent += (_bytes_of(order.job.model),)
        resources = {} if self._resource is None else {self._resource: need_of(order)}
        call = _do_by_bytes if self._by_bytes else _do
        return self._client.submit(call, *sent, pure=False, retries=RETRIES, resources=resources)

    def _row(self, future: Any, order: Order) -> JobRow:
        import distributed

        try:
            row, *files = future.result()
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
        for path, content in zip((order.output, order.report), files, strict=False):
            if path and content:
                save_bytes(content, path)
        return msgspec.json.decode(row, type=JobRow)


def _lost(order: Order, reason: str) -> JobRow:
    options = msgspec.json.encode(order.job.options, order="sorted").decode()
    return JobRow(
        name=order.job.name, model=order.job.model, code="worker-lost", reason=printable(reason), options=options
    )


def _check_sent(order: Order) -> None:
    """Raise OptionError where a job needs more than the bytes of its model."""
    recipe = str(order.job.options.get("recipe", ""))
    for name in ("images", "recipe"):
        if name in order.job.options and (name == "images" or recipe.endswith(".toml")):
            raise OptionError(
                f"dask-files bytes: {order.job.name} reads {name} from a file, and only models are sent; put it on "
                "storage that the workers share, and give --dask-files shared"
            )


def _bytes_of(model: str) -> bytes:
    """The bytes of a model's file; none where it cannot be read, which its job then says."""
    try:
        return pathlib.Path(model).read_bytes()
    except OSError:
        return b""


# -- on the workers


def _do(order: bytes) -> tuple[bytes]:
    return (msgspec.json.encode(Processes().run(msgspec.json.decode(order, type=Order))),)


def _do_by_bytes(order: bytes, model: bytes) -> tuple[bytes, bytes, bytes]:
    """The row of a job, its quantized model and its report; each is empty where there is none."""
    given = msgspec.json.decode(order, type=Order)
    with tempfile.TemporaryDirectory() as folder:
        inner = pathlib.Path(folder)
        source, output = inner / pathlib.Path(given.job.model).name, inner / "out.onnx"
        source.write_bytes(model)
        report = str(inner / "report.html") if given.report else ""
        job = msgspec.structs.replace(given.job, model=str(source))
        row = Processes().run(msgspec.structs.replace(given, job=job, output=str(output), report=report))
        files = [pathlib.Path(p).read_bytes() if p else b"" for p in (row.output, row.report)]
    said = {"reason": row.reason.replace(str(source), given.job.model), "model": given.job.model}
    said |= {"output": given.output if row.output else "", "report": given.report if row.report else ""}
    return msgspec.json.encode(msgspec.structs.replace(row, **said)), files[0], files[1]
