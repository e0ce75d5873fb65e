"""The weights of layers before and after: where the float ones lie on the grid that a quantized file has for them.

A quantized weight seldom has the scale of its float original: a BatchNormalization is folded into it, channels are
equalized, and DF-MPC's closed form scales input channels. All of these are one factor for each channel of the output
and one for each of the input, so the float weight is brought to the quantized one's scale by the two factors that fit
it best, and what is left is rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, WEIGHTED_OPERATORS, initializers, makers, op_of, stored_value
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.qdq.decode_chains import DecodeChain, DecodeChains

ROUNDS_OF_FIT = 4
BINS_EACH = 4  # bins of float weights for each level of a grid that has few
MOST_LEVELS_DRAWN = 24  # of which each is drawn by itself
MOST_BINS = 64  # over a grid of more levels
MARGIN = 0.15  # of the grid's width, to either side of it, that histograms show
LEAST_LIKENESS = 1.0  # dB, below which the float weight of a layer's name is another one; ternary codes keep 4
LARGEST_LAYER = 2**24  # of a layer that is looked at


class WeightGrid(msgspec.Struct, frozen=True):
    """The weights of one layer in steps of its grid, per channel: 1 is one step.

    width: bits that its codes need. levels: what the codes stand for, in increasing order; shares: of the weights at
    each of them. edges, before: bins of the float weights and the share of them in each; none where no float weight
    fits. beyond: share of the float weights beyond the ends of the grid. sqnr_db: float weights over what rounding
    changed.
    """

    layer: str
    width: int
    levels: tuple[float, ...]
    shares: tuple[float, ...]
    edges: tuple[float, ...] = ()
    before: tuple[float, ...] = ()
    beyond: float | None = None
    sqnr_db: float | None = None


def weight_grids(float_model: onnx.ModelProto, quantized: onnx.ModelProto, layers: Collection[str]) -> list[WeightGrid]:
    """The grids of those layers that the quantized file holds codes for, in its order. Layers are matched by name."""
    originals = dict(_float_weights(float_model.graph, layers))
    chains, stored = DecodeChains(quantized.graph), initializers(quantized.graph)
    made, found = makers(quantized.graph.node), []
    for node in quantized.graph.node:
        name = layer_name(node)
        if name not in layers or op_of(node) not in WEIGHTED_OPERATORS:
            continue
        chain = chains.of_layer(node)
        try:
            grid = _of_chain(chain) if chain is not None else _of_dequantize(made.get(node.input[1]), stored)
        except (ValueError, IndexError, TypeError):  # a damaged file
            continue
        if grid is not None:
            found.append(_grid_of(name, *grid, originals.get(name)))
    return found


def layer_name(node: onnx.NodeProto) -> str:
    """A layer as `qdq.stored_bits` names it."""
    return str(node.name or "".join(node.output[:1]))


def _float_weights(graph: onnx.GraphProto, layers: Collection[str]) -> Iterator[tuple[str, Float]]:
    stored = initializers(graph)
    for node in graph.node:
        value = stored_value(node)
        if value is not None:
            stored[node.output[0]] = value
    for index, node in enumerate(graph.node):
        name = node.name or f"{node.op_type}_{index}"  # as the pass `normalize` names what has no name
        if op_of(node) in WEIGHTED_OPERATORS and len(node.input) > 1 and name in layers:
            tensor = stored.get(node.input[1])
            if tensor is not None and np.prod(tensor.dims, dtype=np.int64) <= LARGEST_LAYER:
                yield name, numpy_helper.to_array(tensor).astype(np.float64)


def _of_chain(chain: DecodeChain) -> tuple[Float, Float, Float] | None:
    """The code of each weight, the level that it stands for, and the step of its channel, all of the weight's shape."""
    if np.prod(chain.shape, dtype=np.int64) > LARGEST_LAYER:
        return None
    step = chain.scale().astype(np.float64)
    axis = next((int(a.i) for a in chain.end.attribute if a.name == "axis"), 1)
    if chain.integer and step.size > 1:
        step = step.reshape([-1 if i == axis % len(chain.shape) else 1 for i in range(len(chain.shape))])
    half = 2.0 if chain.doubled else 1.0
    codes = chain.codes() / half
    return codes, codes - chain.zero() / half, np.broadcast_to(step * half, chain.shape)


