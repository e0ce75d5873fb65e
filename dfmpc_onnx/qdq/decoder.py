"""The nodes that decode stored weights; onnxruntime folds them at load.

Between quantized activations they end in a DequantizeLinear over INT8 codes, which fuses with the layer to an integer
kernel. Where activations stay in float they end in a Mul and fold into a plain float weight; a DequantizeLinear there
would run at every inference. Planes are decoded by Cast, or by Gather in a table of what each byte holds, and summed.
Indices of 9 or 10 bits are put together first: ``low + 256 ((above / 2^k) mod 2^bits)``.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from dfmpc_onnx.graph.edit import Namer
from dfmpc_onnx.numerics.arrays import Array
from dfmpc_onnx.numerics.codebook import INDEX_BITS, Blocks
from dfmpc_onnx.numerics.packing import pack, split
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.qdq.code_formats import FIRST_WITH_INT8_ARITHMETIC, STORAGE_TYPES, Form, Plane

NUMBERS = {
    np.float32: int(onnx.TensorProto.FLOAT),
    np.int32: int(onnx.TensorProto.INT32),
    np.int8: int(onnx.TensorProto.INT8),
}
Number = type[np.float32] | type[np.int32] | type[np.int8]


@dataclasses.dataclass(frozen=True)
class Emitted:
    """The nodes that decode a weight, the tensor that they end in, and the bytes of its codes."""

    nodes: list[gs.Node]
    result: gs.Tensor
    bytes: int


class Decoder:
    """Makes the nodes for the weights of one graph. Tables and other constants of equal value are made once.

    Between a weight's codes and its scale, tensors and nodes are called ``w0.0``, ``w0.1``, ...: names are stored
    two or three times each, and the names of weights are long.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self._names, self._opset = Namer(graph), int(graph.opset)
        self._shared: dict[tuple[str, tuple[int, ...], bytes], gs.Constant] = {}
        self._count = 0
        self._numbers: dict[tuple[str, Number], gs.Tensor] = {}  # codes less their zero points, by holder
        self._stored: dict[str, list[gs.Constant]] = {}  # the constants of codes, by holder

    def float_form(self, weight: QuantizedWeight, form: Form, stem: str, holder: str | None = None) -> Emitted:
        """``codes in FLOAT [-> Sub(zero point)] -> Mul(scale)``; equal to dequantize() bit for bit.

        holder: what stands for these codes and zero points where several weights share them, each under its own scale;
        the nodes up to the scale are made for the first of them.
        """
        chain = self._chain()
        tensor = self._numbers.get((holder, np.float32)) if holder is not None else None
        size = 0 if holder in self._stored else form.bytes(weight.codes.size)
        if tensor is None:
            tensor = self._codes(chain, weight, form, stem, np.float32, holder)
            if np.any(weight.zero_point):
                tensor = chain.add("Sub", np.float32, tensor, self._constant(f"{stem}.zero", weight.zero_point))
            self._remember(holder, np.float32, tensor)
        chain.add("Mul", np.float32, tensor, self._scale(stem, weight.scale, holder))
        return chain.emit(size)

    def integer_form(
        self, weight: QuantizedWeight, form: Form, stem: str, axis: int, holder: str | None = None
    ) -> Emitted:
        """``codes in INT8, less their zero point -> DequantizeLinear(scale, 0)``; fuses to an integer kernel.

        The half-step zero point of the mid-rise grid is taken out by doubling: ``s (q + 1/2) = (s / 2) (2 q + 1)``.
        holder: as in `float_form`. Raises ValueError for a weight that `fits_int8` refuses.
        """
        if not fits_int8(weight):
            raise ValueError(f"{stem}: codes less their zero points do not fit into INT8")
        chain = self._chain()
        tensor = self._numbers.get((holder, np.int8)) if holder is not None else None
        size = 0 if holder in self._stored else form.bytes(weight.codes.size)
        if tensor is None:
            tensor = self._steps(chain, weight, form, stem, holder)
            self._remember(holder, np.int8, tensor)
        scale = integer_scale(weight)
        per_axis = weight.scale.size > 1
        flat = scale if per_axis else scale.reshape(())
        chain.add(
            "DequantizeLinear",
            np.float32,
            tensor,
            self._scale(stem, flat, holder),
            self._once("zp", np.zeros(flat.shape, np.int8)),
            attrs={"axis": axis} if per_axis else {},
        )
        return chain.emit(size)

    def _steps(self, chain: _Chain, weight: QuantizedWeight, form: Form, stem: str, holder: str | None) -> gs.Tensor:
        """The codes less their zero points in INT8, twice where those are halves."""
        doubled, zero = _half_steps(weight), _whole_zero(weight)
        arithmetic = len(form.planes) > 1 or bool(np.any(zero))
        # Steps of 8-bit codes fit INT8, but not what they are computed from.
        wide = self._opset < FIRST_WITH_INT8_ARITHMETIC or weight.bits == 8 or bool(np.any(np.abs(zero) > 127))
        kind: Number = np.int32 if arithmetic and wide else np.int8
        tensor = self._codes(chain, weight, form, stem, kind, holder)
        if doubled:
            tensor = chain.add("Add", kind, tensor, tensor)
        if np.any(zero):
            tensor = chain.add("Sub", kind, tensor, self._constant(f"{stem}.zero", zero.astype(kind)))
        return chain.cast(tensor, np.int8) if kind is np.int32 else tensor

    def _remember(self, holder: str | None, kind: Number, tensor: gs.Tensor) -> None:
        if holder is not None:
            self._numbers[holder, kind] = tensor

    def _scale(self, stem: str, values: Array, holder: str | None) -> gs.Constant:
        name = f"{stem}.scale"
        return self._constant(name, values) if holder is None else self._once(name, values)

    def _codes(
        self, chain: _Chain, weight: QuantizedWeight, form: Form, stem: str, kind: Number, holder: str | None
    ) -> gs.Tensor:
        """The codes as numbers of a kind: the sum of their planes, stored once for each holder."""
        stored = self._stored.get(holder, []) if holder is not None else []
        found = list(stored)
        total: gs.Tensor | None = None
        planes = split(weight.codes, form.widths) if len(form.planes) > 1 else [weight.codes]
        for plane, codes in zip(form.planes, planes, strict=True):
            name = f"{stem}.codes" if total is None else f"{chain.stem}.low"
            if not stored:
                found.append(self._plane(name, codes, plane))
            source = found.pop(0) if stored else found[-1]
            if plane.encoding == "type":
                tensor = chain.cast(source, kind)
                if plane.shift:
                    # Of the rank of the codes: onnxruntime spreads a factor of rank 0 over them number by number.
                    factor = self._once("times", np.full((1,) * codes.ndim, 2**plane.shift, kind))
                    tensor = chain.add("Mul", kind, tensor, factor)
            else:
                tensor = chain.cast(self._looked_up(chain, source, codes, plane), kind)
            total = tensor if total is None else chain.add("Add", kind, total, tensor)
        if holder is not None and not stored:
            self._stored[holder] = found
        return total

    def _plane(self, name: str, codes: npt.NDArray[np.int8], plane: Plane) -> gs.Constant:
        """A plane of codes as it is stored."""
        if plane.encoding == "type":
            return _narrow(self._names(name), codes, plane)
        if plane.book is not None:
            packed = plane.book.pack(codes, plane.run or codes.size)
        else:
            packed = pack(codes, plane.bits, plane.signed)
        values = np.frombuffer(packed, np.uint8)
        wide = plane.book is not None and plane.book.blocks.index_bits > INDEX_BITS
        return self._constant(name, values.reshape(-1, plane.book.blocks.lanes + 1) if plane.book and wide else values)

    def _looked_up(self, chain: _Chain, stored: gs.Constant, codes: npt.NDArray[np.int8], plane: Plane) -> gs.Tensor:
        """Codes by a table: ``bytes -> Cast(INT32) -> Gather`` gives ``[bytes, per byte]``, then cut and shaped."""
        assert plane.table is not None  # as of every plane that is no type
        source = chain.cast(stored, np.int32)  # Gather takes no 8-bit indices
        if plane.book is not None and plane.book.blocks.index_bits > INDEX_BITS:
            source = self._index(chain, source, plane.book.blocks)
        tensor = chain.add("Gather", np.int8, self._once("table", plane.table.table), source)
        if plane.ragged(codes.size):
            tensor = self._cut(chain, tensor, codes.size, plane.run or codes.size)
        return chain.add("Reshape", np.int8, tensor, self._once("shape", np.array(codes.shape, np.int64)))

    def _index(self, chain: _Chain, rows: gs.Tensor, blocks: Blocks) -> gs.Tensor:
        """Indices, ``[rows, lanes]``, of rows of their low bytes and the bits above them."""
        more = blocks.index_bits - INDEX_BITS
        low, above = chain.split(rows, self._once("columns", np.array([blocks.lanes, 1])))
        powers = self._once("powers", 2 ** (more * np.arange(blocks.lanes, dtype=np.int32)))
        above = chain.add("Div", np.int32, above, powers)
        above = chain.add("Mod", np.int32, above, self._once("bits", np.array(2**more, np.int32)))
        above = chain.add("Mul", np.int32, above, self._once("byte", np.array(2**INDEX_BITS, np.int32)))
        return chain.add("Add", np.int32, low, above)

    def _cut(self, chain: _Chain, tensor: gs.Tensor, count: int, run: int) -> gs.Tensor:
        """The codes without what pads the last block of each run."""
        runs = count // run
        bounds = [self._once("start", np.array([0])), self._once("end", np.array([run]))]
        if runs > 1:
            bounds.append(self._once("axis", np.array([1])))
        flat = self._once("flat", np.array([runs, -1] if runs > 1 else [-1]))
        return chain.add("Slice", np.int8, chain.add("Reshape", np.int8, tensor, flat), *bounds)

    def _chain(self) -> _Chain:
        self._count += 1
        return _Chain(f"w{self._count - 1}", self._names)

    def _constant(self, name: str, values: Array) -> gs.Constant:
        return gs.Constant(self._names(name), np.asarray(values))

    def _once(self, name: str, values: Array) -> gs.Constant:
        """A constant that every weight that needs this value shares."""
        key = values.dtype.str, values.shape, values.tobytes()
        if key not in self._shared:
            self._shared[key] = self._constant(name, values)
        return self._shared[key]


