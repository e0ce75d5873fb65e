"""Tensors whose channels can be multiplied by positive factors only together, between the Convs that can take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.affine import takes_affine, takes_input_factor
from dfmpc_onnx.graph.channels import channel_count, keeps_factors
from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.graph.query import captured_tensors, input_constant


@dataclasses.dataclass
class JoinedChannels:
    """Tensors of the same channels.

    makers: the Convs and BatchNormalizations that give one of them; readers: the Convs that read one. bounded: what
    clips one of them between bounds.
    """

    tensors: list[gs.Tensor] = dataclasses.field(default_factory=list)
    makers: list[gs.Node] = dataclasses.field(default_factory=list)
    readers: list[gs.Node] = dataclasses.field(default_factory=list)
    bounded: list[gs.Node] = dataclasses.field(default_factory=list)


def joined_channels(
    graph: gs.Graph, convs: Collection[str], norms: Collection[str] = (), bounded: Collection[str] = ()
) -> list[JoinedChannels]:
    """What stands between Convs alone, in graph order: activations that keep factors, sums, pools, resizing.

    A factor a channel that all makers of a group take and all its readers take back leaves the network what it was.
    convs, norms: names of the Convs whose weights, and of the BatchNormalizations whose factors may change. bounded:
    of nodes whose bounds the caller sees to.
    """
    joined = _Joined()
    for tensor in (*graph.inputs, *graph.outputs):
        joined.spoil(tensor)
    makers: list[gs.Node] = []
    for node in graph.nodes:
        variables = [t for t in (*node.inputs, *node.outputs) if isinstance(t, gs.Variable) and not t.is_empty()]
        if node.name in convs and takes_affine(node) and takes_input_factor(node):
            makers.append(node)
            joined.add(node.inputs[0])
            joined.add(node.outputs[0])
        elif node.name in norms and takes_affine(node):
            makers.append(node)
            joined.spoil(node.inputs[0])
            joined.add(node.outputs[0])
        elif node.name in bounded or _acts_by_channel(node):
            joined.join(node.inputs[0], node.outputs[0])
        elif _adds_alike(node):
            joined.join(node.inputs[0], node.outputs[0])
            joined.join(node.inputs[1], node.outputs[0])
        else:
            for tensor in (*variables, *_read_inside(node)):
                joined.spoil(tensor)
    found = joined.groups()
    for node in makers:
        if node.outputs[0].name in found:
            found[node.outputs[0].name].makers.append(node)
        if node.inputs[0].name in found and node.name in convs:
            found[node.inputs[0].name].readers.append(node)
    for node in graph.nodes if bounded else ():
        if node.name in bounded and node.outputs[0].name in found:
            found[node.outputs[0].name].bounded.append(node)
    groups = {id(group): group for group in found.values()}
    return [group for group in groups.values() if group.makers and group.readers]


def _acts_by_channel(node: gs.Node) -> bool:
    """Whether a factor a channel in front of a node is the same factor behind it."""
    if any(isinstance(t, gs.Variable) and not t.is_empty() for t in node.inputs[1:]):
        return False
    if op_of(node) == "Resize":
        before, after = channel_count(node.inputs[0]), channel_count(node.outputs[0])
        crops = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        return before is not None and before == after and not crops
    return keeps_factors(node)


def _adds_alike(node: gs.Node) -> bool:
    """Whether a node is the sum of two computed tensors of the same channels."""
    if op_of(node) != "Add" or len(node.inputs) != 2 or any(input_constant(node, i) is not None for i in (0, 1)):
        return False
    counts = [channel_count(tensor) for tensor in node.inputs]
    ranks = {len(tensor.shape) for tensor in (*node.inputs, *node.outputs) if tensor.shape is not None}
    return counts[0] is not None and counts[0] == counts[1] and len(ranks) <= 1


def _read_inside(node: gs.Node) -> Iterator[gs.Tensor]:
    for value in node.attrs.values():
        if isinstance(value, gs.Graph):
            yield from captured_tensors(value)


class _Joined:
    """Union-find over tensors."""

    def __init__(self) -> None:
        self._tensors: dict[str, gs.Tensor] = {}
        self._parents: dict[str, str] = {}
        self._spoilt: set[str] = set()

    def add(self, tensor: gs.Tensor) -> None:
        self._tensors.setdefault(tensor.name, tensor)
        self._parents.setdefault(tensor.name, tensor.name)

    def spoil(self, tensor: gs.Tensor) -> None:
        """Its channels have to stay as they are."""
        self.add(tensor)
        self._spoilt.add(tensor.name)

    def join(self, a: gs.Tensor, b: gs.Tensor) -> None:
        self.add(a)
        self.add(b)
        self._parents[self._root(a.name)] = self._root(b.name)

    def groups(self) -> dict[str, JoinedChannels]:
        """Of each tensor that may be scaled its group."""
        spoilt = {self._root(name) for name in self._spoilt}
        by_root: dict[str, JoinedChannels] = {}
        found: dict[str, JoinedChannels] = {}
        for name, tensor in self._tensors.items():
            root = self._root(name)
            if root not in spoilt:
                found[name] = by_root.setdefault(root, JoinedChannels())
                found[name].tensors.append(tensor)
        return found

    def _root(self, name: str) -> str:
        while self._parents[name] != name:
            self._parents[name] = self._parents[self._parents[name]]
            name = self._parents[name]
        return name
