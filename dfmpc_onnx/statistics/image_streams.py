"""Two streams of activations, float and quantized, that advance together through a graph: the engine of images.

Each node is run in onnxruntime on the tensors that live at that moment and no longer. The walk is that of
`dfmpc_onnx.statistics.walk`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import CannotRun, ModelError, shown
from dfmpc_onnx.graph.compared_outputs import compared_tensors, selects
from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.graph.query import describe, reads
from dfmpc_onnx.numerics.arrays import Array, Float, Float32
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.least_squares import PatchMoments, SampledMoments
from dfmpc_onnx.numerics.moments import MeanVariance
from dfmpc_onnx.numerics.output_loss import OutputLoss, output_loss
from dfmpc_onnx.runtime.node_runner import NodeSessions
from dfmpc_onnx.statistics.channel_statistics import ChannelStatistics, channel_moments, mean_shift, pieces
from dfmpc_onnx.statistics.clipping import OwnTensors, clip_in_place
from dfmpc_onnx.statistics.patches import gather_patches, sample_patches
from dfmpc_onnx.statistics.walk import Affine, Live

POSITIONS = 4000  # sampled patches a layer: docs/method.md, section 4
POSITIONS_OF_ONE_CHANNEL = 1000  # of a depthwise layer, whose moments are those of a few taps
PATCH_VALUES = 2**25  # of one stream's sampled patches, to bound memory; at least 1,000 patches
LARGEST_VALUE = 1e8  # of a value that is measured: its fourth power still fits into float32
FEWEST_VALUES = 64  # values a channel below which a batch's own statistics are too rough to use


@dataclasses.dataclass(frozen=True)
class Both:
    """A tensor in both streams; `hat` is the same array where nothing in front of it has been quantized."""

    plain: npt.NDArray[np.generic]
    hat: npt.NDArray[np.generic]

    @property
    def same(self) -> bool:
        return self.plain is self.hat

    @property
    def bytes(self) -> int:
        return bytes_of(self.plain) + (0 if self.same else bytes_of(self.hat))


class ImageStreams:
    """The engine of images. Raises ModelError where a node cannot be run or holds nothing to measure."""

    def __init__(
        self,
        graph: gs.Graph,
        feeds: Mapping[str, npt.NDArray[np.generic]],
        seed: int,
        positions: int = POSITIONS,
    ) -> None:
        """feeds: a batch for each input. seed: of the positions, as many as `positions` for each layer."""
        self._graph = graph
        self._positions = positions
        self._generator = np.random.default_rng(seed)
        # What a layer of the quantized network reads of a tensor; the tensor itself where None.
        self.rounding: Callable[[str, Float32], Float32] | None = None
        self._rounded: tuple[str, Both] | None = None  # of the last layer, whose input is used twice
        # What the outputs lose is asked for at the end: until then they live.
        self._compared = compared_tensors(graph).tensors
        self._sessions = NodeSessions()
        self._own = OwnTensors()
        self.live: Live[Both] = Live(graph, lambda both: both.bytes, self._compared)
        for name, x in feeds.items():
            self.live.put(name, Both(x, x))

    def guard(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    # -- layers

    def check(self, node: gs.Node) -> None:
        """Raise ModelError where a layer or normalization reads what is too large, or no number, to be measured."""
        x = self._read(node, node.inputs[0].name)
        for stream in (x.plain,) if x.same else (x.plain, x.hat):
            largest = max(float(stream.max(initial=0)), -float(stream.min(initial=0)))  # NaN if one value is
            if not largest <= LARGEST_VALUE:
                found = f"values up to {largest:.2g}" if np.isfinite(largest) else "NaN or infinity"
                raise ModelError(
                    f"{describe(node)}: its input holds {found} on the images that statistics are taken from; "
                    "the network was not trained or exported properly"
                )

    def patch_moments(self, node: gs.Node) -> PatchMoments:
        """Of patches at positions that both streams share."""
        x = self._layer_input(node)
        _check_entries(node, x.plain)
        width = int(np.prod(node.inputs[1].shape[1:])) * int(node.attrs.get("group", 1)) if op_of(node) == "Conv" else 1
        count = min(self._positions, max(PATCH_VALUES // width, 1000))
        if op_of(node) == "Conv" and node.attrs.get("group", 1) == x.plain.shape[1]:
            count = min(count, POSITIONS_OF_ONE_CHANNEL)
        positions = sample_patches(x.plain, node, count, self._generator)
        plain = gather_patches(x.plain, node, positions)
        return SampledMoments.of(plain, plain if x.same else gather_patches(x.hat, node, positions))

    def known(self, tensor: gs.Tensor) -> MeanVariance | None:
        both = self.live.get(tensor.name)
        if both is None or not isinstance(both.plain, np.ndarray) or both.plain.ndim < 2 or not both.plain.size:
            return None
        return channel_moments(both.plain)

    def layer(self, node: gs.Node, weight: Array, weight_hat: Float32 | None) -> Both:
        if weight_hat is None:
            return self.other(node)[0]
        inputs = {t.name: self._read(node, t.name) for t in reads(node)}
        inputs[node.inputs[0].name] = self._layer_input(node)
        plain = self.run(node, {name: x.plain for name, x in inputs.items()}, weight)
        hat = self.run(node, {name: x.hat for name, x in inputs.items()}, weight_hat)
        return Both(plain[0], hat[0])

    def shortfall(self, output: Both) -> Callable[[], Float] | None:
        if output.same or not output.plain.size:
            return None
        return lambda: mean_shift(output.plain, output.hat)

    def with_bias(self, output: Both, old: Array | None, new: Float32) -> Both:
        shift = np.asarray(new, np.float32)
        if old is not None:
            shift = shift - np.asarray(old, np.float32)
        hat = np.asarray(output.hat, np.float32) + shift.reshape(-1, *(1,) * (output.hat.ndim - 2))
        return Both(output.plain, hat)

    # -- normalization

    def normalizes(self, node: gs.Node) -> bool:
        if isinstance(node.inputs[0], gs.Constant):
            return False
        return self.normalizes_values(self._read(node, node.inputs[0].name).plain)

    @staticmethod
    def normalizes_values(x: npt.NDArray[np.generic]) -> bool:
        """Whether values ``[n, channels, ...]`` are enough for statistics of their own."""
        return x.ndim >= 2 and x.size > 0 and x.size // x.shape[1] >= FEWEST_VALUES

    def channel_statistics(self, node: gs.Node, norm: BatchNormParameters) -> ChannelStatistics:
        self.check(node)
        x = self.live[node.inputs[0].name]
        found = ChannelStatistics.of(x.plain, x.hat)
        return found if x.same else found.vouched(mean_shift(x.plain, x.hat))

    def affine(self, node: gs.Node, plain: Affine, hat: Affine) -> Both:
        x = self.live[node.inputs[0].name]
        output = affine_map(x.plain, *plain)
        self._own.add(node.outputs[0].name)
        identical = x.same and all(np.array_equal(a, b) for a, b in zip(plain, hat, strict=True))
        if identical:
            return Both(output, output)
        last = self.live.readers(node.inputs[0].name) == 1
        return Both(output, affine_map(x.hat, *hat, in_place=last and not x.same))

    # -- other nodes

    def other(self, node: gs.Node) -> list[Both]:
        """Run once where the inputs are the same in both streams.

        What the float network chooses by values is chosen in both, so that what lies behind can be held side by side.
        """
        inputs = {t.name: self._read(node, t.name) for t in reads(node)}
        bounds = self._own.bounds(node, self.live.readers(node.inputs[0].name)) if len(inputs) == 1 else None
        if bounds is not None:
            (x,) = inputs.values()
            clipped = clip_in_place(x.plain, bounds)
            return [Both(clipped, clipped if x.same else clip_in_place(x.hat, bounds))]
        plain = self.run(node, {name: both.plain for name, both in inputs.items()})
        if all(both.same for both in inputs.values()):
            return [Both(x, x) for x in plain]
        hat = self.run(node, {name: both.hat for name, both in inputs.items()})
        chooses = selects(node)
        return [
            Both(x, x if not alike(x, y) or (chooses and is_index(x)) else y) for x, y in zip(plain, hat, strict=True)
        ]

    def run(
        self,
        node: gs.Node,
        feeds: dict[str, npt.NDArray[np.generic]],
        weight: Array | None = None,
        *,
        often: bool = False,
    ) -> list[npt.NDArray[np.generic]]:
        """The outputs of a node on given inputs. weight: in place of a layer's own. often: whether many runs follow."""
        return self._sessions.run(self._graph, node, feeds, weight, often=often)

    def values(self, output: Both) -> Float32 | None:
        x = output.plain
        floats = isinstance(x, np.ndarray) and x.dtype == np.float32 and x.size
        return np.asarray(x, np.float32) if floats else None

    def advance(self, node: gs.Node) -> None: ...

    def losses(self) -> list[OutputLoss]:
        """What the quantized network has lost of each output that holds finite numbers."""
        pairs = [self.live[t.name] for t in self._compared if t.name in self.live]
        return [
            output_loss(both.plain, both.hat)
            for both in pairs
            if isinstance(both.plain, np.ndarray) and both.plain.dtype.kind == "f" and both.plain.size
            if np.isfinite(both.plain).all()
        ]

    def _layer_input(self, node: gs.Node) -> Both:
        """What a layer reads, in the quantized network as `rounding` makes it."""
        name = node.inputs[0].name
        both = self._read(node, name)
        if self.rounding is None or both.hat.dtype != np.float32:
            return both
        if self._rounded is None or self._rounded[0] != node.name:
            hat = self.rounding(name, np.asarray(both.hat, np.float32))
            self._rounded = node.name, both if hat is both.hat else Both(both.plain, hat)
        return self._rounded[1]

    def _read(self, node: gs.Node, name: str) -> Both:
        if name not in self.live:
            raise ModelError(f"{describe(node)}: its input '{shown(name)}' cannot be followed")
        return self.live[name]


