"""What the command line does with memory that it frees."""

import subprocess
import sys

import pytest

ROUNDS, PAGES_OF_ONE = 10, 40 * 2**20 // 4096

PROGRAM = f"""
import resource
import numpy as np
from dfmpc_onnx.memory import keep_freed_memory

if {{}} and not keep_freed_memory():
    raise SystemExit("another C library")
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    np.ones(40 * 2**20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(kept):
    """How many pages the system gives a process that fills and frees 40 MB ten times."""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(kept)], capture_output=True, text=True, check=False)
    if "another C library" in done.stderr:
        pytest.skip("only glibc can keep what is freed")
    return int(done.stdout)


def test_memory_that_is_freed_is_used_again_and_not_asked_for_anew():
    assert new_pages(True) < min(2 * PAGES_OF_ONE, new_pages(False))
