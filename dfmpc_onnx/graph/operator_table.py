"""What the operators of the standard domain mean to passes: the entries that the registry starts with.

Each stands under the first opset of the meaning that is written here. Older forms, as of a Clip whose bounds are
attributes, have no entry: nothing is known of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.query import has_input, input_constant
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.moments import normal_cdf

Function = Callable[[Float], Float]


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What passes ask of an operator; the defaults say that nothing is known.

    function: gives for a node its function of one value, on ``[channels, ...]`` float64, or None where attributes make
    it another one. bounds: the least and the greatest value of it. clip: gives for a node the bounds of
    ``min(max(x, low), high)``, where it computes that; raises Unknown where they are computed. rectifies: it cuts off,
    or bends, one side of a distribution. homogeneous: ``f(a x) = a f(x)`` for a > 0. moves: whether a node's output
    holds nothing but values of its first input, and so has its scale. own_scale: it has an integer kernel whose output
    has a scale of its own. pools: it chooses among values of one channel, or averages them. squashes: it squeezes
    scores, which hides from one side of the scale what happens on the other. weight: which input is a trained weight.
    """

    function: Callable[[gs.Node], Function | None] | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    clip: Callable[[gs.Node], tuple[float, float]] | None = None
    rectifies: bool = False
    homogeneous: bool = False
    moves: Callable[[gs.Node], bool] | None = None
    own_scale: bool = False
    pools: Literal["chooses", "averages"] | None = None
    squashes: bool = False
    weight: int | None = None


NOTHING_KNOWN = Meaning()


def always(node: gs.Node) -> bool:
    """For `Meaning.moves` of an operator that does so whatever its attributes are."""
    return True


def pads_with_zeros(node: gs.Node) -> bool:
    """Whether a Pad adds nothing but zeros, which any scale holds exactly."""
    value = input_constant(node, 2)
    zero = not has_input(node, 2) or (value is not None and not np.any(value))
    return bool(node.attrs.get("mode", "constant") == "constant" and zero)


def stays_within(node: gs.Node) -> bool:
    """Whether a Resize makes nothing beyond what it reads: a cubic one overshoots, a fill may be anything."""
    fills = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    return node.attrs.get("mode") != "cubic" and not (fills and node.attrs.get("extrapolation_value", 0.0))


def _for_every_node(function: Function) -> Callable[[gs.Node], Function]:
    """The same function for every node."""
    return lambda node: function


def _sigmoid(x: Float) -> Float:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _hard_sigmoid(node: gs.Node) -> Function:
    alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
    return lambda x: np.clip(alpha * x + beta, 0.0, 1.0)


def _leaky(node: gs.Node) -> Function:
    slope = float(node.attrs.get("alpha", 0.01))
    return lambda x: np.where(x > 0, x, slope * x)


def _elu(node: gs.Node) -> Function | None:
    if node.attrs.get("alpha", 1.0) != 1.0:
        return None  # the bounds are those of alpha 1
    return lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _relu_bounds(node: gs.Node) -> tuple[float, float]:
    return 0.0, math.inf


def _clip_bounds(node: gs.Node) -> tuple[float, float]:
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


_MOVES = Meaning(moves=always)

# By name: the first opset of this meaning, and the meaning.
STANDARD: Mapping[str, tuple[int, Meaning]] = {
    "Conv": (1, Meaning(weight=1)),
    "ConvTranspose": (1, Meaning(weight=1)),
    "Gemm": (7, Meaning(weight=1)),
    "MatMul": (1, Meaning(weight=1)),
    "Relu": (6, Meaning(clip=_relu_bounds, rectifies=True, homogeneous=True)),
    "Clip": (11, Meaning(clip=_clip_bounds, rectifies=True)),
    "LeakyRelu": (6, Meaning(function=_leaky, rectifies=True, homogeneous=True, own_scale=True)),
    "PRelu": (7, Meaning(rectifies=True, homogeneous=True)),
    "Sigmoid": (6, Meaning(function=_for_every_node(_sigmoid), bounds=(0.0, 1.0), own_scale=True, squashes=True)),
    "HardSigmoid": (6, Meaning(function=_hard_sigmoid, bounds=(0.0, 1.0), squashes=True)),
    "Tanh": (6, Meaning(function=_for_every_node(np.tanh), bounds=(-1.0, 1.0), squashes=True)),
    "Softmax": (1, Meaning(squashes=True)),
    "LogSoftmax": (1, Meaning(squashes=True)),
    "HardSwish": (
        14,
        Meaning(
            function=_for_every_node(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
            bounds=(-0.375, math.inf),
            rectifies=True,
        ),
    ),
    "Gelu": (20, Meaning(function=_for_every_node(lambda x: x * normal_cdf(x)), bounds=(-0.17, math.inf))),
    "Elu": (6, Meaning(function=_elu, bounds=(-1.0, math.inf))),
    "Softplus": (1, Meaning(function=_for_every_node(lambda x: np.logaddexp(0, x)), bounds=(0.0, math.inf))),
    "MaxPool": (1, Meaning(moves=always, pools="chooses", homogeneous=True)),
    "GlobalMaxPool": (1, Meaning(pools="chooses", homogeneous=True)),
    "AveragePool": (7, Meaning(own_scale=True, pools="averages", homogeneous=True)),
    "GlobalAveragePool": (1, Meaning(own_scale=True, pools="averages", homogeneous=True)),
    "Add": (7, Meaning(own_scale=True)),
    "Mul": (7, Meaning(own_scale=True)),
    "Concat": (4, Meaning(own_scale=True)),
    "Flatten": (1, _MOVES),
    "Reshape": (5, _MOVES),
    "Transpose": (1, _MOVES),
    "Slice": (10, _MOVES),
    "Split": (1, _MOVES),
    "Squeeze": (1, _MOVES),
    "Unsqueeze": (1, _MOVES),
    "Resize": (10, Meaning(moves=stays_within)),
    "Pad": (11, Meaning(moves=pads_with_zeros)),
}
