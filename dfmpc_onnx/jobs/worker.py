"""The process of one job: reads an Order from standard input, quantizes, says on standard output how far it has come.

Each line on standard output is a JSON object: ``{"stage": "load"}`` as a stage begins, and at the end ``{"row": ...}``
with the columns of `JobRow` that this process knows; the last such line counts. What libraries print goes to standard
error. The memory limit, the place in the system's list of whom to kill first, and the end with the parent belong to
this process alone.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import pathlib
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec

import dfmpc_onnx
from dfmpc_onnx import errors
from dfmpc_onnx.jobs.content import data_digest, file_digest
from dfmpc_onnx.jobs.given_options import REPORT
from dfmpc_onnx.jobs.job import Job, Order
from dfmpc_onnx.memory import keep_freed_memory, limit_memory, peak_memory
from dfmpc_onnx.report.schema import Report
from dfmpc_onnx.runtime.session import limit_loops

STAGE_OF_STEP = {"load": "load", "preprocess": "check", "write": "write", "check": "verify"}
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_FULL, NO_MEMORY = "disk-full", "memory"
# By class, the first that fits.
CODES: tuple[tuple[type[BaseException], str], ...] = (
    (errors.AlreadyQuantized, "already-quantized"),
    (errors.TooLittleMemory, NO_MEMORY),
    (errors.NoSuchType, "no-such-type"),
    (errors.CannotRun, "cannot-run"),
    (errors.ModelError, "model"),
    (errors.OptionError, "option"),
    (errors.RecipeError, "recipe"),
    (errors.RuntimeUnavailable, "runtime"),
    (errors.RunTooLong, "run-too-long"),
    (errors.UserError, "refused"),
    (MemoryError, NO_MEMORY),
)
LONGEST_REASON = 1000  # characters
PARENT_DEATH_SIGNAL, KILL = 1, 9  # as <sys/prctl.h> and <signal.h> number them
PARENT_SECONDS = 1.0  # between two looks at whether the parent lives
FIRST_TO_KILL = "1000"  # of 1000: the system that runs out of memory ends this process, and not the one that waits


def main() -> None:
    """One job from standard input to standard output."""
    lines = _own_output()
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    _end_with(order.parent)
    _offer_to_the_system()

    def say(**line: object) -> None:
        lines.write(msgspec.json.encode(line) + b"\n")

    with limit_memory(order.limits.memory), limit_loops(order.limits.loop_seconds):
        keep_freed_memory()
        row = run(order, lambda stage: say(stage=stage))
        say(row=row)  # whatever comes of reading the model once more
        say(row=row | {"data": _data_files(order.job)})


def run(order: Order, begin: Callable[[str], None]) -> dict[str, Any]:
    """Do a job; the columns of its row. begin: called with each stage as it begins."""
    stage = ""

    def step(done: int, total: int, name: str) -> None:
        nonlocal stage
        now = STAGE_OF_STEP.get(name, "quantize") if name else stage
        if now != stage:
            stage = now
            begin(now)

    job = order.job
    options = dict(job.options, **({REPORT: order.report} if order.report else {}))
    try:
        made = dfmpc_onnx.quantize(
            job.model, order.output, **options, progress=step, threads=order.limits.threads, force=True
        )
        row = _figures(made.report) | {"sha256": file_digest(pathlib.Path(order.output)), "status": "ok", "code": "ok"}
    except Exception as error:
        code = _code(error)
        refused = isinstance(error, errors.UserError) and code not in (NO_MEMORY, DISK_FULL)
        row = {"status": "refused" if refused else "failed", "code": code, "reason": _reason(error)}
    return row | megabytes(peak_memory())


def megabytes(peak: int | None) -> dict[str, Any]:
    """The column of what memory a process took at most, in bytes; None where it is not known."""
    return {"peak_mb": None if peak is None else round(peak / 1e6, 1)}


def _code(error: BaseException) -> str:
    if isinstance(error.__context__, OSError) and error.__context__.errno in NO_SPACE:
        return DISK_FULL
    return next((code for kind, code in CODES if isinstance(error, kind)), "defect")


def _reason(error: BaseException) -> str:
    """What went wrong as one line."""
    if isinstance(error, MemoryError):
        return "not enough memory within the limit"
    said = str(error) if isinstance(error, errors.DfmpcError) else f"{type(error).__name__}: {error}"
    return errors.printable(said)[:LONGEST_REASON]


def _figures(report: Report) -> dict[str, Any]:
    """The columns that a report fills."""
    verdict, refused = report.verdict, [layer.refused for layer in report.layers if layer.refused]
    found: dict[str, Any] = {
        "float_bytes": report.float_bytes,
        "bytes": report.bytes,
        "mean_bits": round(report.mean_weight_bits, 4),
        "layers": len(report.layers),
        "quantized_layers": len(report.layers) - len(refused),
        "refusals": counted(refused),
        "warnings": len(report.warnings),
        "recipe": report.recipe,
    }
    if verdict is not None:
        low, high = verdict.interval or (None, None)
        found |= {"verdict": verdict.level, "basis": verdict.basis, "sqnr_db": verdict.sqnr_db}
        found |= {"agreement": verdict.agreement, "agreement_low": low, "agreement_high": high}
        found |= {"agreeing": verdict.agreeing, "rows": verdict.rows, "not_known": errors.printable(verdict.not_known)}
    measured = [] if report.layer_errors is None else [row for row in report.layer_errors.rows if row.layers]
    if measured:
        worst = max(measured, key=lambda row: row.own_error)
        found |= {"worst_layer": errors.printable(worst.layers[0]), "worst_layer_error": worst.own_error}
    return found


def counted(reasons: list[str]) -> str:
    """Reasons without the names that a model gives its nodes and tensors, with how many there are of each."""
    found = collections.Counter(re.sub(r" ?'[^']*'", "", reason) for reason in reasons)
    return "; ".join(f"{count} x {reason}" for reason, count in found.most_common())


def _data_files(job: Job) -> str:
    """The files beside a model that hold its weights, as JSON, each with the SHA-256 of its content.

    Empty where there is no such file: once it is there, the job is another one. Read here and not by the batch, since
    a hostile model may bring down who reads it.
    """
    import onnx

    from dfmpc_onnx.model.plain_files import why_unreadable
    from dfmpc_onnx.model.protos import all_tensors

    if why_unreadable(job.model) is not None:  # such as a pipe, which nobody may ever write to
        return "{}"
    try:
        model = onnx.load(job.model, load_external_data=False)
        tensors = [t for t in all_tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL]
        names = {entry.value for t in tensors for entry in t.external_data if entry.key == "location"}
        folder = pathlib.Path(job.model).parent
        return msgspec.json.encode({name: data_digest(folder, name) for name in sorted(names)}).decode()
    except Exception:  # what is wrong with the model has been said where it was quantized
        return "{}"


def _own_output() -> BinaryIO:
    """Standard output for our lines alone; what anything else prints there goes to standard error."""
    lines = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return lines


def _offer_to_the_system() -> None:
    with contextlib.suppress(OSError):  # not on every system
        pathlib.Path("/proc/self/oom_score_adj").write_text(FIRST_TO_KILL, encoding="ascii")


def _end_with(parent: int) -> None:
    """Let this process end as soon as the one that started it has, however that was ended."""
    if not parent or os.name == "nt":  # Windows starts the interpreter of a virtual environment by another program
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    try:
        import ctypes

        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, KILL)  # also where a library holds the interpreter for ever
    except (ImportError, AttributeError, OSError, TypeError):  # not on every system; TypeError on Windows
        pass
    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
