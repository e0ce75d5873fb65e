"""Packed forms of low-bit weights: what each needs, and the nodes that decode it.

Between quantized activations a weight is ``codes -> Cast(INT8) -> DequantizeLinear``: onnxruntime folds the Cast at
load and fuses the rest into an integer kernel. Where activations stay in float it is ``codes -> Cast(FLOAT) -> Mul``,
which folds into a plain float weight at load; a DequantizeLinear there would run at every inference.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from dfmpc_onnx.graph import Namer
from dfmpc_onnx.numerics.packing import pack
from dfmpc_onnx.numerics.quantized import QuantizedWeight

# Stored width: (ONNX type, first opset that has it, first onnxruntime that loads it)
FORMS = {
    2: (onnx.TensorProto.INT2, 25, "1.24"),
    4: (onnx.TensorProto.INT4, 21, "1.20"),
    8: (onnx.TensorProto.INT8, 13, "1.16"),
}


def stored_bits(weight: QuantizedWeight, opset: int | None = None) -> int:
    """The width that codes are stored in: the next of 2, 4 and 8 bits whose type the opset has."""
    widths = (w for w, (_, since, _) in FORMS.items() if w >= weight.bits and (opset is None or since <= opset))
    return next(widths, 8)  # every opset has INT8; below 13 only DequantizeLinear has no axis for it


def opset_for(weight: QuantizedWeight) -> int:
    """The lowest opset that has a type for the codes."""
    return FORMS[stored_bits(weight)][1]


def oldest_runtime(bits: int) -> str:
    """The oldest onnxruntime that loads weights stored in so many bits."""
    return FORMS[bits][2]


@dataclasses.dataclass(frozen=True)
class Emitted:
    """The nodes that decode a weight, the tensor that they end in, and what is stored."""

    nodes: list[gs.Node]
    result: gs.Tensor
    bytes: int
    bits: int


def _initializer(name: str, values: np.ndarray) -> gs.Constant:
    return gs.Constant(name, np.asarray(values))


def _packed(name: str, codes: np.ndarray, bits: int) -> gs.Constant:
    """An initializer of 2-, 4- or 8-bit integers; graphsurgeon has no numpy type for the narrow ones."""
    proto = onnx.helper.make_tensor(name, FORMS[bits][0], codes.shape, pack(codes, bits), raw=True)
    return gs.Constant(name, LazyValues(proto))


class _Chain:
    """Builds the nodes behind a packed initializer one by one."""

    def __init__(self, stem: str, names: Namer, source: gs.Tensor) -> None:
        self.stem, self.names, self.tensor = stem, names, source
        self.nodes: list[gs.Node] = []

    def add(
        self, op: str, *others: gs.Tensor, attrs: dict[str, object] | None = None, dtype: type = np.float32
    ) -> None:
        out = gs.Variable(self.names(f"{self.stem}.{op[0].lower()}"), dtype)
        self.nodes.append(gs.Node(op, self.names(f"{self.stem}.{op}"), attrs or {}, [self.tensor, *others], [out]))
        self.tensor = out

    def constant(self, suffix: str, values: np.ndarray) -> gs.Constant:
        return _initializer(self.names(f"{self.stem}.{suffix}"), values)


def float_form(weight: QuantizedWeight, stem: str, names: Namer, opset: int) -> Emitted:
    """``codes -> Cast(FLOAT) [-> Sub(zero point)] -> Mul(scale)``; equal to dequantize() bit for bit."""
    bits = stored_bits(weight, opset)
    source = _packed(names(f"{stem}.codes"), weight.codes, bits)
    chain = _Chain(stem, names, source)
    chain.add("Cast", attrs={"to": int(onnx.TensorProto.FLOAT)})
    if np.any(weight.zero_point):
        chain.add("Sub", chain.constant("zero", weight.zero_point))
    chain.add("Mul", chain.constant("scale", weight.scale))
    return Emitted(chain.nodes, chain.tensor, len(source._values.tensor.raw_data), bits)


def integer_form(weight: QuantizedWeight, axis: int, stem: str, names: Namer, opset: int) -> Emitted:
    """``codes [-> integer steps to INT8] -> DequantizeLinear(scale, 0)``; fuses to an integer kernel.

    A whole zero point is subtracted in INT8, or in INT32 below opset 14, whose Sub has no INT8. The half-step zero
    point of the mid-rise grid is taken out by doubling: ``s (q + 1/2) = (s / 2) (2 q + 1)``.
    """
    bits = stored_bits(weight, opset)
    source = _packed(names(f"{stem}.codes"), weight.codes, bits)
    chain = _Chain(stem, names, source)
    scale = weight.scale
    int8, int32 = int(onnx.TensorProto.INT8), int(onnx.TensorProto.INT32)
    zero = weight.zero_point
    if np.any(zero != np.rint(zero)):
        chain.add("Cast", attrs={"to": int32}, dtype=np.int32)
        chain.add("Add", chain.tensor, dtype=np.int32)
        chain.add("Sub", chain.constant("zero", (2 * zero).astype(np.int32)), dtype=np.int32)
        chain.add("Cast", attrs={"to": int8}, dtype=np.int8)
        scale = (scale / np.float32(2)).astype(np.float32)
    elif np.any(zero):
        wide = opset < 14
        kind = np.int32 if wide else np.int8
        chain.add("Cast", attrs={"to": int32 if wide else int8}, dtype=kind)
        chain.add("Sub", chain.constant("zero", zero.astype(kind)), dtype=kind)
        if wide:
            chain.add("Cast", attrs={"to": int8}, dtype=np.int8)
    elif bits < 8:
        chain.add("Cast", attrs={"to": int8}, dtype=np.int8)
    per_axis = scale.size > 1
    flat = scale.reshape(-1) if per_axis else scale.reshape(())
    zeros = np.zeros(flat.shape, np.int8)
    chain.add(
        "DequantizeLinear",
        chain.constant("scale", flat),
        chain.constant("zp", zeros),
        attrs={"axis": axis} if per_axis else {},
    )
    return Emitted(chain.nodes, chain.tensor, len(source._values.tensor.raw_data), bits)


def integer_scale(weight: QuantizedWeight) -> np.ndarray:
    """The scale that `integer_form` dequantizes with, flat: ``[out]`` or ``[1]`` float32."""
    zero = weight.zero_point
    scale = weight.scale / np.float32(2) if np.any(zero != np.rint(zero)) else weight.scale
    return scale.reshape(-1).astype(np.float32)
