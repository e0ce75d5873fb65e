"""A model on its way into a file: what the habits of exporters change, and what they have to know of it."""

from __future__ import annotations

import dataclasses
import random

import onnx
from onnx import TensorProto

from tools.fuzz.builder import Builder


@dataclasses.dataclass
class Export:
    """A model as it is written. beside: further files by name; ordinary: whether it must be near its 8-bit form."""

    model: onnx.ModelProto
    build: Builder
    rng: random.Random
    habits: list[str] = dataclasses.field(default_factory=list)
    beside: dict[str, bytes] = dataclasses.field(default_factory=dict)
    input_shapes: list[str] = dataclasses.field(default_factory=list)
    ordinary: bool = True
    floats: int = TensorProto.FLOAT  # type of the tensors inside
    shapes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)  # of inner tensors, by their names now

    def __post_init__(self) -> None:
        self.shapes = dict(self.build.shapes)

    @property
    def graph(self) -> onnx.GraphProto:
        return self.model.graph

    def weights(self) -> list[onnx.TensorProto]:
        """Initializers that layers read as their weight."""
        names = {n.input[1] for n in self.graph.node if n.op_type in ("Conv", "Gemm", "MatMul", "ConvTranspose")}
        return [t for t in self.graph.initializer if t.name in names]

    def insert(self, at: int, node: onnx.NodeProto) -> None:
        """Put a node into its place: protobuf's repeated messages have no insert of their own."""
        nodes = list(self.graph.node)
        nodes.insert(at, node)
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del self.graph.node[:]
        self.graph.node.extend(copies)

    def reads(self, old: str, new: str) -> None:
        """Every node reads a tensor in place of another."""
        for node in self.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]

    def renames(self, old: str, new: str) -> None:
        """A tensor where it is made, and wherever it is read."""
        for node in self.graph.node:
            node.output[:] = [new if name == old else name for name in node.output]
        self.reads(old, new)