def _of_dequantize(
    node: onnx.NodeProto | None, stored: dict[str, onnx.TensorProto]
) -> tuple[Float, Float, Float] | None:
    """The same of a DequantizeLinear as other tools write it, over stored codes."""
    if node is None or op_of(node, RUNTIME_DOMAINS) != "DequantizeLinear" or node.input[0] not in stored:
        return None
    codes = numpy_helper.to_array(stored[node.input[0]]).astype(np.float64)
    numbers = [numpy_helper.to_array(stored[name]).astype(np.float64) for name in node.input[1:] if name in stored]
    if len(numbers) != len(node.input) - 1 or codes.size > LARGEST_LAYER or any(n.ndim > 1 for n in numbers):
        return None
    axis = next((int(a.i) for a in node.attribute if a.name == "axis"), 1)
    shape = [-1 if i == axis % max(codes.ndim, 1) else 1 for i in range(codes.ndim)]
    step, zero = (n.reshape(shape) if n.size > 1 else n for n in (*numbers, np.zeros(1))[:2])
    return codes, codes - zero, np.broadcast_to(step, codes.shape)


def _grid_of(name: str, codes: Float, levels: Float, step: Float, original: Float | None) -> WeightGrid:
    values, counts = np.unique(np.round(2 * levels) / 2, return_counts=True)
    width = max(int(np.ceil(np.log2(codes.max() - codes.min() + 1))), 1)
    grid = WeightGrid(name, width, tuple(values.tolist()), tuple(_shares(counts)))
    fitted = None if original is None else _fitted(original, levels * step)
    if fitted is None:
        return grid
    noise = float(np.square(levels * step - fitted).sum())
    signal = float(np.square(fitted).sum())
    sqnr = 10 * float(np.log10(signal / noise)) if noise > 0 < signal else None
    if sqnr is not None and sqnr < LEAST_LIKENESS:
        return grid
    steps = fitted / np.where(step == 0, 1, step)
    low, high = float(values[0]), float(values[-1])
    edges = _bins(low, high)
    before, _ = np.histogram(steps, edges)
    beyond = float(((steps < low - 0.5) | (steps > high + 0.5)).mean())
    return msgspec.structs.replace(
        grid,
        edges=tuple(edges.tolist()),
        before=tuple(_shares(before, steps.size)),
        beyond=beyond,
        sqnr_db=None if sqnr is None else round(sqnr, 2),
    )


def _bins(low: float, high: float) -> Float:
    """Edges of bins over a grid and a little beyond: of a few to each level where there are few, else of one level or
    several, so that each bin has as many levels as any other."""
    span = high - low + 1
    width = 1 / BINS_EACH if span <= MOST_LEVELS_DRAWN else float(np.ceil(span / MOST_BINS))
    room = int(np.ceil(max(MARGIN * span, 1.0) / width))
    count = int(np.ceil(span / width))
    numbers: Float = np.arange(-room, count + room + 1, dtype=np.float64)
    return low - 0.5 + width * numbers


def _shares(counts: npt.NDArray[np.intp], whole: int | None = None) -> list[float]:
    rounded: list[float] = np.round(counts / max(whole or int(counts.sum()), 1), 6).tolist()
    return rounded


def _fitted(original: Float, quantized: Float) -> Float | None:
    """The float weight times one factor for each index of its first axis and of its second that come nearest to the
    quantized one; None where shapes do not fit. Least squares in turns."""
    if original.shape != quantized.shape:
        if original.ndim != 2 or original.T.shape != quantized.shape:
            return None
        original = original.T
    fitted = original
    for turn in range(2 * ROUNDS_OF_FIT):
        axes = tuple(i for i in range(original.ndim) if i != turn % 2)
        over = np.square(fitted).sum(axis=axes, keepdims=True)
        factor = (fitted * quantized).sum(axis=axes, keepdims=True) / np.where(over > 0, over, 1)
        fitted = fitted * np.where(factor == 0, 1, factor)
    return fitted
