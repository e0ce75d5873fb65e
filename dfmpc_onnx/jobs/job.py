"""What is to be done with one model, and within which limits."""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

import msgspec

from dfmpc_onnx.errors import OptionError

SIZE_OF_LIMIT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
TIME_OF_LIMIT = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?", re.IGNORECASE)
SECONDS_OF_UNIT = {"s": 1, "m": 60, "min": 60, "h": 3600}
LEAST_MEMORY = 128 * 2**20  # below which Python and its libraries themselves do not fit
# Measured over networks of 8 kB to 23 MB: what a process holds at first, and how much more for each byte of the model.
MEMORY_AT_FIRST, MEMORY_OF_BYTE = 250 * 10**6, 20


class Job(msgspec.Struct, frozen=True):
    """One model under one set of options. name: unique in the batch, and that of its files. size: bytes of the file."""

    name: str
    model: str
    options: dict[str, Any] = {}
    size: int = 0


class JobLimits(msgspec.Struct, frozen=True):
    """What a job may take: seconds of wall clock, bytes of memory (None: no limit of its own), threads."""

    seconds: float | None = None
    memory: int | None = None
    threads: int = 1

    def need(self, job: Job) -> int:
        """Bytes of memory to keep free for a job: its limit, else an estimate by the size of its model."""
        return self.memory if self.memory is not None else MEMORY_AT_FIRST + MEMORY_OF_BYTE * job.size


class Order(msgspec.Struct, frozen=True):
    """A job as its process is given it. report: where its HTML report goes; empty for none. parent: who waits for it;
    0 where nobody is known."""

    job: Job
    output: str
    report: str = ""
    limits: JobLimits = JobLimits()
    parent: int = 0


def parse_memory(text: str | int | None) -> int | None:
    """``4GB``, ``512MiB`` or bytes; None for no limit. Raises OptionError."""
    if text is None:
        return None
    found = SIZE_OF_LIMIT.fullmatch(str(text).strip())
    if found is None:
        raise OptionError(f"memory-limit '{text}': not understood; give bytes such as 4GB or 512MiB")
    power = " KMGT".index(found[2].upper() or " ")
    size = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    if size < LEAST_MEMORY:
        raise OptionError(f"memory-limit '{text}': a job takes more before it begins; give at least 128MiB")
    return size


def parse_time(text: str | float | None) -> float | None:
    """``90s``, ``30m``, ``2h`` or seconds; None for no limit. Raises OptionError."""
    if text is None:
        return None
    found = TIME_OF_LIMIT.fullmatch(str(text).strip())
    seconds = 0.0 if found is None else float(found[1]) * SECONDS_OF_UNIT[(found[2] or "s").lower()]
    if seconds <= 0:
        raise OptionError(f"time-limit '{text}': not understood; give seconds such as 90s, or 30m, or 2h")
    return seconds


def processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def model_place(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the quantized model of a job goes."""
    return folder / "models" / f"{name}.onnx"


def report_place(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the HTML report of a job goes."""
    return folder / "reports" / f"{name}.html"
