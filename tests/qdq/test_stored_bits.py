"""What a file's graph tells of the bits that its weights take."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.qdq.stored_bits import stored_layers
from tests import graphs


def stored(model: onnx.ModelProto) -> dict[str, tuple[tuple[int, ...], float, bool]]:
    return {layer.name: (layer.shape, layer.bits, layer.coded) for layer in stored_layers(model)}


def test_a_float_network_holds_no_codes():
    assert stored(graphs.chain())["conv2"] == ((8, 8, 3, 3), 32, False)
    assert not any(coded for _, _, coded in stored(graphs.chain()).values())


@pytest.mark.parametrize("target", ["cpu", "portable", "tensorrt", "cuda"])
@pytest.mark.parametrize("weights", ["2/6", "ternary/7", "3/5", "8"])
def test_bits_are_those_that_quantize_reports(weights: str, target: str) -> None:
    net = graphs.Net()
    x = "x"
    for _ in range(4):
        x = net.block(x, 32)
    model = net.model(net.tail(x))
    made = dfmpc_onnx.quantize(model, None, "per-channel", weights=weights, target=target, check=False)
    found = stored(made.model)
    assert {name: bits for name, (_, bits, _) in found.items()} == {
        layer.name: pytest.approx(layer.stored_bits, abs=0.051) for layer in made.report.layers
    }
    shapes = {layer.name: layer.shape for layer in dfmpc_onnx.inspect(model).layers}
    assert {name: shape for name, (shape, _, _) in found.items()} == shapes


def test_layers_that_stay_float_stand_beside_those_in_codes():
    made = dfmpc_onnx.quantize(graphs.chain(), None, "per-channel", layers=["conv2=float"], check=False).model
    found = stored(made)
    assert found["conv2"] == ((8, 8, 3, 3), 32, False)
    assert all(coded for name, (_, _, coded) in found.items() if name != "conv2")


def nodes_model(*nodes: onnx.NodeProto, **tensors: np.ndarray) -> onnx.ModelProto:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    held = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    return helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:], held))


def test_operators_that_take_codes_are_layers_too():
    node = helper.make_node("QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z"], ["y"], "layer")
    weight = np.zeros((4, 3, 1, 1), np.int8)
    model = nodes_model(node, w=weight, s=np.float32(1), z=np.int8(0))
    assert stored(model) == {"layer": ((4, 3, 1, 1), 8, True)}


def test_what_is_computed_from_the_input_is_no_weight():
    product = helper.make_node("MatMul", ["x", "x"], ["y"], "product")
    assert stored(nodes_model(product)) == {}


def test_a_weight_that_is_computed_has_not_the_shape_of_its_factor():
    """Weight normalization, g v / |v|, of which g alone is stored as it is read."""
    nodes = [
        helper.make_node("Div", ["v", "norm"], ["direction"]),
        helper.make_node("Mul", ["direction", "g"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"], "layer"),
    ]
    ones = np.ones((4, 1, 1, 1), np.float32)
    assert stored(nodes_model(*nodes, v=np.ones((4, 3, 3, 3), np.float32), norm=ones, g=ones)) == {}


def test_a_weight_of_countless_sums_ends_at_once():
    """Each Add reads the one before it by two ways: 2**60 paths."""
    nodes = []
    for i in range(60):
        nodes += [helper.make_node("Cast", [f"t{i}"], [f"{side}{i}"], to=TensorProto.FLOAT) for side in "ab"]
        nodes.append(helper.make_node("Add", [f"a{i}", f"b{i}"], [f"t{i + 1}"]))
    nodes.append(helper.make_node("MatMul", ["x", "t60"], ["y"], "layer"))
    assert stored(nodes_model(*nodes, t0=np.zeros((2, 2), np.float32))) == {}


def test_a_scale_may_stand_in_front_of_the_codes() -> None:
    codes = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.int8), "codes")
    scale = numpy_helper.from_array(np.ones((4, 1, 1, 1), np.float32), "scale")
    nodes = [
        helper.make_node("Cast", ["codes"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "cast"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"], "layer"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [codes, scale]))
    (layer,) = stored_layers(model)
    assert layer.shape == (4, 3, 3, 3) and layer.bits == 8