class _Chain:
    """The nodes of one weight, one behind the other."""

    def __init__(self, stem: str, names: Namer) -> None:
        self.stem, self._names = stem, names
        self.nodes: list[gs.Node] = []

    def add(self, op: str, kind: Number, *inputs: gs.Tensor, attrs: dict[str, object] | None = None) -> gs.Tensor:
        name = self._names(f"{self.stem}.{len(self.nodes)}")
        out = gs.Variable(name, kind)
        self.nodes.append(gs.Node(op, name, attrs or {}, list(inputs), [out]))
        return out

    def split(self, tensor: gs.Tensor, sizes: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor]:
        """The two parts of a matrix of INT32, of so many columns each."""
        first = self.add("Split", np.int32, tensor, sizes, attrs={"axis": 1})
        second = gs.Variable(self._names(f"{self.stem}.{len(self.nodes)}"))
        self.nodes[-1].outputs.append(second)
        return first, second

    def cast(self, tensor: gs.Tensor, kind: Number) -> gs.Tensor:
        return tensor if tensor.dtype == kind else self.add("Cast", kind, tensor, attrs={"to": NUMBERS[kind]})

    def emit(self, size: int) -> Emitted:
        """The nodes and the tensor that the last of them makes."""
        for node in self.nodes[:-1]:
            node.outputs[0].dtype = None  # a declared type is a value_info: bytes for what inference finds anyhow
        return Emitted(self.nodes, self.nodes[-1].outputs[0], size)


