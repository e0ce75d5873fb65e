"""Which tensors layers may read with few bits, and on which grids: by what the quantized network makes of images."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dfmpc_onnx.graph.output_layers import tail_tensors
from dfmpc_onnx.graph.query import nodes_by_name
from dfmpc_onnx.numerics.arrays import Float32
from dfmpc_onnx.numerics.few_levels import FewLevels, Histogram, least_error_grid
from dfmpc_onnx.numerics.moments import ChannelMoments
from dfmpc_onnx.pipeline.facts import Layers
from dfmpc_onnx.pipeline.plan_file import shown_layers
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.few_bit_choice import choose_few_bits
from dfmpc_onnx.statistics.independent_moments import propagate

VALUES_OF_A_HISTOGRAM = 2**18  # of a tensor, for its histogram


def tensors_of_few_bits(workspace: Workspace) -> frozenset[str]:
    """The tensors that inner layers alone read: what the first layer and those in front of an output read keeps 8 bits.

    The papers on activations of 4 bits do the same. What the user states for a layer goes first. Operators that are no
    layers, such as sums, read such a tensor in float.
    """
    graph = workspace.graph
    nodes, tail = nodes_by_name(graph), tail_tensors(graph)
    few: set[str] = set()
    others: set[str] = {tensor.name for tensor in graph.inputs}
    for layer in workspace.get(Layers).quantizable:
        node, asked = nodes[layer.name], _asked(workspace, layer.name)
        inner = layer.position == "inner" and node.outputs[0].name not in tail
        (few if asked == workspace.settings.few_bits or (inner and asked is None) else others).add(node.inputs[0].name)
    return frozenset(few - others)


def _asked(workspace: Workspace, layer: str) -> int | None:
    """The bits that the user wants a layer to read; the last override that states them counts."""
    stated = [item.reads for item in workspace.settings.layers if item.reads is not None and item.matches(layer)]
    return stated[-1] if stated else None


def few_bits_warnings(workspace: Workspace, grids: Collection[str]) -> tuple[str, ...]:
    """One warning of the layers that read 8 bits though the user wants them to read fewer; none where all do as asked.

    grids: the tensors that have few bits.
    """
    bits, nodes = workspace.settings.few_bits, nodes_by_name(workspace.graph)
    names = [layer.name for layer in workspace.get(Layers).quantizable]
    asked = [name for name in names if bits is not None and _asked(workspace, name) == bits]
    kept = [name for name in asked if nodes[name].inputs[0].name not in grids]
    if not kept:
        return ()
    return (
        f"layer {shown_layers(kept)}: reads 8 bits, not {bits}: an input of the network, what another "
        "layer reads with 8 bits, and what has no known moments keeps 8",
    )


def _asked_for_few(workspace: Workspace) -> frozenset[str]:
    """The tensors that have few bits because the user wants a layer to read them so."""
    nodes = nodes_by_name(workspace.graph)
    asked = [layer.name for layer in workspace.get(Layers).quantizable if _asked(workspace, layer.name) is not None]
    return frozenset(nodes[name].inputs[0].name for name in asked) & tensors_of_few_bits(workspace)


class InputGrids:
    """Grids of what layers read, each made from the first values seen, those of the quantized network."""

    def __init__(self, workspace: Workspace, bits: int) -> None:
        self._bits, self._symmetric = bits, workspace.settings.target.signed
        self._tensors = tensors_of_few_bits(workspace)
        self.notes: tuple[str, ...] = ()
        if workspace.settings.activations == "auto":
            known, _ = propagate(workspace.graph, workspace.inputs)
            asked = _asked_for_few(workspace)
            grids = grids_by_moments(workspace, known, bits, asked)
            choice = choose_few_bits(workspace, grids)
            self._tensors, self.notes = choice.tensors | asked, (choice.note,)
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
            step = max(1, flat.size // VALUES_OF_A_HISTOGRAM) | 1  # an odd one visits all columns of an even-sized map
            self._found[tensor] = least_error_grid(Histogram.of(flat[::step]), self._bits, symmetric=self._symmetric)
        return self._found[tensor].rounded(x)


def few_bit_grids(
    workspace: Workspace, known: Mapping[str, ChannelMoments], measured: Mapping[str, FewLevels]
) -> dict[str, FewLevels]:
    """The grids of what layers may read with few bits: as measured, else by moments; none where neither is known.

    known: moments of the quantized network's tensors. Empty where no tensor shall have few bits.
    """
    bits = workspace.settings.few_bits
    if bits is None or workspace.settings.activations == "auto":
        return dict(measured)
    return grids_by_moments(workspace, known, bits, measured) | dict(measured)


def grids_by_moments(
    workspace: Workspace, known: Mapping[str, ChannelMoments], bits: int, but: Collection[str] = ()
) -> dict[str, FewLevels]:
    """The grids of what layers may read with so many bits, by moments alone; none where these are not known.

    but: tensors that have a grid already.
    """
    found = {}
    for name in sorted(tensors_of_few_bits(workspace) - set(but)):
        moments = known.get(name)
        if moments is not None and moments.mean.size:
            histogram = Histogram.of_moments(moments.mean, moments.variance, moments.low, moments.high)
            found[name] = least_error_grid(histogram, bits, symmetric=workspace.settings.target.signed)
    return found
