"""What is measured of suspects in networks whose faults are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

import dfmpc_onnx
from dfmpc_onnx.evaluation.diagnosis.diagnose import diagnose_networks
from dfmpc_onnx.evaluation.diagnosis.roundings import roundings
from dfmpc_onnx.evaluation.diagnosis.schema import Diagnosis
from dfmpc_onnx.inputs.files import Images
from tests import broken, graphs


def images(count: int = 6) -> Images:
    x = np.random.default_rng(3).standard_normal((count, 3, 8, 8)).astype(np.float32)
    return Images(x.clip(-2, 2), None, f"{count} images")


def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    return dfmpc_onnx.quantize(model, None, "int8", preprocess="imagenet", check=False).model


def diagnosed(model: onnx.ModelProto, quantized: onnx.ModelProto) -> Diagnosis:
    outputs = [value.name for value in model.graph.output]
    return diagnose_networks(model, quantized, images(), outputs, blame=True)


def rounded(model: onnx.ModelProto) -> Sequence[str]:
    names = [name for node in model.graph.node for name in node.input]
    return [found.tensor for found in roundings(model, set(names))]


def test_a_rounding_knows_its_range() -> None:
    model = int8(graphs.chain())
    first = roundings(model, {"x"})[0]
    assert first.codes == 256 and first.ends == ("a0",)
    assert first.low < -1.5 < 1.5 < first.high and first.step == (first.high - first.low) / 255


def test_every_layer_and_every_rounded_activation_is_restored_once() -> None:
    model = graphs.residual()
    made = int8(model)
    found = diagnosed(model, made)
    weights = [suspect.layer for suspect in found.suspects if suspect.kind == "weights"]
    activations = [suspect.tensor for suspect in found.suspects if suspect.kind == "activation"]
    assert sorted(weights) == sorted(node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm"))
    assert len(set(activations)) == len(activations) and "x" in activations
    assert set(activations) <= {*rounded(made), "x"}
    assert all(suspect.gain is not None and suspect.damage is not None for suspect in found.suspects)
    assert [s.gain for s in found.suspects] == sorted((s.gain or 0.0 for s in found.suspects), reverse=True)


def test_a_broken_layer_restored_gives_back_what_it_took() -> None:
    model = graphs.residual()
    made = int8(model)
    healthy = diagnosed(model, made)
    layer = [node.name for node in model.graph.node if node.op_type == "Conv"][1]
    found = diagnosed(model, broken.with_scaled_channel(made, layer, 1, 50.0))
    first = found.suspects[0]
    assert (first.kind, first.layer) == ("weights", layer) and first.cause is not None
    assert first.cause.code == "channel-scaled"
    assert found.damage > 10 * healthy.damage
    assert first.damage is not None and first.damage < 5 * healthy.damage


def cause_of(model: onnx.ModelProto, tensor: str, low: float, high: float) -> str:
    """The cause of the one activation that is rounded."""
    found = diagnosed(model, broken.with_rounding(model, tensor, low, high))
    (suspect,) = (suspect for suspect in found.suspects if suspect.kind == "activation")
    assert suspect.tensor == tensor and suspect.cause is not None
    return suspect.cause.code


def test_a_concat_of_unequal_parts_is_measured_part_by_part() -> None:
    net = graphs.Net(("n", 3, 8, 8))
    small = net.node("Relu", net.conv("x", 4))
    large = net.node("Mul", small, net.weight("fifty", np.float32(50.0)))
    joined = net.node("Concat", small, large, axis=1)
    net.channels[joined] = 8
    assert cause_of(net.model(net.conv(joined, 2, kernel=1)), joined, 0.0, 300.0) == "unequal-concat"


def test_a_negative_range_that_a_relu_cuts_off_is_seen_in_front_of_it() -> None:
    net = graphs.Net(("n", 3, 8, 8))
    low = net.node("Sub", net.conv("x", 4), net.weight("ten", np.float32(10.0)))
    assert cause_of(net.model(net.node("Relu", low)), low, -16.0, 0.5) == "cut-negative-range"


def test_channels_of_unlike_reach_are_seen_in_an_activation() -> None:
    net = graphs.Net(("n", 3, 8, 8))
    factors = np.array([1, 1, 1, 200], np.float32).reshape(1, 4, 1, 1)
    wide = net.node("Mul", net.conv("x", 4), net.weight("factors", factors))
    assert cause_of(net.model(net.conv(wide, 2, kernel=1)), wide, -1000.0, 1000.0) == "unlike-channels"


def test_data_is_plain_and_frozen() -> None:
    model = graphs.chain()
    found = diagnosed(model, int8(model))
    plain = found.to_dict()
    assert plain["suspects"][0]["layer"] == found.suspects[0].layer
    assert plain["layers"]["rows"][0]["tensor"] == found.layers.rows[0].tensor
    assert found.culprit is None and repr(found).endswith("nothing stands out)")


def test_networks_of_half_precision_and_with_bodies_are_diagnosed_too() -> None:
    half = graphs.chain()
    for tensor in half.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for model in (half, graphs.nested()):
        found = dfmpc_onnx.diagnose(model, int8(model), blame=True, count=2)
        assert found.suspects and found.layers.unmatched == ()
