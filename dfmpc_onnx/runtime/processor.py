"""Which machine this is, as a report names it."""

from __future__ import annotations

import functools
import pathlib
import platform

CPU_FACTS = pathlib.Path("/proc/cpuinfo")  # of Linux, where `platform` names the architecture alone


@functools.cache
def processor_name() -> str:
    """The processor by its maker's name; by its architecture where nothing says more."""
    try:
        lines = CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(filter(None, named), "") or platform.processor() or platform.machine() or "an unknown processor"


def machine_name() -> str:
    """Processor and system."""
    return f"{processor_name()}, {platform.system()} {platform.machine()}"