def _narrow(name: str, codes: npt.NDArray[np.int8], plane: Plane) -> gs.Constant:
    """An initializer of a plane's own type; graphsurgeon cannot make the narrow ones from numpy."""
    if plane.bits == 8:
        return gs.Constant(name, codes)
    raw = pack(codes, plane.bits, plane.signed)
    proto = onnx.helper.make_tensor(name, STORAGE_TYPES[plane.bits, plane.signed][0], codes.shape, raw, raw=True)
    return gs.Constant(name, LazyValues(proto))


def _half_steps(weight: QuantizedWeight) -> bool:
    return bool(np.any(weight.zero_point != np.rint(weight.zero_point)))


def _whole_zero(weight: QuantizedWeight) -> npt.NDArray[np.float32]:
    """The zero point of the codes that the integer form dequantizes: whole, since half-step grids are doubled."""
    return weight.zero_point * np.float32(2) if _half_steps(weight) else weight.zero_point


def fits_int8(weight: QuantizedWeight, reduced: bool = False) -> bool:
    """Whether the codes less their zero points fit INT8, as the integer form needs; up to 7 bits all grids do.

    reduced: whether they must lie within 64 of zero, so that two products with 8-bit activations fit 16 bits.
    """
    zero = _whole_zero(weight)
    if not np.any(zero) and (weight.bits < 8 or not reduced):
        return True
    steps = weight.codes.astype(np.float32) * np.float32(2 if _half_steps(weight) else 1) - zero
    lowest, highest = (-64, 64) if reduced else (-128, 127)
    return steps.size == 0 or bool(steps.min() >= lowest and steps.max() <= highest)


def integer_scale(weight: QuantizedWeight) -> npt.NDArray[np.float32]:
    """The scale that `Decoder.integer_form` dequantizes with, flat: ``[out]`` or ``[1]`` float32."""
    scale = weight.scale / np.float32(2) if _half_steps(weight) else weight.scale
    return scale.reshape(-1).astype(np.float32)


def plain_int8(weight: QuantizedWeight) -> QuantizedWeight:
    """The same numbers as 8-bit codes without zero point, which one DequantizeLinear decodes.

    Raises ValueError for a weight that `fits_int8` refuses.
    """
    if not fits_int8(weight):
        raise ValueError("codes less their zero points do not fit into INT8")
    steps = weight.codes.astype(np.float32) * np.float32(2 if _half_steps(weight) else 1) - _whole_zero(weight)
    scale = integer_scale(weight).reshape(weight.scale.shape)
    return QuantizedWeight(steps.astype(np.int8), scale, np.zeros_like(scale), 8)
