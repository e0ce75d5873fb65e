"""What several test files share."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import numpy as np
import onnx
import onnxruntime
import pytest

import dfmpc_onnx
from dfmpc_onnx.inputs import generated
from dfmpc_onnx.inputs import procedural as procedural
from dfmpc_onnx.statistics import leading_moments as predicted_moments
from tests.graphs import chain

# Derandomized: the same examples on every machine and every day, so that a failure is a change of the code.
hypothesis.settings.register_profile("dfmpc", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.load_profile("dfmpc")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Trained networks first: they take longest, and at the end one process would wait for another."""
    items.sort(key=lambda item: "real" not in item.path.parts)


class OneThread(onnxruntime.SessionOptions):
    """Threads of onnxruntime's wait by spinning, which is all that they would do in networks as small as these."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.intra_op_num_threads = 1


def _kept(
    paint: Callable[[int, int, int, int], procedural.Pixels],
) -> Callable[[int, int, int, int], procedural.Pixels]:
    painted = functools.lru_cache(maxsize=64)(paint)
    return lambda count, height, width, seed: np.copy(painted(count, height, width, seed))


@pytest.fixture(scope="session", autouse=True)
def shared_machine() -> Iterator[None]:
    """Tests run side by side, each on one thread; and the same few pictures are not painted again for every test.

    Painting them is nine tenths of quantizing a small network. `tests/inputs/test_procedural.py` tests it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", OneThread)
        patch.setattr(generated, "pictures", _kept(procedural.pictures))
        patch.setattr(predicted_moments, "dead_leaves", _kept(procedural.dead_leaves))
        yield


@pytest.fixture
def model_file(tmp_path: pathlib.Path) -> pathlib.Path:
    """A small network as a file: conv1 first, conv2 low, conv3 high, gemm1 the classifier."""
    path = tmp_path / "model.onnx"
    onnx.save(chain(), path)
    return path


@pytest.fixture(scope="session")
def _made_once() -> bytes:
    return dfmpc_onnx.quantize(chain(), None, "int8", preprocess="unit").model.SerializeToString()


@pytest.fixture
def quantized(model_file: pathlib.Path, _made_once: bytes) -> pathlib.Path:
    """The model as int8, made with --preprocess unit; a file of the test's own."""
    out = model_file.with_name("quantized.onnx")
    out.write_bytes(_made_once)
    return out
