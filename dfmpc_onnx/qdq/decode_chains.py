"""Reading back the chains that `decoder` writes: from a layer's weight to its codes, scale and zero point.

Nothing else is taken for one of ours: a weight that is computed as ``g v / |v|`` ends in a product too. The grammar,
from the weight backward; ``*`` stands for a constant, brackets for what may be absent::

    weight  = Mul(numbers, *scale) | DequantizeLinear([Cast INT8] numbers, *scale, *0)
    numbers = [Sub(., *zero)] [Add(., itself)] plane | Add(planes, plane)
    plane   = [Mul(., *2**shift)] [Cast] *codes of INT8, INT4, INT2 or UINT2
            | [Cast] Reshape([cut] Gather(*table, index), *shape)
    index   = Cast INT32(*bytes) | Add(low, Mul(Mod(Div(above, *powers), *2**n), *256))
    low, above = Split(Cast INT32(*bytes), (lanes, 1))
    cut     = Slice(Reshape(., -1), 0, count) | Slice(Reshape(., (runs, -1)), 0, run, axis 1)

Only shapes and a few small constants are looked at until codes are asked for.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from dfmpc_onnx.model.protos import WEIGHTED_OPERATORS, initializers, makers, op_of
from dfmpc_onnx.numerics.arrays import Array
from dfmpc_onnx.numerics.codebook import INDEX_BITS, Blocks, unpack_indices

NARROW: dict[int, int] = {TensorProto.INT8: 8, TensorProto.INT4: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2}
NUMBER_TYPES: frozenset[int] = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT8})
HALVES: frozenset[int] = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
ENTRIES_OF_TABLE = (256, 243, 512, 1024)  # fields of 1, 2 or 4 bits, or what was learnt; trits; wider indices
MOST_PLANES = 8  # a code has no more bits
MOST_VALUES = 2**16  # of a constant that is looked at: a zero point for each channel


@dataclasses.dataclass(frozen=True)
class StoredPlane:
    """Some bits of every code. tensor: as the file holds them. table: what each byte decodes to, ``[256, n]`` INT8, or
    each index of 9 or 10 bits, in as many rows.

    runs: in how many equal parts codes are cut, each padded to whole bytes.
    """

    tensor: onnx.TensorProto
    shift: int = 0
    table: onnx.TensorProto | None = None
    runs: int = 1

    @property
    def width(self) -> int:
        """Bits of a code that it holds."""
        return NARROW[self.tensor.data_type] if self.table is None else math.floor(_blocks(self.table).bits)

    @property
    def stored_bits(self) -> int:
        """Bits that it takes in the file, all codes together."""
        width = 8 if self.table is not None else NARROW[self.tensor.data_type]
        return int(width * math.prod(self.tensor.dims))

    def codes(self, shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
        """What it adds to the codes, ``shape`` int32. Raises ValueError or IndexError where the file is damaged."""
        values = numpy_helper.to_array(self.tensor)
        if self.table is None:
            numbers = values.astype(np.int32) << np.int32(self.shift)
        else:
            indices = unpack_indices(values, _blocks(self.table))
            decoded = numpy_helper.to_array(self.table)[indices].reshape(self.runs, -1)
            numbers = decoded[:, : math.prod(shape) // self.runs].astype(np.int32)
        codes: npt.NDArray[np.int32] = numbers.reshape(shape)
        return codes


@dataclasses.dataclass(frozen=True)
class DecodeChain:
    """How a file holds one weight.

    weight: the tensor that the layer reads; end: the node that makes it, a Mul or a DequantizeLinear. shape: of the
    weight. planes: of the codes, the highest bits first. doubled: whether codes are taken twice, as half-step grids
    need. zero: what is taken off them; None for nothing. scale: of one value, or one for each channel. nodes,
    initializers: what makes it up, each once, the nodes in order; constants may be shared with other chains.
    """

    weight: str
    end: onnx.NodeProto
    shape: tuple[int, ...]
    planes: tuple[StoredPlane, ...]
    doubled: bool
    zero_point: onnx.TensorProto | None
    scale_tensor: onnx.TensorProto
    nodes: tuple[onnx.NodeProto, ...]
    initializers: tuple[str, ...]

    @property
    def integer(self) -> bool:
        """Whether it ends in a DequantizeLinear, which fuses with the layer to an integer kernel."""
        return op_of(self.end) == "DequantizeLinear"

    @property
    def plain(self) -> bool:
        """Whether it is a DequantizeLinear over INT8 codes and nothing else."""
        return self.integer and len(self.nodes) == 1

    @property
    def stored_bits(self) -> int:
        """Bits that the codes take in the file, all together."""
        return sum(plane.stored_bits for plane in self.planes)

    def codes(self) -> npt.NDArray[np.int32]:
        """The codes, twice where `doubled`, before the zero point is taken off: `shape` int32.

        Raises ValueError or IndexError where the file is damaged.
        """
        total = np.zeros(self.shape, np.int32)
        for plane in self.planes:
            total += plane.codes(self.shape)
        return 2 * total if self.doubled else total

    def zero(self) -> npt.NDArray[np.float32]:
        """What is taken off the codes, in the scale's shape or one value, float32."""
        found = self.zero_point
        return np.zeros((), np.float32) if found is None else numpy_helper.to_array(found).astype(np.float32)

    @property
    def float_type(self) -> np.dtype[np.generic]:
        """The type of the weight that the layer reads: float16 where the network computes in that."""
        halved = self.scale_tensor.data_type == TensorProto.FLOAT16 and self.scale_tensor.name in self.end.input
        return np.dtype(np.float16 if halved else np.float32)

    def scale(self) -> npt.NDArray[np.float32]:
        """Step of the codes, float32: flat ``[channels]`` of a DequantizeLinear, of the weight's rank otherwise."""
        return numpy_helper.to_array(self.scale_tensor).astype(np.float32)


