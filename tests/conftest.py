"""What several test files share."""

from __future__ import annotations

import pathlib

import hypothesis
import onnx
import pytest

from dfmpc_onnx import api
from tests.graphs import chain

# Derandomized: the same examples on every machine and every day, so that a failure is a change of the code.
hypothesis.settings.register_profile("dfmpc", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.load_profile("dfmpc")


@pytest.fixture
def model_file(tmp_path: pathlib.Path) -> pathlib.Path:
    """A small network as a file: conv1 first, conv2 low, conv3 high, gemm1 the classifier."""
    path = tmp_path / "model.onnx"
    onnx.save(chain(), path)
    return path


@pytest.fixture
def quantized(model_file: pathlib.Path) -> pathlib.Path:
    """The model as int8, made with --preprocess unit."""
    out = model_file.with_name("quantized.onnx")
    api.quantize(model_file, out, "int8", preprocess="unit")
    return out
