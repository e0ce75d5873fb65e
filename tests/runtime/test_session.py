import sys

import numpy as np
import pytest

from dfmpc_onnx.errors import ModelError, RuntimeUnavailable
from dfmpc_onnx.runtime import session as runtime
from dfmpc_onnx.runtime.session import Session
from tests import graphs


def test_a_session_runs_a_proto_bytes_or_a_file(tmp_path):
    model = graphs.chain()
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    x = graphs.input_of(model)
    sources = (model, model.SerializeToString(), tmp_path / "m.onnx", str(tmp_path / "m.onnx"))
    results = [Session(source).run({"x": x})[0] for source in sources]
    assert all(np.array_equal(results[0], r) for r in results)


def test_inputs_and_outputs_are_described():
    net = graphs.Net(("batch", 3, 8, 8))
    session = Session(net.model(net.conv("x", 4)))
    assert session.inputs == [("x", ["batch", 3, 8, 8], "tensor(float)")]
    assert session.outputs == ["conv1"]


@pytest.mark.parametrize("name", ["CPU", "cpu", "CPUExecutionProvider"])
def test_a_provider_goes_by_its_short_name(name):
    assert Session(graphs.chain(), name).provider == "CPUExecutionProvider"


def test_a_provider_that_is_not_there_lists_those_that_are():
    with pytest.raises(RuntimeUnavailable, match=r"provider 'Abacus' is not in this onnxruntime; it has .*CPU"):
        Session(graphs.chain(), "Abacus")


def test_a_model_that_does_not_load_or_run_is_named_in_one_line():
    with pytest.raises(ModelError, match=r"mine: onnxruntime .* cannot load it") as caught:
        Session(b"nonsense", label="mine")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="mine: onnxruntime cannot run it"):
        Session(graphs.chain(), label="mine").run({"x": np.zeros((1, 5, 8, 8), np.float32)})


def test_a_model_that_does_not_load_leaves_standard_output_alone(capfd):
    model = graphs.chain().SerializeToString().replace(b"Gemm", b"Ge\xf4m")  # its message is not UTF-8
    with pytest.raises(ModelError, match="cannot load it"):
        Session(model)
    assert capfd.readouterr().out == ""


def test_without_onnxruntime_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if not installed
    with pytest.raises(RuntimeUnavailable, match=r"not installed; pip install onnxruntime"):
        runtime.require()
    assert runtime.version() == "none"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "raise ImportError('libcudart.so.12: cannot open shared object file\\nmore')",
            r"imported \(libcudart.so.12: ",
        ),
        ("import a_module_that_it_needs", r"No module named 'a_module_that_it_needs'"),
        ("raise OSError('bad image')", r"\(bad image\)"),
        ("", "installed but empty"),
    ],
)
def test_a_broken_onnxruntime_is_no_defect_of_ours(monkeypatch, tmp_path, source, said):
    (tmp_path / "onnxruntime.py").write_text(source)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeUnavailable, match=said) as caught:
        runtime.Session(graphs.chain())
    assert "pip install onnxruntime" in str(caught.value) and "\n" not in str(caught.value)


def test_a_lack_of_memory_is_said_in_so_many_words():
    """onnxruntime says it at the end of a line of which only the beginning is printed."""
    said = "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node." + " " * 200
    said += "onnxruntime/core/framework/bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 3"
    assert runtime._cause(RuntimeError(said)) == "it could not allocate the memory for it"
