"""Which tensors layers may read with few bits, and on which grids: from what the quantized network makes of images."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.query import nodes_by_name
from dfmpc_onnx.numerics.arrays import Float32
from dfmpc_onnx.numerics.few_levels import FewLevels, Histogram, least_error_grid
from dfmpc_onnx.numerics.moments import ChannelMoments
from dfmpc_onnx.pipeline.facts import Layers
from dfmpc_onnx.pipeline.workspace import Workspace

VALUES_OF_A_HISTOGRAM = 2**18  # of a tensor, for its histogram


def tensors_of_few_bits(graph: gs.Graph, layers: Layers) -> frozenset[str]:
    """The tensors that only inner layers read as layers: what the first layers and the last read keeps its bits.

    So it is in the papers on activations of 4 bits. Whoever else reads such a tensor, as a sum, reads it in float.
    """
    nodes = nodes_by_name(graph)
    few: set[str] = set()
    others: set[str] = {tensor.name for tensor in graph.inputs}
    for layer in layers.quantizable:
        (few if layer.position == "inner" else others).add(nodes[layer.name].inputs[0].name)
    return frozenset(few - others)


class InputGrids:
    """Grids of what layers read, each made of the first values that come by: those of the quantized network."""

    def __init__(self, workspace: Workspace, bits: int) -> None:
        self._bits, self._symmetric = bits, workspace.settings.target.signed
        self._tensors = tensors_of_few_bits(workspace.graph, workspace.get(Layers))
        self._found: dict[str, FewLevels] = {}

    @property
    def found(self) -> Mapping[str, FewLevels]:
        """The grids so far, by tensor."""
        return dict(self._found)

    def rounded(self, tensor: str, x: Float32) -> Float32:
        """A tensor as a layer reads it: x itself where it has no few bits."""
        if tensor not in self._tensors or not x.size:
            return x
        if tensor not in self._found:
            flat = x.reshape(-1)
            step = (
                max(1, flat.size // VALUES_OF_A_HISTOGRAM) | 1
            )  # an odd step visits every column of an even-sized map
            self._found[tensor] = least_error_grid(Histogram.of(flat[::step]), self._bits, symmetric=self._symmetric)
        return self._found[tensor].rounded(x)


def few_bit_grids(
    workspace: Workspace, known: Mapping[str, ChannelMoments], measured: Mapping[str, FewLevels]
) -> dict[str, FewLevels]:
    """The grids of what layers may read with few bits: as measured, else by moments; none where neither is known.

    known: moments of the quantized network's tensors. Empty where no tensor shall have few bits.
    """
    bits, found = workspace.settings.few_bits, dict(measured)
    for name in sorted(tensors_of_few_bits(workspace.graph, workspace.get(Layers))) if bits is not None else ():
        moments = known.get(name)
        if name not in found and moments is not None and moments.mean.size and bits is not None:
            histogram = Histogram.of_moments(moments.mean, moments.variance, moments.low, moments.high)
            found[name] = least_error_grid(histogram, bits, symmetric=workspace.settings.target.signed)
    return found
