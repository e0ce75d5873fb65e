"""How much memory there is, and a bound on what this process takes of it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
UNKNOWN = 1 << 36  # where the system does not tell: 64 GiB
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# Options of mallopt, as <malloc.h> numbers them, and bytes: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD.
KEPT_MEMORY = ((-3, 2**27), (-1, 2**28), (-2, 2**24))
MEMINFO, STATUS = "/proc/meminfo", "/proc/self/status"


def machine_memory() -> int:
    """Bytes of memory that this machine, or the container, has."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        found = UNKNOWN
    return min(found, _container())


def free_memory() -> int:
    """Bytes that this process may hold as things stand: what it holds, what is free, and what can be swapped.

    All that the machine has where the system does not tell.
    """
    free = _bytes(MEMINFO, "MemAvailable")
    if free is None:
        return machine_memory()
    return min(free + (_bytes(MEMINFO, "SwapFree") or 0) + (_bytes(STATUS, "VmData") or 0), _container())


@contextlib.contextmanager
def limit_memory(most: int | None = None) -> Iterator[None]:
    """Within the block this process is refused more memory than there is, in place of being killed for it.

    most: bytes that it may take in any case; None for no bound but that.

    An allocation beyond the bound raises MemoryError, or ModelError where it was onnxruntime's. Does nothing on
    systems without such bounds. Data of the process alone is counted, not files or addresses without memory.

    The bound is the process's, whatever thread sets it: it is for a program that does one thing at a time, as the
    command line does. What other programs call never sets it.
    """
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    except (ImportError, AttributeError, ValueError, OSError):
        yield
        return
    bounds = [free_memory(), *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    wanted = min(bounds if most is None else [most, *bounds])
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def keep_freed_memory() -> bool:
    """Have this process keep up to a quarter of a gigabyte of what it frees for what it allocates next; whether it can.

    Activations of a few MB come and go by the thousand. glibc asks the system for each and gives it back, and the
    system clears every page anew: a third of all processor time. Where the C library is another, nothing changes.

    The allocator is the process's: it is for a program of our own, as the command line is. What other programs call
    never sets it.
    """
    try:
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
    except (ImportError, AttributeError, OSError, TypeError):  # another C library; TypeError on Windows
        return False
    return all(mallopt(option, value) == 1 for option, value in KEPT_MEMORY)


def _container() -> int:
    return min((int(text) for path in CGROUPS if (text := _text(path).strip()).isdigit()), default=1 << 62)


def _bytes(path: str, key: str) -> int | None:
    """What a line such as ``MemAvailable:  123 kB`` says."""
    words = next((line.split() for line in _text(path).splitlines() if line.startswith(f"{key}:")), [])
    return int(words[1]) * 1024 if len(words) > 1 and words[1].isdigit() else None


def _text(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def peak_memory(process: int | None = None) -> int | None:
    """Bytes of memory that this process, or a running one by its number, has held at most.

    None where the system does not tell: on Windows, and of other processes wherever there is no /proc. On Linux of its
    own program alone: what getrusage says begins with what the program held that started it.
    """
    found = _bytes(STATUS if process is None else f"/proc/{process}/status", "VmHWM")
    if found is not None or process is not None:
        return found
    try:
        import resource
    except ImportError:
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def held_together(items: Iterable[T], bytes_of: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Items in order, as many together as take at most so many bytes; what takes more is alone."""
    group: list[T] = []
    held = 0
    for item in items:
        size = bytes_of(item)
        if group and held + size > most:
            yield group
            group, held = [], 0
        group.append(item)
        held += size
    if group:
        yield group
