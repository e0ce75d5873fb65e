"""`--activations 4` and `auto` from a model to a file, and what reads the file."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

import dfmpc_onnx
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.evaluation.activation_ranges import activation_ranges
from dfmpc_onnx.evaluation.fidelity import Images
from dfmpc_onnx.qdq.activation_grids import rounds_to_4_bits
from dfmpc_onnx.qdq.code_formats import PLAIN, oldest_runtime
from tests import graphs

OPTIONS = {"preprocess": "raw", "check": False}


def codes_of(model):
    """The type that each quantized tensor is rounded to, in order."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return [TensorProto.DataType.Name(kinds[n.input[2]]) for n in model.graph.node if n.op_type == "QuantizeLinear"]


@pytest.fixture(scope="module")
def made():
    return dfmpc_onnx.quantize(graphs.residual(), weights="4", activations=4, **OPTIONS)


def test_inner_layers_read_4_bits_and_the_file_computes_what_onnx_says(made):
    assert codes_of(made.model) == ["UINT8", "UINT4", "UINT4", "UINT8"]
    assert rounds_to_4_bits(made.model)
    onnx.checker.check_model(made.model, full_check=True)
    x = graphs.input_of(graphs.residual())
    session = onnxruntime.InferenceSession(made.model.SerializeToString(), providers=["CPUExecutionProvider"])
    want = ReferenceEvaluator(made.model).run(None, {"x": x})
    assert graphs.relative(session.run(None, {"x": x}), want) < 1e-4
    assert 0.01 < graphs.relative(want, graphs.run(graphs.residual(), x)) < 0.5


def test_the_report_says_that_onnxruntime_gains_nothing_and_which_one_loads_it(made):
    report = made.report
    assert report.activations == "4" and not any(layer.integer for layer in report.layers)
    assert any("onnxruntime has no kernels for 4-bit activations" in warning for warning in report.warnings)
    assert report.oldest_onnxruntime == "1.23"  # which casts INT4, as weights are stored here
    assert oldest_runtime([PLAIN], 21, few_bits=True) == "1.19" and oldest_runtime([PLAIN], 21) == "1.18"


def test_8_bits_are_what_they_were():
    plain = dfmpc_onnx.quantize(graphs.residual(), weights="4", **OPTIONS)
    assert set(codes_of(plain.model)) == {"UINT8"} and not rounds_to_4_bits(plain.model)
    assert not any("kernels" in warning for warning in plain.report.warnings)


def test_what_reads_such_a_file(made, tmp_path):
    path = tmp_path / "out.onnx"
    onnx.save(made.model, path)
    ranges = activation_ranges(made.model, "out", Images(graphs.input_of(graphs.residual(), 2), None, "random"))
    assert len(ranges) == 4 and all(row.high > 0 and row.used > 0.2 for row in ranges[1:])
    layers = dfmpc_onnx.inspect(path).layers
    assert {layer.stored_bits for layer in layers} <= {4.0, 8.0}
    assert not any(layer.integer or layer.pair_sum for layer in layers)
    assert np.isfinite(dfmpc_onnx.verify(graphs.residual(), path).providers[0].fidelity.sqnr_db)


@pytest.mark.parametrize("recipe", ["closed-form", "per-channel"])
def test_recipes_that_make_no_images_take_grids_from_moments(recipe):
    made = dfmpc_onnx.quantize(graphs.residual(), recipe=recipe, weights="8", activations="4", **OPTIONS)
    assert codes_of(made.model) == ["UINT8", "UINT4", "UINT4", "UINT8"]
    x = graphs.input_of(graphs.residual(), 4)
    assert graphs.relative(graphs.run(made.model, x), graphs.run(graphs.residual(), x)) < 0.5


def test_auto_has_few_bits_where_they_cost_little_and_says_how_many():
    made = dfmpc_onnx.quantize(graphs.residual(), weights="8", activations="auto", **OPTIONS)
    few = codes_of(made.model).count("UINT4")
    (note,) = [n for row in made.report.passes for n in row.result.notes if "tensors have few bits" in n]
    assert note.startswith(f"{few} of 2 tensors")
    forced = dfmpc_onnx.quantize(
        graphs.residual(), weights="8", activations="auto", layers={"conv2": "8/4", "conv3": "8/8"}, **OPTIONS
    )
    assert codes_of(forced.model) == ["UINT8", "UINT4", "UINT8", "UINT8"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activations": 4, "target": "tensorrt"}, "activations 4: tensorrt takes 8 bits; give one of these, or none"),
        ({"activations": 4, "target": "portable"}, "activations 4: portable takes 8 bits"),
        ({"activations": "auto", "target": "vitisai"}, "activations auto: vitisai takes 8 bits"),
        ({"activations": 3}, "activations 3: cpu takes 4 or 8 bits"),
        (
            {"activations": 16, "target": "qonnx"},
            "activations 16: qonnx takes 2, 3, 4, 5, 6, 7 or 8 bits; give one of these",
        ),
        (
            {"activations": 3, "target": "qonnx", "layers": ["conv2=4/4"]},
            "layer conv2=4/4: activations have 3 bits; a layer reads these, /3, or /8",
        ),
        ({"activations": 9}, "activations '9': not understood; give 4, 8, 16, auto or none, or for qonnx 2 to 8"),
        ({"activations": 4, "reduce_range": True}, "reduce-range: layers compute in float"),
        ({"activations": 4, "max_latency": "80%"}, "max-latency: layers that read few bits compute in float"),
        (
            {"layers": {"conv2": "4/4"}},
            "layer conv2=4/4: activations have 8 bits; give --activations 4 or auto with it",
        ),
        ({"activations": "auto", "recipe": "closed-form"}, "recipe closed-form runs no network"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, message):
    with pytest.raises(OptionError, match=message.replace("'", ".")):
        dfmpc_onnx.quantize(graphs.residual(), **{**OPTIONS, **options})


def test_a_tensor_that_inner_layers_and_sums_read_is_rounded_for_the_layers_alone(made):
    readers = {name: [n.op_type for n in made.model.graph.node if name in n.input] for name in ("relu1",)}
    assert sorted(readers["relu1"]) == ["Add", "Max"]


def test_grids_hold_0(made):
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in made.model.graph.initializer}
    for node in made.model.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = (scales[name] for name in node.input[1:])
            assert scale.ndim == zero.ndim == 0 and scale > 0
            assert np.float32(scale) * (int(zero) - int(zero)) == 0