def alike(a: object, b: object) -> bool:
    """Whether tensors, or lists of them, have the same shapes."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return np.shape(a) == np.shape(b) if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else a is b


def is_index(x: object) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind in "iu"


def bytes_of(value: object) -> int:
    """What a tensor, or a sequence of tensors, takes."""
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    return sum(map(bytes_of, value)) if isinstance(value, list) else 0


def affine_map(
    x: npt.NDArray[np.generic], factor: Float, offset: Float, *, in_place: bool = False
) -> npt.NDArray[np.generic]:
    """A tensor ``[n, channels, ...]`` times a factor plus an offset, of all channels or of each.

    in_place: whether nobody else reads the tensor, so that its memory may be used again.
    """
    given = np.ascontiguousarray(x, np.float32)
    result = given if in_place and given.flags.writeable else np.empty_like(given)
    rows, mapped = (array.reshape(*x.shape[:2], -1) for array in (given, result))
    scale, shift = (np.broadcast_to(v.astype(np.float32), x.shape[1])[:, None] for v in (factor, offset))
    for part in pieces(rows.shape):
        np.multiply(rows[part], scale[part[1]], out=mapped[part])
        mapped[part] += shift[part[1]]
    return result.astype(x.dtype, copy=False)


RANGE_SAMPLES = 2**18
SAMPLED_FOR_TAILS, FEWEST_IN_TAIL = 64, 8  # one value in so many; how many of these lie beyond what is set apart
RANGE_PERCENTILES = (0.01, 99.99)  # docs/method.md, section 7


def measured_range(x: npt.NDArray[np.generic]) -> tuple[float, float]:
    """The percentiles that bound all but one value in ten thousand, of at most 2^18 values evenly spread."""
    flat = x.reshape(-1)
    step = max(1, flat.size // RANGE_SAMPLES)
    step += step % 2 == 0  # an odd step visits every column of an even-sized map
    values = np.ascontiguousarray(flat[::step], np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # of infinite values the range is infinite, or NaN
        low, high = (_percentile(values, share) for share in RANGE_PERCENTILES)
    return low, high


def _percentile(values: Float32, share: float) -> float:
    """As `np.percentile`, where few values lie beyond: those that a sample sets apart are looked at alone."""
    few, upper = values[::SAMPLED_FOR_TAILS], share > 50
    if len(few) < SAMPLED_FOR_TAILS or not np.isfinite(values.sum(dtype=np.float64)):
        return float(np.percentile(values, share))
    nth = len(few) - FEWEST_IN_TAIL if upper else FEWEST_IN_TAIL
    near = np.partition(few, nth)[nth]
    beyond = values[values >= near] if upper else values[values <= near]
    place = share / 100 * (len(values) - 1)  # among all, from below
    skipped = len(values) - len(beyond) if upper else 0
    first = int(place) - skipped
    if first < 0 or first + 1 >= len(beyond):  # more lie beyond than are set apart
        return float(np.percentile(values, share))
    pair = np.partition(beyond, (first, first + 1))[first : first + 2].astype(np.float64)
    return float(pair[0] + (pair[1] - pair[0]) * (place - int(place)))


def _check_entries(node: gs.Node, x: Array) -> None:
    """Raise CannotRun where a Gemm or MatMul reads vectors of another length than its weight has.

    A damaged network may run on some inputs and not on these, as where an If gives tensors of unlike shape. Whether the
    batch, or a size that was assumed, is to blame the caller finds out.
    """
    if op_of(node) not in ("Gemm", "MatMul") or x.ndim < 1 or node.attrs.get("transA", 0):
        return
    entries = node.inputs[1].shape[-1 if node.attrs.get("transB", 0) else -2]
    if x.shape[-1] != entries:
        raise CannotRun(f"{describe(node)}: its input has {x.shape[-1]} entries, its weight takes {entries}")
