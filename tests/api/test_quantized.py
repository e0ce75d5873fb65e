"""What quantize() returns, in a script and in a notebook."""

from __future__ import annotations

import pathlib

import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx import errors
from tests.graphs import chain


@pytest.fixture(scope="module")
def made() -> dfmpc_onnx.Quantized:
    return dfmpc_onnx.quantize(chain(), recipe="int8", preprocess="unit")


def test_it_is_saved_whole_and_over_no_other_kind_of_file(made: dfmpc_onnx.Quantized, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.onnx"
    assert made.save(out) == out.stat().st_size
    assert onnx.load(out) == made.model
    assert made.save(str(out)) == out.stat().st_size
    out.write_text("notes")
    with pytest.raises(dfmpc_onnx.OptionError, match="is no ONNX model"):
        made.save(out)
    assert made.save(out, force=True) == out.stat().st_size


def test_it_is_not_saved_over_its_float_model(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(chain(), path)
    held = path.read_bytes()
    with pytest.raises(errors.OptionError, match="is the input itself; choose another output"):
        dfmpc_onnx.quantize(path, threads=1).save(path)
    assert path.read_bytes() == held


def test_layers_are_rows_of_plain_values(made: dfmpc_onnx.Quantized) -> None:
    assert [row["name"] for row in made.layers] == ["conv1", "conv2", "conv3", "gemm1"]
    assert {type(value) for row in made.layers for value in row.values()} <= {str, int, float, bool, type(None)}
    pandas = pytest.importorskip("pandas")
    assert list(pandas.DataFrame(made.layers)["bits"]) == [8, 8, 8, 8]


def test_the_report_is_a_dictionary(made: dfmpc_onnx.Quantized) -> None:
    found = made.to_dict()
    assert found["bytes"] == made.report.bytes and found["layers"] == [*made.layers]


def test_what_a_notebook_shows_is_short(made: dfmpc_onnx.Quantized, tmp_path: pathlib.Path) -> None:
    verified = dfmpc_onnx.verify(chain(), made.model)
    planned = dfmpc_onnx.plan(chain(), recipe="mixed", preprocess="unit", mean_bits=6)
    inspected = dfmpc_onnx.inspect(chain())
    for found in (made, made.report, verified, planned, inspected):
        assert len(repr(found)) < 200 and "\n" not in repr(found)
    assert repr(made).startswith("Quantized(recipe int8, 4 layers, ")
    page = made._repr_html_()
    assert page.count("<tr>") >= 2 and len(page) < 2000


def test_names_from_a_model_are_data_in_a_notebook_too() -> None:
    model = chain()
    model.graph.node[0].name = "<script>x</script>"
    found = dfmpc_onnx.quantize(model, recipe="paper", preprocess="unit", check=False)
    assert "<script>" not in found._repr_html_() and "&lt;script&gt;" in found._repr_html_()


def test_the_package_states_its_version_and_exports_every_error_of_a_user() -> None:
    assert dfmpc_onnx.__version__ == made_version()
    tree = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.DfmpcError)
    }
    assert tree <= set(dfmpc_onnx.__all__)
    assert all(getattr(dfmpc_onnx, name) is getattr(errors, name) for name in tree)


def made_version() -> str:
    import importlib.metadata

    return importlib.metadata.version("dfmpc-onnx")
