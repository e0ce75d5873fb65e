"""compare(): several quantized files of one network side by side."""

from __future__ import annotations

import pathlib

import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.api.report_page import bits_shown
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.evaluation.weight_grids import WeightGrid
from dfmpc_onnx.qdq.stored_bits import StoredLayer
from tests import graphs


@pytest.fixture(scope="module")
def files() -> dict[str, onnx.ModelProto]:
    made = {
        bits: dfmpc_onnx.quantize(graphs.chain(), None, "closed-form", weights=bits, preprocess="unit").model
        for bits in ("8", "3")
    }
    # A file that another beats in both: as large, or larger, and as far from the float network as the coarsest.
    worse = onnx.ModelProto()
    worse.CopyFrom(made["3"])
    worse.doc_string = "x" * made["8"].ByteSize()
    return {"float": graphs.chain(), **made, "worse": worse}


@pytest.fixture(scope="module")
def found(files: dict[str, onnx.ModelProto]) -> dfmpc_onnx.Comparison:
    return dfmpc_onnx.compare([files["8"], files["3"], files["worse"]], files["float"], count=16, threads=1)


def test_each_file_has_its_figures(found: dfmpc_onnx.Comparison, files: dict[str, onnx.ModelProto]) -> None:
    first, second, _ = found.files
    assert [file.letter for file in found.files] == ["A", "B", "C"]
    assert first.bytes == files["8"].ByteSize() and first.bytes > second.bytes
    assert first.fidelity.sqnr_db > second.fidelity.sqnr_db
    assert first.verdict is not None and first.ms is not None and found.float_ms is not None
    assert set(first.bits.values()) == {"8"} and second.bits["conv3"] == "3"
    assert first.fidelity.origin == found.origin


def test_the_front_holds_what_nothing_beats(found: dfmpc_onnx.Comparison) -> None:
    assert found.front == ("A", "B")


def test_figures_are_those_of_verify(found: dfmpc_onnx.Comparison, files: dict[str, onnx.ModelProto]) -> None:
    alone = dfmpc_onnx.verify(files["float"], files["8"], count=16)
    assert alone.providers[0].fidelity == found.files[0].fidelity
    assert alone.verdict == found.files[0].verdict


def test_what_all_warn_of_is_said_once(found: dfmpc_onnx.Comparison) -> None:
    assert len(found.warnings) == len(set(found.warnings))


def test_the_page_has_all_files(files: dict[str, onnx.ModelProto], tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.html"
    dfmpc_onnx.compare([files["8"], files["3"]], files["float"], page, count=8)
    text = page.read_text(encoding="utf-8")
    assert "2 quantizations of" in text and text.count("<svg") == 1


@pytest.mark.parametrize("count", [0, 27])
def test_no_file_and_too_many_are_refused(count: int, files: dict[str, onnx.ModelProto]) -> None:
    with pytest.raises(OptionError, match="give 1 to 26"):
        dfmpc_onnx.compare([files["8"]] * count, files["float"])


def test_one_model_in_place_of_a_list_is_named(files: dict[str, onnx.ModelProto]) -> None:
    with pytest.raises(OptionError, match="files: of type ModelProto; give a list of models"):
        dfmpc_onnx.compare(files["8"], files["float"])


def test_bits_of_a_codebook_are_those_that_its_indices_take() -> None:
    stored = StoredLayer("conv", "Conv", (64, 64, 3, 3), 2.0, True, 73728)
    assert bits_shown(stored, WeightGrid("conv", 7, (-50.0, 0.0, 50.0), (0.3, 0.4, 0.3))) == ("2", "low")
    few = StoredLayer("conv", "Conv", (4, 4, 3, 3), 8.0, True, 1152)  # whole bytes, for few weights
    assert bits_shown(few, WeightGrid("conv", 4, (-7.0, 7.0), (0.5, 0.5))) == ("4", "high")
    assert bits_shown(few, WeightGrid("conv", 2, (-1.0, 0.0, 1.0), (0.3, 0.4, 0.3))) == ("ternary", "low")
    assert bits_shown(few, None) == ("8", "8-bit")
