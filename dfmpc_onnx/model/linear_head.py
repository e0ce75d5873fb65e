"""The linear arithmetic at a model's head: what stands between its inputs and the first layers and normalizations.

Every operator that keeps a tensor a linear function of the inputs is followed: arithmetic with constants, moves of
dimensions and channels, Convs and Gemms one behind the other. No layer is run.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from dfmpc_onnx.model.head_constants import HeadConstants
from dfmpc_onnx.model.protos import bodies, captured_names, fed_names, op_of
from dfmpc_onnx.numerics.arrays import Float

LARGEST_FILTERS = 2**24  # numbers of all filters in front of one normalization
SAME = frozenset({"Identity", "Cast", "Dropout", "Clip"})  # Clip: to the bounds that pixels have anyway
RESIZED = frozenset({"Resize", "Upsample", "Pad"})  # channels stay what they are, sizes do not
Index = npt.NDArray[np.int64]


class NotLinear(Exception):
    """A node that is not followed."""


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """``factor * x + offset`` of one input, element by element.

    source: the input. axes: which of its dimensions each dimension of the tensor is, None for one of size 1 that was
    put in. sizes: of these dimensions, None where not known. picked: along each dimension the entries of the input, in
    the tensor's order; None for all. factor, offset: to be broadcast against the tensor.
    """

    source: str
    axes: tuple[int | None, ...]
    sizes: tuple[int | None, ...]
    picked: tuple[Index | None, ...]
    factor: Float
    offset: Float

    def along(self, dimension: int) -> tuple[Float, Float]:
        """Factor and offset of each channel, `dimension` being that of the channels: two ``[channels]``, or ``[1]``."""
        others = tuple(i for i in range(self.factor.ndim) if i != dimension)
        return self.factor.mean(axis=others), self.offset.mean(axis=others)


@dataclasses.dataclass(frozen=True)
class Part:
    """Filters over one input.

    axis: the input's dimension of channels. weight: ``[outputs, channels, *kernel]``, dilation written out. spacing: of
    outputs, in the input's pixels. places: which taps lie on the map, ``[places, *kernel]`` of 0 and 1, beside the
    share of the outputs that see them so; empty where there is no padding, or it is not known.
    """

    axis: int
    weight: Float
    spacing: tuple[int, ...]
    places: tuple[tuple[float, Float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Filters:
    """The sum of filters over inputs, and an offset ``[outputs]``."""

    parts: Mapping[str, Part]
    offset: Float


@dataclasses.dataclass(frozen=True)
class Head:
    """ends: by input, the arithmetic in front of what is not followed further. norms: BatchNormalizations that read a
    linear function of the inputs, with it."""

    ends: Mapping[str, tuple[Arithmetic, ...]]
    norms: tuple[tuple[onnx.NodeProto, Filters], ...]
    constants: HeadConstants


Followed = Arithmetic | Filters


def linear_head(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> Head:
    """The linear part of a model behind its inputs, whose shapes are given by name; others are not followed."""
    constants = HeadConstants(model.graph)
    known: dict[str, Followed] = {}
    for name in fed_names(model.graph):
        if name in shapes:
            rank = len(shapes[name])
            start = np.ones((1,) * rank), np.zeros((1,) * rank)
            known[name] = Arithmetic(name, tuple(range(rank)), tuple(shapes[name]), (None,) * rank, *start)
    ends: dict[str, list[Arithmetic]] = {}
    norms = []
    for node in model.graph.node:
        read = [known[name] for name in node.input if name in known]
        read += [known[name] for body in bodies(node) for name in captured_names(body) if name in known]
        if not read:
            continue
        if op_of(node) == "BatchNormalization" and node.input[0] in known and len(node.input) == 5:
            try:
                norms.append((node, _as_filters(known[node.input[0]])))
            except NotLinear:
                pass
        result: Followed | None = None
        try:
            result = _follow(node, known, constants)
        except NotLinear:
            pass
        if result is not None:
            known[node.output[0]] = result
        if not isinstance(result, Arithmetic) and op_of(node) not in ("Shape", "Size"):
            for state in read:
                if isinstance(state, Arithmetic):
                    ends.setdefault(state.source, []).append(state)
    return Head({name: tuple(found) for name, found in ends.items()}, tuple(norms), constants)


def _follow(node: onnx.NodeProto, known: Mapping[str, Followed], constants: HeadConstants) -> Followed:
    op, attributes = op_of(node), {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if op in ("Add", "Sub", "Mul", "Div"):
        return _arithmetic(node, op, known, constants)
    if op == "Concat":
        return _concat([known.get(name) for name in node.input], int(attributes["axis"]))
    x = known.get(node.input[0]) if node.input else None
    if x is None:
        raise NotLinear
    given = [constants.get(name) for name in node.input]
    if op in SAME:
        return x
    if op in ("Conv", "Gemm", "MatMul"):
        return _layer(op, x, given, attributes)
    if not isinstance(x, Arithmetic):
        raise NotLinear
    return _move(op, x, given, attributes)


# -- arithmetic


def _arithmetic(node: onnx.NodeProto, op: str, known: Mapping[str, Followed], constants: HeadConstants) -> Followed:
    first, second = (known.get(name) for name in node.input)
    if first is not None and second is not None:
        if op == "Mul" or op == "Div":
            raise NotLinear
        return _sum(_as_filters(first), _as_filters(second), -1.0 if op == "Sub" else 1.0)
    x, name = (first, node.input[1]) if first is not None else (second, node.input[0])
    value = constants.get(name)
    if x is None or value is None or (op == "Div" and first is None):
        raise NotLinear
    number = np.asarray(value, np.float64)
    if not np.isfinite(number).all() or (op == "Div" and not number.all()):
        raise NotLinear
    factor, offset = {
        "Add": (np.float64(1), number),
        "Sub": (np.float64(1), -number) if first is not None else (np.float64(-1), number),
        "Mul": (number, np.float64(0)),
        "Div": (1 / number if op == "Div" else number, np.float64(0)),  # each entry is worked out
    }[op]
    if isinstance(x, Filters):
        return _scaled(x, np.asarray(factor), np.asarray(offset))
    if number.ndim > x.factor.ndim or any(
        n > 1 and size not in (n, None) for n, size in zip(number.shape[::-1], x.sizes[::-1], strict=False)
    ):
        raise NotLinear
    return dataclasses.replace(x, factor=x.factor * factor, offset=x.offset * factor + offset)


def _scaled(x: Filters, factor: Float, offset: Float) -> Filters:
    """Arithmetic with one number a channel, which stand in the second dimension."""
    rank = 2 + next(iter(x.parts.values())).weight.ndim - 2
    rows = []
    for value in (factor, offset):
        full = value.reshape((1,) * (rank - value.ndim) + value.shape) if value.ndim <= rank else value
        if full.ndim != rank or math.prod(full.shape) != full.shape[1] or full.shape[1] not in (1, len(x.offset)):
            raise NotLinear
        rows.append(np.broadcast_to(full.reshape(-1), len(x.offset)))
    parts = {
        name: dataclasses.replace(part, weight=part.weight * rows[0].reshape(-1, *(1,) * (part.weight.ndim - 1)))
        for name, part in x.parts.items()
    }
    return Filters(parts, x.offset * rows[0] + rows[1])


def _sum(first: Filters, second: Filters, sign: float) -> Filters:
    if len(first.offset) != len(second.offset):
        raise NotLinear
    parts = dict(first.parts)
    for name, part in second.parts.items():
        signed = dataclasses.replace(part, weight=sign * part.weight)
        parts[name] = _together(parts[name], signed) if name in parts else signed
    return Filters(parts, first.offset + sign * second.offset)


# -- moves


def _move(
    op: str, x: Arithmetic, given: Sequence[npt.NDArray[np.generic] | None], attributes: Mapping[str, object]
) -> Arithmetic:
    rank = len(x.axes)
    if op in RESIZED:
        sizes = tuple(size if i < 2 and op != "Pad" else None for i, size in enumerate(x.sizes))
        return dataclasses.replace(x, sizes=sizes)
    if op == "Transpose":
        return _reordered(x, [int(i) for i in attributes.get("perm", range(rank)[::-1])])  # type: ignore[attr-defined]
    if op in ("Squeeze", "Unsqueeze"):
        stated = attributes.get("axes")
        axes = stated if stated is not None else given[1] if len(given) > 1 else None
        if axes is None:
            raise NotLinear
        numbers = [int(i) for i in np.asarray(axes).reshape(-1)]
        if op == "Squeeze":
            gone = {i % rank for i in numbers}
            if any(x.factor.shape[i] != 1 or x.offset.shape[i] != 1 for i in gone):
                raise NotLinear
            return _reordered(x, [i for i in range(rank) if i not in gone])
        made = {i % (rank + len(numbers)) for i in numbers}
        rest = iter(range(rank))
        return _reordered(x, [None if i in made else next(rest) for i in range(rank + len(numbers))])
    if op == "Reshape":
        return _reordered(x, _reshaped(x, given[1] if len(given) > 1 else None))
    if op in ("Gather", "Slice"):
        return _picked(op, x, given, attributes)
    raise NotLinear


def _reordered(x: Arithmetic, order: Sequence[int | None]) -> Arithmetic:
    """The dimensions in another order, None for a new one of size 1; one that is left out has size 1."""
    dropped = [i for i in range(len(x.axes)) if i not in order]
    kept = [i for i in order if i is not None]

    def moved(value: Float) -> Float:
        value = np.broadcast_to(value, np.broadcast_shapes(value.shape, (1,) * len(x.axes)))
        value = value.transpose(*kept, *dropped).reshape([value.shape[i] for i in kept])
        return value.reshape([1 if i is None else value.shape[kept.index(i)] for i in order])

    return Arithmetic(
        x.source,
        tuple(None if i is None else x.axes[i] for i in order),
        tuple(1 if i is None else x.sizes[i] for i in order),
        tuple(None if i is None else x.picked[i] for i in order),
        moved(x.factor),
        moved(x.offset),
    )


def _reshaped(x: Arithmetic, wanted: npt.NDArray[np.generic] | None) -> list[int | None]:
    """Where each dimension of a Reshape comes from that only adds dimensions of size 1, or takes them out."""
    if wanted is None:
        raise NotLinear
    shape = [int(n) for n in np.asarray(wanted).reshape(-1)]
    order: list[int | None] = []
    rest = [i for i, size in enumerate(x.sizes) if i == 0 or size != 1]
    for place, size in enumerate(shape):
        if place and size == 1:
            order.append(None)
            continue
        if not rest:
            raise NotLinear
        source = rest.pop(0)
        if place and size not in (0, -1, x.sizes[source]):
            raise NotLinear
        order.append(source)
    if rest or any(x.factor.shape[i] != 1 or x.offset.shape[i] != 1 for i in range(len(x.axes)) if i not in order):
        raise NotLinear
    return order


def _picked(
    op: str, x: Arithmetic, given: Sequence[npt.NDArray[np.generic] | None], attributes: Mapping[str, object]
) -> Arithmetic:
    """Channels taken by a Gather of a list, or turned round by a Slice with step -1."""
    rank = len(x.axes)
    if op == "Gather":
        axis, indices = int(attributes.get("axis", 0)) % rank, given[1]  # type: ignore[call-overload]
        if indices is None or indices.ndim != 1:
            raise NotLinear
        size = x.sizes[axis]
        if size is None:
            raise NotLinear
        index: Index = np.asarray(indices, np.int64) % size
    else:
        if len(given) < 5 or any(v is None or v.size != 1 for v in given[1:5]):
            raise NotLinear
        start, end, along, step = (int(np.asarray(v).reshape(-1)[0]) for v in given[1:5])
        axis = along % rank
        size = x.sizes[axis]
        if size is None or size > 4096:
            raise NotLinear
        index = np.arange(size)[slice(start, None if step < 0 and end < -size else end, step)]
    if not axis or not index.size:
        raise NotLinear
    before = x.picked[axis]
    picked = [
        index if i == axis and before is None else before[index] if i == axis and before is not None else p
        for i, p in enumerate(x.picked)
    ]
    factor, offset = (v if v.shape[axis] == 1 else v.take(index, axis) for v in (x.factor, x.offset))
    sizes = tuple(len(index) if i == axis else size for i, size in enumerate(x.sizes))
    return dataclasses.replace(x, factor=factor, offset=offset, sizes=sizes, picked=tuple(picked))


def _concat(states: Sequence[Followed | None], axis: int) -> Followed:
    """Of channels, the second dimension."""
    if any(state is None for state in states):
        raise NotLinear
    first = states[0]
    rank = len(first.axes) if isinstance(first, Arithmetic) else -1
    alike = [
        s
        for s in states
        if isinstance(s, Arithmetic)
        and isinstance(first, Arithmetic)
        and s.source == first.source
        and s.axes == first.axes
    ]
    if isinstance(first, Arithmetic) and len(alike) == len(states) and axis % rank:
        return _joined(alike, axis % rank)
    if axis != 1:
        raise NotLinear
    parts = [_as_filters(state) for state in states if state is not None]
    total = sum(len(part.offset) for part in parts)
    result: Filters | None = None
    begin = 0
    for part in parts:
        wide = _rows(part, begin, total)
        result = wide if result is None else _sum(result, wide, 1.0)
        begin += len(part.offset)
    assert result is not None
    return result


def _joined(states: Sequence[Arithmetic], axis: int) -> Arithmetic:
    """Channels of one input put together, as a turn of their order leaves them."""
    sizes = [s.sizes[axis] for s in states]
    if any(size is None or size > 4096 for size in sizes):
        raise NotLinear
    index, values = [], []
    for state, size in zip(states, sizes, strict=True):
        picked = state.picked[axis]
        index.append(np.arange(size) if picked is None else picked)
        shape = list(np.broadcast_shapes(state.factor.shape, state.offset.shape))
        shape[axis] = size or 0
        values.append([np.broadcast_to(v, shape) for v in (state.factor, state.offset)])
    try:
        factor, offset = (np.concatenate([v[i] for v in values], axis) for i in (0, 1))
    except ValueError:
        raise NotLinear from None
    first = states[0]
    order = tuple(np.concatenate(index) if i == axis else p for i, p in enumerate(first.picked))
    total = tuple(len(order[axis]) if i == axis else s for i, s in enumerate(first.sizes))  # type: ignore[arg-type]
    return dataclasses.replace(first, factor=factor, offset=offset, picked=order, sizes=total)


def _rows(x: Filters, begin: int, total: int) -> Filters:
    """The same outputs among others, which are 0."""
    offset = np.zeros(total)
    offset[begin : begin + len(x.offset)] = x.offset
    parts = {}
    for name, part in x.parts.items():
        _check_size(total * math.prod(part.weight.shape[1:]))
        weight = np.zeros((total, *part.weight.shape[1:]))
        weight[begin : begin + len(x.offset)] = part.weight
        parts[name] = dataclasses.replace(part, weight=weight)
    return Filters(parts, offset)


# -- layers


def _as_filters(x: Followed) -> Filters:
    """Element by element as filters of one tap, the second dimension being that of the channels."""
    if isinstance(x, Filters):
        return x
    axis = x.axes[1] if len(x.axes) > 1 else None
    if axis is None or x.sizes[1] is None:
        raise NotLinear
    size = x.sizes[1]
    _check_size(size * size)
    factor, offset = (np.broadcast_to(v, size) for v in x.along(1))
    index = x.picked[1]
    weight = np.zeros((size, size if index is None else int(index.max()) + 1))
    weight[np.arange(size), np.arange(size) if index is None else index] = factor
    spatial = (1,) * (len(x.axes) - 2)
    return Filters({x.source: Part(axis, weight.reshape(*weight.shape, *spatial), spatial)}, offset.copy())


def _layer(
    op: str, x: Followed, given: Sequence[npt.NDArray[np.generic] | None], attributes: Mapping[str, object]
) -> Filters:
    weight = given[1] if len(given) > 1 else None
    bias = given[2] if len(given) > 2 else None
    if weight is None or (bias is None and len(given) > 2):
        raise NotLinear
    filters = _as_filters(x)
    w = np.asarray(weight, np.float64)
    if op == "Conv":
        sizes = x.sizes[2:] if isinstance(x, Arithmetic) else None
        result = _convolved(filters, w, attributes, sizes)
    else:
        if w.ndim != 2 or attributes.get("transA", 0) or next(iter(filters.parts.values())).weight.ndim != 2:
            raise NotLinear
        w = w if attributes.get("transB", 0) else w.T
        result = _convolved(filters, float(attributes.get("alpha", 1.0)) * w, {}, None)  # type: ignore[arg-type]
    if bias is None:
        return result
    values = np.asarray(bias, np.float64).reshape(-1) * float(attributes.get("beta", 1.0))  # type: ignore[arg-type]
    return Filters(result.parts, result.offset + values)


def _convolved(
    x: Filters, weight: Float, attributes: Mapping[str, object], sizes: Sequence[int | None] | None
) -> Filters:
    """Filters behind filters. sizes: of the map that is read, where nothing but arithmetic stands in front."""
    spatial = weight.ndim - 2
    group = int(attributes.get("group", 1))  # type: ignore[call-overload]
    strides = tuple(attributes.get("strides", (1,) * spatial))  # type: ignore[arg-type]
    dilations = tuple(attributes.get("dilations", (1,) * spatial))  # type: ignore[arg-type]
    if len(x.offset) != weight.shape[1] * group:
        raise NotLinear
    parts = {}
    for name, part in x.parts.items():
        if part.weight.ndim - 2 != spatial:
            raise NotLinear
        steps = [s * d for s, d in zip(part.spacing, dilations, strict=True)]
        size = [k + (n - 1) * s for k, n, s in zip(part.weight.shape[2:], weight.shape[2:], steps, strict=True)]
        channels = part.weight.shape[1]
        _check_size(len(weight) * channels * math.prod(size))
        whole = np.zeros((len(weight), channels, *size))
        rows, columns = len(weight) // group, weight.shape[1]
        for g, tap in itertools.product(range(group), np.ndindex(*weight.shape[2:])):
            out, read = slice(g * rows, (g + 1) * rows), slice(g * columns, (g + 1) * columns)
            at = tuple(slice(i * s, i * s + k) for i, s, k in zip(tap, steps, part.weight.shape[2:], strict=True))
            whole[(out, slice(None), *at)] += np.tensordot(weight[(out, slice(None), *tap)], part.weight[read], 1)
        spacing = tuple(s * t for s, t in zip(part.spacing, strides, strict=True))
        places = () if sizes is None else _places(weight.shape[2:], strides, dilations, sizes, attributes)
        parts[name] = Part(part.axis, whole, spacing, places)
    taps = weight.reshape(len(weight), weight.shape[1], -1).sum(axis=2).reshape(group, -1, weight.shape[1])
    offset = np.einsum("grc,gc->gr", taps, x.offset.reshape(group, -1)).reshape(-1)
    return Filters(parts, offset)


def _places(
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    sizes: Sequence[int | None],
    attributes: Mapping[str, object],
) -> tuple[tuple[float, Float], ...]:
    """Which taps lie on the map, and how many of the outputs see them so. Beyond the map are zeros."""
    pads = [int(p) for p in attributes.get("pads", (0,) * (2 * len(kernel)))]  # type: ignore[attr-defined]
    if not any(pads) or any(size is None for size in sizes):
        return ()
    each: list[list[tuple[float, Float]]] = []
    for i, (k, s, d, size) in enumerate(zip(kernel, strides, dilations, sizes, strict=True)):
        assert size is not None
        count = (size + pads[i] + pads[i + len(kernel)] - d * (k - 1) - 1) // s + 1
        if count < 1:
            return ()
        taps = np.arange(count)[:, None] * s - pads[i] + d * np.arange(k)
        rows, numbers = np.unique((taps >= 0) & (taps < size), axis=0, return_counts=True)
        wide = np.zeros((len(rows), d * (k - 1) + 1))
        wide[:, ::d] = rows
        each.append([(n / count, row) for n, row in zip(numbers, wide, strict=True)])
    found = []
    for combination in itertools.product(*each):
        mask = np.ones(())
        for _, row in combination:
            mask = np.multiply.outer(mask, row)
        found.append((math.prod(share for share, _ in combination), mask))
    return tuple(found)


def _together(first: Part, second: Part) -> Part:
    """The sum of two filters over one input, their middles on each other."""
    if first.axis != second.axis or first.spacing != second.spacing or first.weight.ndim != second.weight.ndim:
        raise NotLinear
    size = [max(a, b) for a, b in zip(first.weight.shape[1:], second.weight.shape[1:], strict=True)]
    _check_size(len(first.weight) * math.prod(size))
    whole = np.zeros((len(first.weight), *size))
    for part in (first, second):
        shape = part.weight.shape[1:]
        begin = [0, *((n - k) // 2 for n, k in zip(size[1:], shape[1:], strict=True))]
        whole[(slice(None), *(slice(b, b + n) for b, n in zip(begin, shape, strict=True)))] += part.weight
    places = first.places if first.weight.shape[2:] == second.weight.shape[2:] else ()
    return dataclasses.replace(first, weight=whole, places=places)


def _check_size(numbers: int) -> None:
    if numbers > LARGEST_FILTERS:
        raise NotLinear
