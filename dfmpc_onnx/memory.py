"""How much memory there is, and a bound on what this process takes of it."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

UNKNOWN = 1 << 36  # where the system does not tell: 64 GiB
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
MEMINFO = "/proc/meminfo"


def machine_memory() -> int:
    """Bytes of memory that this machine, or the container, has."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        found = UNKNOWN
    limits = [int(text) for path in CGROUPS if (text := _text(path).strip()).isdigit()]
    return min([found, *limits])


def free_memory() -> int:
    """Bytes that this machine can give now without swapping; all of it where the system does not tell."""
    line = next((line for line in _text(MEMINFO).splitlines() if line.startswith("MemAvailable:")), "")
    words = line.split()
    return min(machine_memory(), int(words[1]) * 1024 if len(words) > 1 and words[1].isdigit() else UNKNOWN)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Within the block this process is refused more memory than there is, in place of being killed for it.

    An allocation beyond the bound raises MemoryError, or ModelError where it was onnxruntime's. Does nothing on
    systems without such bounds. Data of the process alone is counted, not files or addresses without memory.
    """
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    except (ImportError, AttributeError, ValueError, OSError):
        yield
        return
    wanted = min([free_memory(), *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _text(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
