"""The linear arithmetic at a model's head: what stands between its inputs and the first layers and normalizations.

Every operator that keeps a tensor a linear function of the inputs is followed: arithmetic with constants, moves of
dimensions and channels, Convs and Gemms one behind the other. No layer is run.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from dfmpc_onnx.model.head_constants import HeadConstants
from dfmpc_onnx.model.linear_maps import (
    Arithmetic,
    Filters,
    Followed,
    Index,
    NotLinear,
    added,
    among_others,
    as_filters,
    layer,
    scaled,
)
from dfmpc_onnx.model.protos import bodies, captured_names, fed_names, op_of
from dfmpc_onnx.numerics.arrays import Float

SAME = frozenset({"Identity", "Cast", "Dropout", "Clip"})  # Clip: to the bounds that pixels have anyway
MOST_KEPT_NUMBERS = 2**25  # of all that is followed
# A node that is damaged is reported by those who run it.
NOT_FOLLOWED = (NotLinear, LookupError, TypeError, ValueError, ArithmeticError)
RESIZED = frozenset({"Resize", "Upsample", "Pad"})  # channels stay what they are, sizes do not


@dataclasses.dataclass(frozen=True)
class Head:
    """ends: by input, the arithmetic in front of what is not followed further. norms: BatchNormalizations that read a
    linear function of the inputs, with it."""

    ends: Mapping[str, tuple[Arithmetic, ...]]
    norms: tuple[tuple[onnx.NodeProto, Filters], ...]
    constants: HeadConstants


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
    kept = 0
    for node in model.graph.node:
        read = [known[name] for name in node.input if name in known]
        read += [known[name] for body in bodies(node) for name in captured_names(body) if name in known]
        if not read:
            continue
        if op_of(node) == "BatchNormalization" and node.input[0] in known and len(node.input) == 5:
            with contextlib.suppress(*NOT_FOLLOWED):
                norms.append((node, as_filters(known[node.input[0]])))
        result: Followed | None = None
        with contextlib.suppress(*NOT_FOLLOWED):
            result = _follow(node, known, constants)
            kept += result.numbers
        if result is not None and kept <= MOST_KEPT_NUMBERS:
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
        return layer(op, x, given, attributes)
    if not isinstance(x, Arithmetic):
        raise NotLinear
    return _move(op, x, given, attributes)


# -- arithmetic


def _arithmetic(node: onnx.NodeProto, op: str, known: Mapping[str, Followed], constants: HeadConstants) -> Followed:
    first, second = (known.get(name) for name in node.input)
    if first is not None and second is not None:
        if op == "Mul" or op == "Div":
            raise NotLinear
        return added(as_filters(first), as_filters(second), -1.0 if op == "Sub" else 1.0)
    x, name = (first, node.input[1]) if first is not None else (second, node.input[0])
    value = constants.get(name)
    if x is None or value is None or (op == "Div" and first is None):
        raise NotLinear
    number = np.asarray(value, np.float64)
    if not np.isfinite(number).all() or (op == "Div" and not number.all()):
        raise NotLinear
    one = np.ones(())
    pair: tuple[Float, Float] = {
        "Add": (one, number),
        "Sub": (one, -number) if first is not None else (-one, number),
        "Mul": (number, 0 * one),
        "Div": (one / number if op == "Div" else number, 0 * one),
    }[op]
    factor, offset = pair
    if isinstance(x, Filters):
        return scaled(x, factor, offset)
    if number.ndim > x.factor.ndim or any(
        n > 1 and size not in (n, None) for n, size in zip(number.shape[::-1], x.sizes[::-1], strict=False)
    ):
        raise NotLinear
    return dataclasses.replace(x, factor=x.factor * factor, offset=x.offset * factor + offset)


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
    parts = [as_filters(state) for state in states if state is not None]
    total = sum(len(part.offset) for part in parts)
    result: Filters | None = None
    begin = 0
    for part in parts:
        wide = among_others(part, begin, total)
        result = wide if result is None else added(result, wide, 1.0)
        begin += len(part.offset)
    assert result is not None
    return result


def _joined(states: Sequence[Arithmetic], axis: int) -> Arithmetic:
    """Channels of one input put together, as a turn of their order leaves them."""
    sizes = [size for s in states if (size := s.sizes[axis]) is not None and size <= 4096]
    if len(sizes) < len(states):
        raise NotLinear
    index, values = [], []
    for state, size in zip(states, sizes, strict=True):
        picked = state.picked[axis]
        index.append(np.arange(size) if picked is None else picked)
        shape = list(np.broadcast_shapes(state.factor.shape, state.offset.shape))
        shape[axis] = size
        values.append([np.broadcast_to(v, shape) for v in (state.factor, state.offset)])
    try:
        factor, offset = (np.concatenate([v[i] for v in values], axis) for i in (0, 1))
    except ValueError:
        raise NotLinear from None
    first = states[0]
    order = tuple(np.concatenate(index) if i == axis else p for i, p in enumerate(first.picked))
    total = tuple(len(order[axis]) if i == axis else s for i, s in enumerate(first.sizes))  # type: ignore[arg-type]
    return dataclasses.replace(first, factor=factor, offset=offset, picked=order, sizes=total)
