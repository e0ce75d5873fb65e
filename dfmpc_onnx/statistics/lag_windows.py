"""How many lags of each tensor's covariance function are kept: enough for what reads it, within a bound on memory."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.conv import conv_geometry
from dfmpc_onnx.graph.operators import op_of

ELEMENTS = 2**20  # of one covariance function that is kept in any case
WIDE_ELEMENTS = 2**25  # of one whose readers look so far
MOST_ELEMENTS = 2**27  # half a gigabyte: beyond it, not even the lags of one patch are kept
LARGEST_WINDOW = 25  # beyond twelve pixels of a map correlations change little
FARTHEST_LAG = 64  # pixels that a reader far down may look, of those in front of many strides
STRIDED = frozenset({"MaxPool", "AveragePool"})


class Windows:
    """The windows of one graph's tensors."""

    def __init__(self, graph: gs.Graph) -> None:
        self._reach: dict[str, int] = {}
        for node in reversed(graph.nodes):
            behind = max((self._reach.get(t.name, 0) for t in node.outputs), default=0)
            reach = min(_reach(node, behind), FARTHEST_LAG)
            for tensor in node.inputs:
                if isinstance(tensor, gs.Variable):
                    self._reach[tensor.name] = max(self._reach.get(tensor.name, 0), reach)

    def side(self, tensor: str, size: tuple[int, int], channels: int) -> tuple[int, int]:
        """Lags of a tensor along height and width. Raises Unknown where its channels are too many."""
        square = 4 * channels * channels
        needed = 2 * self._reach.get(tensor, 0) + 1
        least = min(needed, 5)
        if square * min(size[0], least) * min(size[1], least) > MOST_ELEMENTS:
            raise Unknown(f"{channels} channels are too many for covariance functions")
        anyway = min(int((ELEMENTS / square) ** 0.5), LARGEST_WINDOW)
        asked = min(needed, int((WIDE_ELEMENTS / square) ** 0.5))
        side = max(anyway, asked, least)
        side -= (
            1 - side % 2
        )  # as many lags before as behind: a covariance cut in two halves of different length is none
        return min(size[0], side), min(size[1], side)


def _reach(node: gs.Node, behind: int) -> int:
    """Up to which lag a node reads its input so that lags up to `behind` of its output are known."""
    if op_of(node) == "Conv" and isinstance(node.inputs[1], gs.Constant):
        kernel, strides, dilations = conv_geometry(node)
        own = max(((k - 1) * d for k, d in zip(kernel, dilations, strict=False)), default=0)
        return max(own, behind * max(strides, default=1))
    if op_of(node) in STRIDED:
        kernel, strides = node.attrs.get("kernel_shape", (1,)), node.attrs.get("strides", (1,))
        return max(max(int(k) for k in kernel) - 1, behind * max(int(s) for s in strides))
    if op_of(node) == "Slice":
        steps = node.inputs[4] if len(node.inputs) > 4 else None
        largest = max(abs(int(s)) for s in steps.values) if isinstance(steps, gs.Constant) else 1
        return behind * largest
    if op_of(node) in ("GlobalAveragePool", "ReduceMean"):
        return 1
    return behind
