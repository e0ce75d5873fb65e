import numpy as np
import pytest

from dfmpc_onnx.graph import Namer
from dfmpc_onnx.numerics.granularity import PerAxis, PerTensor
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.numerics.uniform import dorefa, symmetric
from dfmpc_onnx.storage import float_form, integer_form, integer_scale, oldest_runtime, opset_for, stored_bits
from tests import graphs

WEIGHT = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)


def chain(form, weight, opset, *axis):
    graph = graphs.gs.Graph(opset=opset)
    return [node.op for node in form(weight, *axis, "w", Namer(graph), opset).nodes]


@pytest.mark.parametrize(("bits", "stored", "opset", "runtime"), [
    (2, 2, 25, "1.24"), (3, 4, 21, "1.20"), (4, 4, 21, "1.20"), (5, 8, 13, "1.16"), (8, 8, 13, "1.16"),
])  # fmt: skip
def test_what_each_width_costs_and_needs(bits, stored, opset, runtime):
    weight = symmetric(WEIGHT, bits, PerAxis(0))
    assert stored_bits(weight) == stored
    assert opset_for(weight) == opset
    assert oldest_runtime(stored) == runtime


def with_zero_point(values):
    zero = np.array(values, np.float32).reshape(-1, 1, 1, 1)
    return QuantizedWeight(np.zeros((4, 3, 1, 1), np.int8), np.ones_like(zero), zero, 4)


@pytest.mark.parametrize(
    ("weight", "opset", "floats", "integers"),
    [
        (symmetric(WEIGHT, 8, PerAxis(0)), 13, ["Cast", "Mul"], ["DequantizeLinear"]),
        (symmetric(WEIGHT, 4, PerAxis(0)), 21, ["Cast", "Mul"], ["Cast", "DequantizeLinear"]),
        (with_zero_point([1, -2, 0, 3]), 21, ["Cast", "Sub", "Mul"], ["Cast", "Sub", "DequantizeLinear"]),
        (with_zero_point([1, -2, 0, 3]), 13, ["Cast", "Sub", "Mul"], ["Cast", "Sub", "Cast", "DequantizeLinear"]),
        (
            dorefa(WEIGHT, 3, PerAxis(0)),
            21,
            ["Cast", "Sub", "Mul"],
            ["Cast", "Add", "Sub", "Cast", "DequantizeLinear"],
        ),
    ],
)
def test_the_nodes_that_decode(weight, opset, floats, integers):
    assert chain(float_form, weight, opset) == floats
    assert chain(integer_form, weight, opset, 0) == integers


def test_one_scale_a_tensor_is_a_scalar_without_axis():
    graph = graphs.gs.Graph(opset=21)
    node = integer_form(symmetric(WEIGHT, 8, PerTensor()), 0, "w", Namer(graph), 21).nodes[-1]
    assert node.inputs[1].values.shape == () and "axis" not in node.attrs


@pytest.mark.parametrize(("grid", "share"), [(symmetric, 1.0), (dorefa, 0.5)])
def test_the_scale_of_the_integer_form_halves_for_half_steps(grid, share):
    weight = grid(WEIGHT, 4, PerAxis(0))
    assert np.array_equal(integer_scale(weight), weight.scale.reshape(-1) * np.float32(share))
