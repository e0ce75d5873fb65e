"""Linear functions of inputs: element by element, or filters over their channels; what layers make of them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float

LARGEST_FILTERS = 2**22  # numbers of all filters in front of one normalization
MOST_PRODUCTS = 2**31  # of filters behind filters
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

    @property
    def numbers(self) -> int:
        """How many it keeps."""
        return self.factor.size + self.offset.size

    def along(self, dimension: int) -> tuple[Float, Float]:
        """Factor and offset of each channel, `dimension` being that of the channels: two ``[channels]``, or ``[1]``."""
        others = tuple(i for i in range(self.factor.ndim) if i != dimension)
        return self.factor.mean(axis=others), self.offset.mean(axis=others)


@dataclasses.dataclass(frozen=True)
class FilterPart:
    """Filters over one input.

    axis: the input's dimension of channels; None where all of it is one channel. weight: ``[outputs, channels,
    *kernel]``, dilation written out. spacing: of outputs, in the input's pixels. places: which taps lie on the map,
    ``[places, *kernel]`` of 0 and 1, beside the share of the outputs that see them so; empty where there is no padding,
    or it is not known.
    """

    axis: int | None
    weight: Float
    spacing: tuple[int, ...]
    places: tuple[tuple[float, Float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Filters:
    """The sum of filters over inputs, and an offset ``[outputs]``."""

    parts: Mapping[str, FilterPart]
    offset: Float

    @property
    def numbers(self) -> int:
        """How many it keeps."""
        return sum(part.weight.size for part in self.parts.values())


Followed = Arithmetic | Filters


def scaled(x: Filters, factor: Float, offset: Float) -> Filters:
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


def added(first: Filters, second: Filters, sign: float) -> Filters:
    if len(first.offset) != len(second.offset):
        raise NotLinear
    parts = dict(first.parts)
    for name, part in second.parts.items():
        signed = dataclasses.replace(part, weight=sign * part.weight)
        parts[name] = _together(parts[name], signed) if name in parts else signed
    return Filters(parts, first.offset + sign * second.offset)


def among_others(x: Filters, begin: int, total: int) -> Filters:
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


def as_filters(x: Followed) -> Filters:
    """Element by element as filters of one tap, the second dimension being that of the channels."""
    if isinstance(x, Filters):
        return x
    size = x.sizes[1] if len(x.axes) > 1 else None
    if size is None:
        raise NotLinear
    axis = x.axes[1]
    _check_size(size * size)
    factor, offset = (np.broadcast_to(v, size) for v in x.along(1))
    index = x.picked[1]
    weight = np.zeros((size, size if index is None else int(index.max()) + 1))
    weight[np.arange(size), np.arange(size) if index is None else index] = factor
    spatial = (1,) * (len(x.axes) - 2)
    return Filters({x.source: FilterPart(axis, weight.reshape(*weight.shape, *spatial), spatial)}, offset.copy())


def layer(
    op: str, x: Followed, given: Sequence[npt.NDArray[np.generic] | None], attributes: Mapping[str, object]
) -> Filters:
    weight = given[1] if len(given) > 1 else None
    bias = given[2] if len(given) > 2 else None
    if weight is None or (bias is None and len(given) > 2):
        raise NotLinear
    filters = as_filters(x)
    w = np.asarray(weight, np.float64)
    if not np.isfinite(w).all() or (bias is not None and not np.isfinite(np.asarray(bias, np.float64)).all()):
        raise NotLinear
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
    strides: tuple[int, ...] = tuple(attributes.get("strides", (1,) * spatial))  # type: ignore[arg-type]
    dilations: tuple[int, ...] = tuple(attributes.get("dilations", (1,) * spatial))  # type: ignore[arg-type]
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
        if weight.size * math.prod(part.weight.shape[1:]) > MOST_PRODUCTS:
            raise NotLinear
        whole = np.zeros((len(weight), channels, *size))
        rows, columns = len(weight) // group, weight.shape[1]
        for g, tap in itertools.product(range(group), np.ndindex(*weight.shape[2:])):
            out, read = slice(g * rows, (g + 1) * rows), slice(g * columns, (g + 1) * columns)
            at = tuple(slice(i * s, i * s + k) for i, s, k in zip(tap, steps, part.weight.shape[2:], strict=True))
            whole[(out, slice(None), *at)] += np.tensordot(weight[(out, slice(None), *tap)], part.weight[read], 1)
        spacing = tuple(s * t for s, t in zip(part.spacing, strides, strict=True))
        places = () if sizes is None else _places(weight.shape[2:], strides, dilations, sizes, attributes)
        parts[name] = FilterPart(part.axis, whole, spacing, places)
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


def _together(first: FilterPart, second: FilterPart) -> FilterPart:
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
