"""One operator called on tensors: its inputs by place, and its attributes, in whichever form its opset has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from dfmpc_onnx.learning.torch_import import Tensor


class NotFollowed(Exception):
    """A node asks for what its function here does not do; says what."""


@dataclasses.dataclass(frozen=True)
class Call:
    """A node, and the tensors that it is called on; None for one that is left out."""

    node: gs.Node
    inputs: Sequence[Tensor]

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.inputs[0]

    def given(self, index: int) -> Tensor:
        """An input, or None."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attr(self, name: str, default: Any) -> Any:
        return self.node.attrs.get(name, default)

    def ints(self, name: str, index: int) -> list[int] | None:
        """Whole numbers that older opsets have as an attribute and newer ones as an input; None where neither is."""
        value = self.node.attrs.get(name)
        if value is None:
            tensor = self.given(index)
            value = None if tensor is None else tensor.reshape(-1).tolist()
        if value is None:
            return None
        return [int(v) for v in value] if isinstance(value, Sequence) else [int(value)]

    def number(self, name: str, index: int, default: float) -> float:
        """A number that older opsets have as an attribute and newer ones as an input."""
        value = self.node.attrs.get(name)
        if value is None:
            tensor = self.given(index)
            value = default if tensor is None else tensor.reshape(-1).tolist()[0]
        return float(value)


Kernel = Callable[[Call], Any]  # gives a tensor, or a tuple of them where a node has several outputs
