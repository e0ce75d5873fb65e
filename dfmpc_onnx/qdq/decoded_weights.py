"""What the nodes that decode a weight give, worked out by onnx's own reference of the operators.

A second opinion beside `decode_chains`, which reads codes and scale: what that misread would be seen here.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from dfmpc_onnx.model.protos import initializers, standard_opset
from dfmpc_onnx.numerics.arrays import Array

FIRST_OF_REFERENCE = 21  # DequantizeLinear with an axis; what decodes weights means the same in every opset from 13 on


def weights_that_differ(before: onnx.ModelProto, after: onnx.ModelProto, weights: Iterable[str]) -> list[str]:
    """Of tensors that nodes make of constants in both models, the names of those that are not equal bit for bit.

    Raises ValueError where onnx's reference cannot work them out, as in a damaged file.
    """
    first, second = _Constants(before), _Constants(after)
    return [name for name in sorted(weights) if not _same_bits(first.value(name), second.value(name))]


class _Constants:
    """The tensors of one model that nodes make of constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._opset = max(standard_opset(model), FIRST_OF_REFERENCE)
        self._nodes, self._stored = list(model.graph.node), initializers(model.graph)
        self._position = {name: index for index, node in enumerate(self._nodes) for name in node.output}

    def value(self, name: str) -> Array:
        from onnx.reference import ReferenceEvaluator  # late: it takes a fifth of a second

        waiting, behind, read = [name], set[int](), set[str]()
        while waiting:
            index = self._position.get(waiting.pop())
            if index is not None and index not in behind:
                behind.add(index)
                read.update(self._nodes[index].input)
                waiting.extend(self._nodes[index].input)
        nodes = [self._nodes[index] for index in sorted(behind)]
        output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        stored = [self._stored[needed] for needed in sorted(read & self._stored.keys())]
        graph = onnx.helper.make_graph(nodes, "weight", [], [output], stored)
        opsets = [onnx.helper.make_opsetid("", self._opset)]
        try:
            (result,) = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets)).run(None, {})
        except Exception as error:  # whatever numpy raises on what does not fit
            raise ValueError(str(error)) from None
        return np.asarray(result)


def _same_bits(a: Array, b: Array) -> bool:
    return (
        a.shape == b.shape and a.dtype == b.dtype and a.dtype in (np.float32, np.float16) and a.tobytes() == b.tobytes()
    )
