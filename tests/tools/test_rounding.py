"""What plain rounding leaves of a network, which results are measured by."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tools.fuzz.rounding import rounded

FUNCTION = '<opset_import: ["": 13], domain: "own"> Layer (a, b) => (c) { c = Conv (a, b) }'


@pytest.mark.parametrize("call", ["Conv", "own.Layer"])
def test_the_weight_of_a_layer_is_rounded_wherever_the_layer_stands(call):
    """A layer in a function of the model's kept its weight, so all that rounding costs was taken for a defect."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13, "own": 1]> net (float[1, 1, 2, 2] x) => (float[1, 2, 2, 2] y) '
        f"<float[2, 1, 1, 2] w = {{1.0, 0.3, 0.5, 0.5}}> {{ y = {call} (x, w) }} {FUNCTION}"
    )
    (tensor,) = rounded(model).graph.initializer
    np.testing.assert_allclose(numpy_helper.to_array(tensor).reshape(-1), [1, 38 / 127, 0.5, 0.5], rtol=1e-6)
