import importlib.util

import numpy as np
import pytest

from dfmpc_onnx import runtime
from dfmpc_onnx.errors import ModelError, OptionError, RuntimeUnavailable
from dfmpc_onnx.runtime import Session, input_shape
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


def test_without_onnxruntime_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'dfmpc-onnx\[cpu\]'"):
        runtime.require()


def session(shape, dtype=None):
    net = graphs.Net(shape)
    model = net.model(net.relu("x"))
    if dtype:
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.elem_type = dtype
    return Session(model)


@pytest.mark.parametrize(
    ("shape", "given", "want"),
    [
        ((1, 3, 32, 32), {}, (1, 3, 32, 32)),
        (("n", 3, 32, 32), {}, (1, 3, 32, 32)),
        (("n", 3, "h", "w"), {}, (1, 3, 224, 224)),
        (("n", 3, "h", "w"), {"x": (2, 3, 64, 48)}, (2, 3, 64, 48)),
        ((8, 4), {}, (8, 4)),
    ],
)
def test_dynamic_dimensions_are_made_concrete(shape, given, want):
    assert input_shape(session(shape), given)[:2] == ("x", want)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"y": (1, 3, 32, 32)}, "no such input; the model has x"),
        ({"x": (1, 3)}, "2 dimensions given, it has 4"),
        ({"x": (1, 3, 64, 64)}, "does not fit the model's"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(given, said):
    with pytest.raises(OptionError, match=said):
        input_shape(session((1, 3, 32, 32)), given)


def test_only_one_float_input_can_be_compared():
    with pytest.raises(ModelError, match=r"is tensor\(double\), not float"):
        input_shape(session((1, 4), graphs.TensorProto.DOUBLE), {})
    model = graphs.chain()
    model.graph.input.append(graphs.helper.make_tensor_value_info("z", graphs.TensorProto.FLOAT, [1]))
    with pytest.raises(ModelError, match="it has 2 inputs"):
        input_shape(Session(model), {})
