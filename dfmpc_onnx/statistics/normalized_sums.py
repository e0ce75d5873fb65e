"""How far sums of normalized tensors reach: a residual stream that no activation interrupts.

A BatchNormalization says how its channels vary in training, and of independent tensors variances add. A sample of
such a sum has extremes that lie far beyond: at a few positions, deep in a network, some channels are fifteen
deviations from their mean. What reads them saturates there, so that a range as wide spends codes on nothing.

Where the tensors of a sum rise and fall together, their deviations add instead. Half as many of these are always
covered; a sum of up to four tensors needs no wider range for that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.operators import batch_norm_parameters, keeps_scale, meaning_of, op_of
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.moments import ChannelMoments
from dfmpc_onnx.numerics.ranges import Range, moment_range

UNBOUNDED = np.array(-np.inf), np.array(np.inf)
OF_DEPENDENT = 0.5  # share of the deviations that is covered where all tensors of a sum vary together


def bounds_of_sums(graph: gs.Graph, known: Mapping[str, ChannelMoments], deviations: float) -> dict[str, Range]:
    """The widest channel's ``mean +- deviations * std`` of each sum of what BatchNormalizations give, and of such sums.

    Also behind rectifiers, pooling and moves, whose values lie between those bounds and 0. known: moments by tensor,
    those of a sum by its parts as independent ones.
    """
    deviation: dict[str, Float] = {}  # of sums, if all their parts varied together
    found: dict[str, Range] = {}
    for node in graph.nodes:
        names = [tensor.name for tensor in node.outputs]
        if op_of(node) == "BatchNormalization" and batch_norm_parameters(node) is not None and names[0] in known:
            deviation[names[0]] = np.sqrt(np.maximum(known[names[0]].variance, 0.0))
        elif _adds(node, deviation) and names[0] in known:
            moments = known[names[0]]
            together = deviation[node.inputs[0].name] + deviation[node.inputs[1].name]
            deviation[names[0]] = together
            if moments.mean.size:
                variance = np.maximum(moments.variance, np.square(OF_DEPENDENT * together))
                found[names[0]] = moment_range(moments.mean, variance, *UNBOUNDED, deviations)
        elif node.inputs and node.inputs[0].name in found and _stays_within(node):
            low, high = found[node.inputs[0].name]
            found.update(dict.fromkeys(names, (min(low, 0.0), max(high, 0.0))))
    return found


def _adds(node: gs.Node, linear: Collection[str]) -> bool:
    """Whether a node is a sum of different tensors among those given."""
    names = [tensor.name for tensor in node.inputs]
    return op_of(node) == "Add" and names[0] != names[-1] and all(name in linear for name in names)


def _stays_within(node: gs.Node) -> bool:
    """Whether a node gives nothing beyond the range of the one tensor that it reads, and zeros."""
    return op_of(node) != "Concat" and (meaning_of(node).rectifies or keeps_scale(node))
