"""What an operator does, as far as its attributes and constants tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.query import has_input, input_constant
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.moments import normal_cdf

# What squeezes scores between 0 and 1 hides from one side of the scale what happens on the other.
SQUASHES = frozenset({"Sigmoid", "HardSigmoid", "Softmax", "LogSoftmax", "Tanh"})


def is_standard(node: gs.Node) -> bool:
    """Whether a node's operator is of the standard domain: one of the same name elsewhere may do anything."""
    return node.domain in (None, "", "ai.onnx")


def is_weighted(node: gs.Node) -> bool:
    """Whether a node is of an operator whose second operand is a weight."""
    return node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul") and is_standard(node)


def batch_norm_parameters(node: gs.Node) -> BatchNormParameters | None:
    """Gamma, beta, mean and standard deviation of a BatchNormalization; None where they are not constants.

    None too in training mode, where it does not use them, and for an operator of that name in another domain.
    """
    if node.attrs.get("training_mode", 0) or len(node.outputs) > 1 or not is_standard(node):
        return None
    values = [input_constant(node, i) for i in range(1, 5)]
    if any(v is None for v in values) or len(values) != 4:
        return None
    gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in values)
    epsilon = norm_epsilon(node)
    return BatchNormParameters(gamma, beta, mean, np.sqrt(np.maximum(variance, 0.0) + epsilon), epsilon)


def norm_epsilon(node: gs.Node) -> float:
    """What a BatchNormalization adds to the variance before it takes the root."""
    return float(node.attrs.get("epsilon", 1e-5))


def clip_bounds(node: gs.Node) -> tuple[float, float]:
    """The bounds of a Relu, or of a Clip whose bounds are constants; raises Unknown."""
    if node.op == "Relu":
        return 0.0, math.inf
    bounds = []
    for index, open_end in ((1, -math.inf), (2, math.inf)):
        if not has_input(node, index):
            bounds.append(open_end)
            continue
        value = input_constant(node, index)
        if value is None:
            raise Unknown("its bounds are computed")
        bounds.append(float(value.reshape(-1)[0]))
    return bounds[0], bounds[1]


def flattens_each(node: gs.Node) -> bool:
    """Whether a Flatten makes one row of each image."""
    shape, axis = node.inputs[0].shape, int(node.attrs.get("axis", 1))
    return axis == 1 or (shape is not None and axis == 1 - len(shape))


def averages_space(node: gs.Node) -> bool:
    """Whether a ReduceMean averages over height and width alone."""
    axes = node.attrs.get("axes")
    if axes is None and has_input(node, 1):
        axes = input_constant(node, 1)
    return axes is not None and {int(a) for a in axes} <= {2, 3, 4, -1, -2}


def _sigmoid(x: Float) -> Float:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


# Each with the bounds of its values.
FUNCTIONS: Mapping[str, tuple[Callable[[Float], Float], float, float]] = {
    "Sigmoid": (_sigmoid, 0.0, 1.0),
    "Tanh": (np.tanh, -1.0, 1.0),
    "HardSwish": (lambda x: x * np.clip(x / 6 + 0.5, 0, 1), -0.375, math.inf),
    "Gelu": (lambda x: x * normal_cdf(x), -0.17, math.inf),
    "Elu": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), -1.0, math.inf),
    "Softplus": (lambda x: np.logaddexp(0, x), 0.0, math.inf),
}


def activation(node: gs.Node) -> Callable[[Float], Float] | None:
    """As `elementwise`, and a Relu or a Clip of constant bounds."""
    if node.op not in ("Relu", "Clip"):
        return elementwise(node)
    try:
        low, high = clip_bounds(node)
    except Unknown:
        return None
    return lambda x: np.clip(x, low, high)


def elementwise(node: gs.Node) -> Callable[[Float], Float] | None:
    """The function of a smooth or piecewise activation on ``[channels, ...]``; None for other operators."""
    if not is_standard(node):
        return None
    if node.op == "Elu" and node.attrs.get("alpha", 1.0) != 1.0:
        return None  # the table's is that of alpha 1
    if node.op in FUNCTIONS:
        return FUNCTIONS[node.op][0]
    if node.op == "HardSigmoid":
        alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
        return lambda x: np.clip(alpha * x + beta, 0.0, 1.0)
    if node.op == "LeakyRelu":
        slope = float(node.attrs.get("alpha", 0.01))
        return lambda x: np.where(x > 0, x, slope * x)
    return None
