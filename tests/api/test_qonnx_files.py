"""A file of QONNX, which onnxruntime does not run as it is, given to each function."""

from __future__ import annotations

import pathlib

import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.errors import AlreadyQuantized, ModelError
from tests.graphs import chain


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """A float model, and what became of it."""
    folder = tmp_path_factory.mktemp("qonnx")
    model, made = folder / "model.onnx", folder / "made.onnx"
    onnx.save(chain(), model)
    dfmpc_onnx.quantize(model, made, "mixed", weights="ternary/4", target="qonnx", preprocess="imagenet")
    return model, made


def test_the_report_gives_the_bits_of_its_nodes_as_inspect_does(files: tuple[pathlib.Path, pathlib.Path]) -> None:
    report = dfmpc_onnx.quantize(
        files[0], None, "mixed", weights="ternary/4", target="qonnx", preprocess="imagenet"
    ).report
    held = dfmpc_onnx.inspect(files[1])
    assert [row.stored_bits for row in report.layers] == [row.stored_bits for row in held.quantized_layers]
    assert report.mean_weight_bits == held.mean_weight_bits < 8 and min(row.stored_bits for row in report.layers) == 2


def test_its_layers_are_compared(files: tuple[pathlib.Path, pathlib.Path]) -> None:
    found = dfmpc_onnx.verify(*files, layer_errors=True)
    assert found.layer_errors is not None and len(found.layer_errors.rows) > 3
    assert not any("layers not compared" in warning for warning in found.warnings)


def test_it_is_not_timed_and_that_is_said(files: tuple[pathlib.Path, pathlib.Path]) -> None:
    found = dfmpc_onnx.compare([files[1]], files[0])
    assert found.files[0].ms is None
    assert "not timed" in found.warnings[-1] and "holds nodes of QONNX" in found.warnings[-1]


def test_a_page_says_why_it_has_no_causes(files: tuple[pathlib.Path, pathlib.Path]) -> None:
    pytest.importorskip("jinja2")
    page = dfmpc_onnx.write_report(*files)
    assert "it has no nodes of QONNX" in page and "quantizes weights alone" not in page
    assert "not a registered" not in page


def test_causes_are_not_looked_for_in_it(files: tuple[pathlib.Path, pathlib.Path]) -> None:
    with pytest.raises(ModelError, match=r"holds nodes of QONNX, .* made with the same options for the target cpu"):
        dfmpc_onnx.diagnose(*files, blame=True)


def test_it_is_quantized_already(files: tuple[pathlib.Path, pathlib.Path]) -> None:
    with pytest.raises(AlreadyQuantized, match="in nodes of QONNX; give the float model"):
        dfmpc_onnx.quantize(files[1])
