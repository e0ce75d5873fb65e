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
PLACES = ("models", "reports")  # in the folder of a batch
BY_SIZE = "auto"  # the time limit that fits the size of each model
# The longest of the zoo's models, on a busy machine, took a fifth of this.
SECONDS_AT_FIRST, SECONDS_OF_MB = 600.0, 20.0
PART_OF_A_LOOP = 0.1  # of a job's time, for one run of a model with a Loop: many runs make a job
LEAST_MEMORY = 128 * 2**20  # below which Python and its libraries themselves do not fit
# What a process takes, measured: something at first, and of a small model, where pictures weigh more than weights, up
# to 140 bytes for each of its own; of one of hundreds of MB about ten.
MEMORY_AT_FIRST, MEMORY_OF_SMALL, MEMORY_OF_LARGE, MOST_OF_PICTURES = 250 * 10**6, 140, 10, 2 * 10**9


class Job(msgspec.Struct, frozen=True):
    """One model under one set of options. name: unique in the batch, and that of its files. size: bytes of the file,
    and of files of weights beside it where their names tell.

    mistake: why `quantize` refuses this combination of a sweep, whatever the model is; empty where it does not.
    """

    name: str
    model: str
    options: dict[str, Any] = {}
    size: int = 0
    mistake: str = ""


class JobLimits(msgspec.Struct, frozen=True):
    """What a job may take: seconds of wall clock, bytes of memory (None: no limit of its own), threads.

    by_size: whether the seconds follow from the size of the job's model.
    """

    seconds: float | None = None
    memory: int | None = None
    threads: int = 1
    by_size: bool = False

    @classmethod
    def parse(cls, time: str | float | None, memory: str | int | None, threads: int) -> JobLimits:
        """As a user gives them: ``30m`` or ``auto``, ``4GB``; None for no limit. Raises OptionError."""
        by_size = isinstance(time, str) and time.strip().lower() == BY_SIZE
        return cls(None if by_size else parse_time(time), parse_memory(memory), threads, by_size)

    def of(self, job: Job) -> JobLimits:
        """Those of one job."""
        if not self.by_size:
            return self
        return msgspec.structs.replace(
            self, seconds=SECONDS_AT_FIRST + SECONDS_OF_MB * (job.size // 10**6), by_size=False
        )

    @property
    def loop_seconds(self) -> float | None:
        """Of one run of a model with a Loop."""
        return None if self.seconds is None else self.seconds * PART_OF_A_LOOP

    def need(self, job: Job) -> int:
        """Bytes of memory to keep free for a job: its limit, else an estimate by the size of its model."""
        if self.memory is not None:
            return self.memory
        return MEMORY_AT_FIRST + min(MEMORY_OF_SMALL * job.size, MOST_OF_PICTURES + MEMORY_OF_LARGE * job.size)


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
        raise OptionError(f"time-limit '{text}': not understood; give seconds such as 90s, 30m, 2h, auto or none")
    return seconds


def processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def model_place(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the quantized model of a job goes."""
    return folder / PLACES[0] / f"{name}.onnx"


def report_place(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the HTML report of a job goes."""
    return folder / PLACES[1] / f"{name}.html"