def _blocks(table: onnx.TensorProto) -> Blocks:
    """The size of a table."""
    return Blocks(table.dims[1], max((table.dims[0] - 1).bit_length(), INDEX_BITS))


class _NotOurs(Exception):
    """What stands there is not what `decoder` writes."""


class DecodeChains:
    """The chains of one graph; bodies of its control flow are not looked into."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._makers, self._constants = makers(graph.node), initializers(graph)

    def of_layer(self, node: onnx.NodeProto) -> DecodeChain | None:
        """The chain of a layer's weight; None where the weight is none of ours, and for what is no layer.

        A Max of one input, which `expansion` puts in front of a MatMul, is looked through.
        """
        if op_of(node) not in WEIGHTED_OPERATORS or len(node.input) < 2:
            return None
        by = self._makers.get(node.input[1])
        same = by is not None and op_of(by) == "Max" and len(by.input) == 1
        return self.read(by.input[0] if by is not None and same else node.input[1])

    def read(self, weight: str) -> DecodeChain | None:
        """The chain that makes a tensor; None where it is none of ours."""
        end = self._makers.get(weight)
        if end is None or op_of(end) not in ("Mul", "DequantizeLinear"):
            return None
        try:
            return _Reading(self._makers, self._constants).chain(weight)
        except _NotOurs:
            return None


class _Reading:
    """One chain while it is followed backward; every method raises _NotOurs where the grammar ends."""

    def __init__(self, makers: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> None:
        self._makers, self._constants = makers, constants
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, None] = {}

    def chain(self, weight: str) -> DecodeChain:
        end = self._take(weight, "Mul", "DequantizeLinear")
        integer = op_of(end) == "DequantizeLinear"
        numbers, scale = self._operands(end)
        if integer:
            cast = self._peek(numbers, "Cast")
            if cast is not None and cast.input[0] not in self._constants:
                numbers = self._cast(numbers, {TensorProto.INT8})
        zero, doubled = None, False
        if self._peek(numbers, "Sub") is not None:
            node = self._take(numbers, "Sub")
            numbers, zero = node.input[0], self._constant(node.input[1])
        sum_ = self._peek(numbers, "Add")
        if sum_ is not None and sum_.input[0] == sum_.input[1]:
            numbers, doubled = self._take(numbers, "Add").input[0], True
        planes, shape = self._planes(numbers)
        _check_granularity(end, integer, shape, scale, zero)
        nodes = tuple({id(node): node for node in reversed(self._nodes)}.values())
        return DecodeChain(weight, end, shape, planes, doubled, zero, scale, nodes, tuple(self._initializers))

    def _operands(self, end: onnx.NodeProto) -> tuple[str, onnx.TensorProto]:
        """What decodes the codes, and the scale; of a product in either order."""
        if op_of(end) == "Mul":
            first, second = end.input
            return (first, self._scale(second)) if self._holds_scale(second) else (second, self._scale(first))
        if len(end.input) != 3:
            raise _NotOurs
        zero = self._constant(end.input[2])
        if zero.data_type != TensorProto.INT8 or np.any(self._values(end.input[2])):
            raise _NotOurs
        return end.input[0], self._scale(end.input[1])

    def _holds_scale(self, name: str) -> bool:
        cast = self._peek(name, "Cast")
        held = self._constants.get(name if cast is None else cast.input[0])
        return held is not None and held.data_type in HALVES | {TensorProto.FLOAT}

    def _scale(self, name: str) -> onnx.TensorProto:
        """A constant of floats; networks in half precision hold it as such where that is exact, or compute in it."""
        if self._peek(name, "Cast") is not None:
            tensor = self._constant(self._cast(name, {TensorProto.FLOAT, TensorProto.FLOAT16}))
            kinds = HALVES
        else:
            tensor, kinds = self._constant(name), frozenset({int(TensorProto.FLOAT), int(TensorProto.FLOAT16)})
        if tensor.data_type not in kinds:
            raise _NotOurs
        return tensor

    def _planes(self, numbers: str) -> tuple[tuple[StoredPlane, ...], tuple[int, ...]]:
        """Of codes that are a sum, its terms, the first of which holds the highest bits; and their shape."""
        found: list[StoredPlane] = []
        shapes: set[tuple[int, ...]] = set()
        while True:
            is_sum = self._peek(numbers, "Add") is not None
            term = numbers
            if is_sum:
                numbers, term = self._take(numbers, "Add").input
            plane, shape = self._plane(term)
            found.insert(0, plane)
            shapes.add(shape)
            if len(found) > MOST_PLANES or len(shapes) > 1:
                raise _NotOurs
            if not is_sum:
                return tuple(found), shape

    def _plane(self, name: str) -> tuple[StoredPlane, tuple[int, ...]]:
        shift = 0
        if self._peek(name, "Mul") is not None:
            node = self._take(name, "Mul")
            name, factor = node.input[0], self._values(node.input[1])
            if factor.size != 1 or factor.item() not in {2**s for s in range(1, 8)}:
                raise _NotOurs
            shift = int(factor.item()).bit_length() - 1
        if self._peek(name, "Cast") is not None:
            name = self._cast(name, NUMBER_TYPES)
        if name in self._constants:
            tensor = self._constant(name)
            if tensor.data_type not in NARROW:
                raise _NotOurs
            return StoredPlane(tensor, shift), tuple(tensor.dims)
        if shift:
            raise _NotOurs  # tables hold theirs
        return self._table(name)

    def _table(self, name: str) -> tuple[StoredPlane, tuple[int, ...]]:
        """Bytes that a table turns into codes, and the shape of these."""
        node = self._take(name, "Reshape")
        shape = tuple(int(size) for size in self._values(node.input[1]).reshape(-1))
        name, runs = node.input[0], 1
        cut = self._peek(name, "Slice") is not None
        if cut:
            name, runs = self._cut(name, math.prod(shape))
        gather = self._take(name, "Gather")
        table = self._constant(gather.input[0])
        fits = table.data_type == TensorProto.INT8 and len(table.dims) == 2 and table.dims[0] in ENTRIES_OF_TABLE
        if not fits or min(shape, default=1) < 1 or gather.attribute:
            raise _NotOurs
        blocks = _blocks(table)
        stored = self._indices(gather.input[1], blocks)
        count = math.prod(stored.dims) * blocks.lanes // (blocks.lanes + (blocks.lanes > 1))
        decoded, wanted = count * blocks.length, math.prod(shape)
        if decoded % runs or (decoded < wanted if cut else decoded != wanted):
            raise _NotOurs
        return StoredPlane(stored, 0, table, runs), shape

    def _indices(self, name: str, blocks: Blocks) -> onnx.TensorProto:
        """The bytes that indices are stored in."""
        wide = blocks.index_bits > INDEX_BITS
        stored = self._constant(self._cast(self._rows_of(name, blocks) if wide else name, {TensorProto.INT32}))
        fits = not wide or (len(stored.dims) == 2 and stored.dims[1] == blocks.lanes + 1)
        if stored.data_type != TensorProto.UINT8 or not fits:
            raise _NotOurs
        return stored

    def _rows_of(self, name: str, blocks: Blocks) -> str:
        """What indices of more than a byte are computed from: rows of low bytes and the bits above them."""
        more = blocks.index_bits - INDEX_BITS
        sum_ = self._take(name, "Add")
        low, above = sum_.input
        for op, factor in (("Mul", 2**INDEX_BITS), ("Mod", 2**more), ("Div", None)):
            node = self._take(above, op)
            values = self._values(node.input[1])
            wanted = factor if factor is not None else 2 ** (more * np.arange(blocks.lanes))
            if not np.array_equal(values, wanted) or (op == "Mod" and node.attribute):
                raise _NotOurs
            above = node.input[0]
        split = self._take(low, "Split")
        if list(split.output) != [low, above] or self._values(split.input[1]).tolist() != [blocks.lanes, 1]:
            raise _NotOurs
        if [(a.name, a.i) for a in split.attribute] != [("axis", 1)]:
            raise _NotOurs
        source: str = split.input[0]
        return source

    def _cut(self, name: str, count: int) -> tuple[str, int]:
        """What so many codes are cut from, and in how many runs."""
        node = self._take(name, "Slice")
        ends = [self._values(given).tolist() for given in node.input[1:]]
        reshape = self._take(node.input[0], "Reshape")
        flat = self._values(reshape.input[1]).tolist()
        if flat == [-1] and ends == [[0], [count]]:
            return reshape.input[0], 1
        runs = flat[0] if isinstance(flat, list) and len(flat) == 2 and flat[1] == -1 else 0
        if runs < 1 or count % runs or ends != [[0], [count // runs], [1]]:
            raise _NotOurs
        return reshape.input[0], int(runs)

    # -- steps

    def _peek(self, name: str, op: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, where it is of an operator."""
        node = self._makers.get(name)
        return node if node is not None and op_of(node) == op and "" not in node.input[:2] else None

    def _take(self, name: str, *ops: str) -> onnx.NodeProto:
        """The node that makes a tensor, now part of the chain."""
        node = next((node for op in ops if (node := self._peek(name, op)) is not None), None)
        if node is None or len(node.input) < 2:
            raise _NotOurs
        self._nodes.append(node)
        return node

    def _cast(self, name: str, kinds: frozenset[int] | set[int]) -> str:
        """What a Cast to one of the types reads."""
        node = self._peek(name, "Cast")
        if node is None or len(node.input) != 1 or not any(a.name == "to" and a.i in kinds for a in node.attribute):
            raise _NotOurs
        self._nodes.append(node)
        source: str = node.input[0]
        return source

    def _constant(self, name: str) -> onnx.TensorProto:
        """An initializer, now part of the chain."""
        if name not in self._constants:
            raise _NotOurs
        self._initializers[name] = None
        return self._constants[name]

    def _values(self, name: str) -> Array:
        """The values of a small initializer, now part of the chain."""
        tensor = self._constant(name)
        if tensor.data_location == TensorProto.EXTERNAL or math.prod(tensor.dims) > MOST_VALUES:
            raise _NotOurs
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except (ValueError, TypeError):  # a damaged constant
            raise _NotOurs from None


def _check_granularity(
    end: onnx.NodeProto,
    integer: bool,
    shape: tuple[int, ...],
    scale: onnx.TensorProto,
    zero: onnx.TensorProto | None,
) -> None:
    """Raise _NotOurs unless scale and zero point have one value, or one for each channel along one axis."""
    dims = tuple(scale.dims)
    if integer and math.prod(dims) > 1:
        axis = next((int(a.i) for a in end.attribute if a.name == "axis"), 1)
        fits = len(dims) == 1 and -len(shape) <= axis < len(shape) and dims[0] == shape[axis]
    else:
        fits = _one_axis(dims, shape)
    of_zero = () if zero is None else tuple(zero.dims)
    if not fits or not _one_axis(of_zero, shape) or not (integer or math.prod(of_zero) == 1 or of_zero == dims):
        raise _NotOurs


def _one_axis(dims: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a constant of these dimensions has one value, or one for each index along one axis of a shape."""
    wide = [i for i, size in enumerate(dims) if size != 1]
    if not wide:
        return len(dims) <= len(shape)
    return len(dims) == len(shape) and len(wide) == 1 and dims[wide[0]] == shape[wide[0]]
