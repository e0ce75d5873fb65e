"""What the command line does with memory that it frees, and what is held together."""

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.memory import held_together

FEW = 64  # pages, of 10,240 that 40 MB take, or of 20 where they are large

PROGRAM = """
import resource
import numpy as np
from dfmpc_onnx.memory import keep_freed_memory

if {} and not keep_freed_memory():
    raise SystemExit("another C library")
np.ones(40 * 2**20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(40 * 2**20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(kept):
    """How many pages the system gives a process that has filled and freed 40 MB and does so ten times more."""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(kept)], capture_output=True, text=True, check=False)
    if "another C library" in done.stderr:
        pytest.skip("only glibc can keep what is freed")
    return int(done.stdout)


def test_memory_that_is_freed_is_used_again_and_not_asked_for_anew():
    assert new_pages(True) < FEW < new_pages(False)


@given(st.lists(st.integers(0, 50)), st.integers(0, 100))
def test_what_is_held_together_keeps_its_order_and_takes_no_more_than_it_may(sizes, most):
    groups = list(held_together(sizes, int, most))
    assert [size for group in groups for size in group] == sizes
    assert all(len(group) == 1 or sum(group) <= most for group in groups)
    assert all(sum(group) + following[0] > most for group, following in itertools.pairwise(groups))
