"""A graph as a function that PyTorch can take the gradient of: its own small executor over the standard operators."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_graphsurgeon as gs
import torch

from dfmpc_onnx.errors import ModelError, TooLittleMemory, printable
from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.graph.query import describe
from dfmpc_onnx.learning.calls import Call, Kernel, NotFollowed
from dfmpc_onnx.learning.elementwise import ELEMENTWISE_KERNELS
from dfmpc_onnx.learning.layers import WEIGHTED_KERNELS
from dfmpc_onnx.learning.moves import MOVE_KERNELS, as_tensor
from dfmpc_onnx.learning.torch_import import Tensor

TORCH_KERNELS: Mapping[str, Kernel] = {**ELEMENTWISE_KERNELS, **MOVE_KERNELS, **WEIGHTED_KERNELS}
WITHOUT = "leave --learn out: procedural images need no gradient"
MEMORY_WORDS = ("memory", "alloc")


class TorchNetwork:
    """The part of a graph that some tensors depend on. It computes in float32, whatever floats the model holds."""

    def __init__(self, graph: gs.Graph, wanted: Collection[str], device: str, label: str) -> None:
        """graph: of one input, as `to_graph` reads it. Raises ModelError where an operator is not known here."""
        self._label, self._device, self._wanted = label, device, frozenset(wanted)
        self._input = graph.inputs[0].name
        self._nodes = _needed(graph, self._wanted)
        unknown = [node for node in self._nodes if op_of(node) not in TORCH_KERNELS]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise ModelError(f"{label}: images cannot be learned through {describe(unknown[0])}{more}; {WITHOUT}")
        self._constants = {
            tensor.name: self._constant(node, tensor)
            for node in self._nodes
            for tensor in node.inputs
            if isinstance(tensor, gs.Constant)
        }

    def _constant(self, node: gs.Node, tensor: gs.Constant) -> Tensor:
        try:
            return as_tensor(tensor.values).to(self._device)
        except NotFollowed as reason:
            raise self._refusal(node, str(reason)) from None

    def __call__(self, x: Tensor, constants: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The wanted tensors by name, for a batch ``[n, ...]`` float32 on the device. Raises ModelError.

        constants: values in place of those that the graph holds, by name.
        """
        values: dict[str, Tensor] = {self._input: x}
        for node in self._nodes:
            inputs = [None if t.is_empty() else self._value(values, t, constants or {}) for t in node.inputs]
            made = self._run(Call(node, inputs))
            for tensor, value in zip(node.outputs, made if isinstance(made, tuple) else (made,), strict=False):
                values[tensor.name] = value.to(self._device)
        return {name: values[name] for name in self._wanted}

    def _value(self, values: Mapping[str, Tensor], tensor: gs.Tensor, given: Mapping[str, Tensor]) -> Tensor:
        if not isinstance(tensor, gs.Constant):
            return values[tensor.name]
        return given.get(tensor.name, self._constants[tensor.name])

    def _run(self, call: Call) -> Tensor:
        try:
            return TORCH_KERNELS[op_of(call.node)](call)
        except NotFollowed as reason:
            raise self._refusal(call.node, str(reason)) from None
        except torch.OutOfMemoryError:
            raise self.out_of_memory() from None
        except Exception as error:  # kernels of PyTorch raise RuntimeError, IndexError and others
            first = printable((str(error).strip().splitlines() or [type(error).__name__])[0])
            if isinstance(error, RuntimeError | MemoryError) and any(word in first.lower() for word in MEMORY_WORDS):
                raise self.out_of_memory() from None
            raise self._refusal(call.node, first) from None

    def out_of_memory(self) -> TooLittleMemory:
        return TooLittleMemory(f"{self._label}: the gradient takes more memory than there is; lower --count")

    def _refusal(self, node: gs.Node, reason: str) -> ModelError:
        return ModelError(f"{self._label}: images cannot be learned through {describe(node)}: {reason}; {WITHOUT}")


def _needed(graph: gs.Graph, wanted: Collection[str]) -> list[gs.Node]:
    """The nodes that tensors of these names depend on, each behind those that it reads from."""
    makers = {tensor.name: node for node in graph.nodes for tensor in node.outputs}
    ordered: list[gs.Node] = []
    done: set[int] = set()
    stack = [(makers[name], False) for name in sorted(wanted) if name in makers]
    while stack:
        node, reads_done = stack.pop()
        if id(node) in done:
            continue
        if reads_done:
            done.add(id(node))
            ordered.append(node)
            continue
        stack.append((node, True))
        stack.extend((makers[t.name], False) for t in node.inputs if t.name in makers)
    return ordered
