"""Quantize layer by layer against the float network's activations on procedural images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from threadpoolctl import threadpool_limits

from dfmpc_onnx.activations import ChannelStatistics, Streams, trained
from dfmpc_onnx.facts import BitPlan, Codes, FloatStatistics, Layer, LayerBits, Layers, MeasuredRanges, Pairs
from dfmpc_onnx.gaussian import GaussianStreams
from dfmpc_onnx.graph import Namer, constant, has_input, producer, shown
from dfmpc_onnx.images import concrete_shape, input_batch
from dfmpc_onnx.manager import Figure, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.numerics.granularity import PerAxis
from dfmpc_onnx.numerics.grids import Grid, ternary_grid, uniform_grid
from dfmpc_onnx.numerics.least_squares import (
    RIDGE,
    PatchMoments,
    diagonal_factors,
    least_squares,
    output_error,
    rounding_error,
)
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.numerics.recalibration import recalibrate_streams
from dfmpc_onnx.numerics.rounding import feedback_factor, round_with_feedback
from dfmpc_onnx.numerics.ternary import ternary_optimal
from dfmpc_onnx.propagation import Unknown, batch_norm_parameters
from dfmpc_onnx.settings import FLOAT, TERNARY, BitWidth
from dfmpc_onnx.workspace import Workspace
from dfmpc_passes.compensate import Compensate
from dfmpc_passes.quantize_weights import QuantizeWeights, QuantizeWeightsOptions
from dfmpc_passes.recalibrate_batch_norm import RecalibrateBatchNorm, RecalibrateOptions

Rows = npt.NDArray[np.float32]
Float = npt.NDArray[np.float64]
CANDIDATES: tuple[int, ...] = (2, 3, 4, 6, 8)
WIDEST = 8192  # entries of a patch: half a gigabyte for one matrix of second moments


class ReconstructLayersOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """statistics: from procedural images, or from covariance functions alone. images: how many, 0 to let their size
    decide. compensate: the full least-squares fit, the paper's one factor per input channel, or none. rounding: with
    error feedback, or to the nearest level. recalibrate: whether BatchNormalizations, or biases where there are none,
    take up what the two networks show. ridge: strength of the fit's regularization. threshold: the largest share of
    a layer's output that rounding its weight may cost where the recipe chooses the bits."""

    statistics: Literal["images", "gaussian"] = "images"
    images: int = 0
    compensate: Literal["full", "diagonal", "none"] = "full"
    rounding: Literal["feedback", "nearest"] = "feedback"
    recalibrate: bool = True
    ridge: float = RIDGE
    threshold: float = 0.006


class ReconstructLayers(Pass[ReconstructLayersOptions]):
    """Before: Conv(x, W) -> BatchNormalization(gamma, beta, m, s)
    After: Conv(x, scale * (codes - zero_point)) -> BatchNormalization(gamma, beta, m', s')

    Why: with x from the float and x^ from the quantized network, W' = W (C + r I)(H + r I)^-1 with H = E[x^ x^'],
    C = E[x x^'] is the weight that best undoes the error of the layers in front: DF-MPC's compensation without its
    restriction to one factor a channel. W' is rounded with error feedback under H, and BatchNormalization takes
    the mean and deviation of what comes out. Both streams run on procedural images with BatchNormalization in
    batch-statistics mode, so each of its outputs has the moments of training.

    With statistics = "gaussian" the moments come from covariance functions instead: no image, no run of the network.

    Requires: a bit plan; the pairs and float statistics serve where covariances cannot be followed.

    Refuses when: covariance functions cannot be followed (an operator without a rule, too many channels): channels
    and pixels are then taken as independent, as in quantize_weights, recalibrate_batch_norm and compensate.

    Reference: METHOD, sections 3 to 6; Chen et al. 2023, equation 27 (the diagonal form); Frantar et al. 2022.
    """

    name = "reconstruct_layers"
    Options = ReconstructLayersOptions
    requires: ClassVar = (BitPlan, Layers, Pairs, FloatStatistics)
    provides: ClassVar = (Codes, MeasuredRanges)

    def reads_images(self) -> bool:
        return self.options.statistics == "images"

    def run(self, workspace: Workspace) -> PassResult:
        plan = dict(workspace.get(BitPlan).layers)
        layers = workspace.get(Layers).by_name()
        rebuilder = _Rebuilder(workspace, self.options, layers, plan)
        wanted = frozenset(name for name in layers if plan[name].bits != FLOAT)
        if self.options.statistics == "gaussian":
            graph = workspace.graph.copy()
            try:
                notes, warnings = self._on_covariances(workspace, rebuilder, wanted)
            except Unknown as reason:
                # A layer may have been rebuilt before the walk came to what it cannot follow.
                workspace.graph = graph
                return self._on_independent_pixels(workspace, str(reason))
        else:
            notes, warnings = self._on_images(workspace, rebuilder, wanted)
        workspace.put(BitPlan(plan))
        workspace.put(Codes(rebuilder.codes))
        workspace.put(MeasuredRanges(rebuilder.ranges))
        if workspace.settings.by_hand:
            warnings = (*warnings, *rebuilder.warnings(self.options.threshold))
        return PassResult(self.name, tuple(rebuilder.rewrites), tuple(rebuilder.refusals), notes, warnings)

    def _on_images(self, workspace: Workspace, rebuilder: _Rebuilder, wanted: frozenset[str]) -> Told:
        batch = input_batch(workspace.graph, workspace.settings, self.options.images)
        for name, x in batch.feeds.items():
            if x.dtype.kind == "f" and x.size:
                rebuilder.ranges[name] = float(x.min()), float(x.max())
        streams = Streams(workspace.graph, batch.feeds, wanted, workspace.settings.seed)
        streams.run(rebuilder)
        note = f"statistics from {batch.origin}; live activations at most {streams.peak_bytes / 1e6:.0f} MB"
        return (note,), batch.warnings

    def _on_covariances(self, workspace: Workspace, rebuilder: _Rebuilder, wanted: frozenset[str]) -> Told:
        settings = workspace.settings
        shapes = {t.name: concrete_shape(t, settings)[0] for t in workspace.graph.inputs}
        # Thousands of small products: threads would wait for each other at every one, and far longer on a busy machine.
        with threadpool_limits(limits=1, user_api="blas"):
            GaussianStreams(workspace.graph, shapes, settings.preprocess, wanted).run(rebuilder)
        return ("statistics from covariance functions; no image was made",), ()

    def _on_independent_pixels(self, workspace: Workspace, reason: str) -> PassResult:
        """The simpler closed form, channel by channel, for graphs whose covariances cannot be followed."""
        steps: list[Pass[msgspec.Struct]] = [
            QuantizeWeights(QuantizeWeightsOptions(ternary="optimal")),
            RecalibrateBatchNorm(RecalibrateOptions(reading="projection")),
            Compensate(),
        ]
        results = [step.run(workspace) for step in steps]
        workspace.put(MeasuredRanges({}))
        plan = workspace.get(BitPlan).layers
        eight = LayerBits(8, "8-bit", "no error was measured to choose by")
        workspace.put(BitPlan({name: eight if bits.role == "auto" else bits for name, bits in plan.items()}))
        return PassResult(
            self.name,
            tuple(rewrite for result in results for rewrite in result.rewrites),
            (Refusal("model", f"covariances cannot be followed ({reason})"), *(r for x in results for r in x.refusals)),
            ("channels and pixels taken as independent",),
            (f"covariances cannot be followed ({reason}); channels and pixels are taken as independent",),
        )


Told = tuple[tuple[str, ...], tuple[str, ...]]


@dataclasses.dataclass
class _Candidate:
    """One width tried on a layer: what it rounds to, and the share of the output that is lost by rounding."""

    quantized: QuantizedWeight
    rows: Rows
    lost: float


class _Rebuilder:
    """The visitor of the streams."""

    def __init__(
        self,
        workspace: Workspace,
        options: ReconstructLayersOptions,
        layers: dict[str, Layer],
        plan: dict[str, LayerBits],
    ) -> None:
        self._options = options
        self._layers = layers
        self._plan = plan
        self._names = Namer(workspace.graph)
        self._auto = workspace.settings.weights.auto
        self._tell = workspace.tell
        self.codes: dict[str, QuantizedWeight] = {}
        self.ranges: dict[str, tuple[float, float]] = {}
        self.rewrites: list[Rewrite] = []
        self.refusals: list[Refusal] = []
        self._lost: dict[str, float] = {}

    def warnings(self, threshold: float) -> tuple[str, ...]:
        """What the bits that the user asked for cost, where it is more than would have been chosen."""
        over = {name: lost for name, lost in self._lost.items() if lost > threshold}
        if not over:
            return ()
        worst = max(over, key=lambda name: over[name])
        return (
            f"{len(over)} of {len(self._lost)} layers lose over {100 * threshold:g} % of their output to rounding at "
            f"the bits asked for; the worst, '{shown(worst)}', {100 * over[worst]:.1f} %",
        )

    def layer(self, node: gs.Node, moments_of: Callable[[], PatchMoments]) -> None:
        layer, bits = self._layers[node.name], self._plan[node.name]
        self._tell(node.name)
        weight = np.asarray(constant(node.inputs[1]), np.float32)
        rows = to_rows(weight, layer)
        if rows.shape[2] > WIDEST:
            self._nearest(node, weight, rows, layer, bits)
            return
        moments = moments_of()
        target, gain = self._target(rows, moments, weight, layer)
        shrunk = moments.shrunk()
        factor = feedback_factor(shrunk.hat) if self._options.rounding == "feedback" else None
        chosen, width = self._choose(rows, target, shrunk, factor, layer, bits)
        node.inputs[1].values = chosen.quantized.dequantize()
        self.codes[node.name] = chosen.quantized
        self._lost[node.name] = chosen.lost
        error, signal = output_error(rows, chosen.rows, moments)
        figures: dict[str, Figure] = {
            "bits": chosen.quantized.bits,
            "output_error": _share(error, signal),
            "rounding_share": chosen.lost,
            "shrinkage": round(float(moments.shrinkage.mean()), 4),
            "fit_gain": gain,
            "patches": moments.count,
        }
        self.rewrites.append(Rewrite(node.name, f"rebuilt at {width} bits", figures))

    def _nearest(self, node: gs.Node, weight: Rows, rows: Rows, layer: Layer, bits: LayerBits) -> None:
        """For patches so long that their second moments would not fit into memory: each weight by itself."""
        width: BitWidth = CANDIDATES[-1] if bits.role == "auto" or bits.bits == FLOAT else bits.bits
        flat = rows.reshape(-1, rows.shape[2])
        grid = _grid(flat, np.ones(flat.shape), width)
        codes = grid.codes(flat)
        self.codes[node.name] = _as_weight(codes, grid, layer)
        node.inputs[1].values = self.codes[node.name].dequantize()
        why = f"its patches have {rows.shape[2]} entries, over {WIDEST}; rounded to the nearest level, not compensated"
        self.refusals.append(Refusal(node.name, why))
        if bits.role == "auto":
            self._plan[node.name] = LayerBits(width, "8-bit", "too wide to measure")

    def _target(self, rows: Rows, moments: PatchMoments, weight: Rows, layer: Layer) -> tuple[Rows, float]:
        """The weight to round, and by how much it beats W on the error of the output."""
        if self._options.compensate == "none" or moments.cross is moments.hat:
            return rows, 0.0
        if self._options.compensate == "full":
            target = least_squares(rows, moments, self._options.ridge)
        else:
            taps = rows.shape[2] // weight.shape[1] if layer.op == "Conv" else 1
            factors = diagonal_factors(rows, moments, taps, self._options.ridge)
            target = rows * np.repeat(factors, taps, axis=1)[:, None].astype(np.float32)
        before, signal = output_error(rows, rows, moments)
        after, _ = output_error(rows, target, moments)
        return target, round(_share(before, signal) - _share(after, signal), 6)

    def _choose(
        self,
        rows: Rows,
        target: Rows,
        moments: PatchMoments,
        factor: tuple[npt.NDArray[np.intp], Rows] | None,
        layer: Layer,
        bits: LayerBits,
    ) -> tuple[_Candidate, BitWidth]:
        if bits.role != "auto":
            assert bits.bits != FLOAT  # a float layer is none of the streams' layers
            width: BitWidth = bits.bits
            return self._round(target, moments, factor, layer, width), width
        for bits_tried in candidates():
            candidate = self._round(target, moments, factor, layer, bits_tried)
            if candidate.lost <= self._options.threshold or bits_tried == CANDIDATES[-1]:
                break
        role: Literal["low", "high", "8-bit"] = "low" if bits_tried <= 3 else "8-bit" if bits_tried == 8 else "high"
        why = f"rounding costs {100 * candidate.lost:.2f} % of its output"
        self._plan[layer.name] = LayerBits(bits_tried, role, why)
        return candidate, bits_tried

    def _round(
        self,
        target: Rows,
        moments: PatchMoments,
        factor: tuple[npt.NDArray[np.intp], Rows] | None,
        layer: Layer,
        width: BitWidth,
    ) -> _Candidate:
        if width == 2:
            two = [self._on_grid(target, moments, factor, layer, w) for w in (TERNARY, 2)]
            return min(two, key=lambda candidate: candidate.lost)
        return self._on_grid(target, moments, factor, layer, width)

    def _on_grid(
        self,
        target: Rows,
        moments: PatchMoments,
        factor: tuple[npt.NDArray[np.intp], Rows] | None,
        layer: Layer,
        width: BitWidth,
    ) -> _Candidate:
        groups, out, k = target.shape
        flat = target.reshape(groups * out, k)
        importance = np.repeat(np.maximum(moments.diagonal, 0.0), out, axis=0)
        grid = _grid(flat, importance, width)
        if factor is None:
            codes = grid.codes(flat)
        else:
            codes = round_with_feedback(target, grid, *factor).reshape(groups * out, k)
        values = grid.values(codes).reshape(target.shape)
        lost = _share(rounding_error(target, values, moments), output_error(target, target, moments)[1])
        return _Candidate(_as_weight(codes, grid, layer), values, lost)

    def after_layer(self, node: gs.Node, shift_of: Callable[[], Float] | None) -> None:
        layer = self._layers[node.name]
        if not self._options.recalibrate or shift_of is None or layer.batch_norm or layer.op == "MatMul":
            return
        shift = shift_of()
        old = constant(node.inputs[2]) if has_input(node, 2) else np.zeros(len(shift), np.float32)
        if old is None or old.size != len(shift):
            why = "its bias is not one constant a channel; the mean of its output is not corrected"
            self.refusals.append(Refusal(node.name, why))
            return
        fresh = (np.asarray(old, np.float64).reshape(-1) + shift).astype(np.float32)
        node.inputs = [*node.inputs[:2], gs.Constant(self._names(f"{node.name}.bias"), fresh)]

    def batch_norm(
        self, node: gs.Node, statistics: ChannelStatistics
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        norm = batch_norm_parameters(node)
        assert norm is not None  # the streams call this for constant parameters only
        epsilon = float(node.attrs.get("epsilon", 1e-5))
        old_mean, old_variance = trained(norm, epsilon)
        # A layer's own bias shifts all three means alike; the gain must not be applied to it.
        bias = self._bias_before(node, len(norm.mean))
        fresh = recalibrate_streams(statistics.shifted(-bias), old_mean - bias, old_variance, epsilon)
        if self._options.recalibrate and not np.array_equal(statistics.mean, statistics.mean_hat):
            node.inputs[3].values = (fresh.mean + bias).astype(np.float32)
            node.inputs[4].values = fresh.variance.astype(np.float32)
            scale = fresh.scale
            centre = statistics.mean_hat
        else:
            scale, centre = np.ones_like(norm.gamma), statistics.mean
        factor = norm.gamma * scale / np.sqrt(statistics.variance + epsilon)
        return factor, norm.beta - factor * centre

    def _bias_before(self, batch_norm: gs.Node, channels: int) -> Float:
        """The bias of the layer whose output alone a BatchNormalization reads; zeros where there is none."""
        source = producer(batch_norm.inputs[0])
        layer = self._layers.get(source.name) if source is not None else None
        bias = None
        if source is not None and layer is not None and layer.batch_norm == batch_norm.name:
            bias = constant(source.inputs[2]) if has_input(source, 2) else None
        if bias is None or bias.size != channels:
            return np.zeros(channels)
        return np.asarray(bias, np.float64).reshape(-1)

    def measured(self, tensor: str, low: float, high: float) -> None:
        self.ranges[tensor] = (low, high)


def candidates() -> tuple[int, ...]:
    """The widths to choose among: every one, since storage takes no more bits than a width has."""
    return CANDIDATES


def to_rows(weight: Rows, layer: Layer) -> Rows:
    """A weight as ``[groups, out/group, k]``."""
    if layer.op == "Conv":
        return weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1)
    return np.ascontiguousarray(weight if layer.axis == 0 else weight.T)[None]


def _as_weight(codes: Rows, grid: Grid, layer: Layer) -> QuantizedWeight:
    """Codes of rows and their grid in the layout of the layer's weight."""
    whole = codes.astype(np.int8)
    granularity = PerAxis(layer.axis)
    shape = granularity.scale_shape(layer.shape)
    shaped = whole.reshape(layer.shape) if layer.axis == 0 else np.ascontiguousarray(whole.T)
    zero = grid.zero_point.reshape(shape)
    return QuantizedWeight(shaped, grid.scale.reshape(shape), zero, grid.bits, grid.ternary)


def _grid(rows: Rows, importance: npt.NDArray[np.float64], width: BitWidth) -> Grid:
    if width == TERNARY:
        return ternary_grid(ternary_optimal(rows, importance.astype(np.float32), PerAxis(0)).scale)
    return uniform_grid(rows, importance, int(width))


def _share(error: npt.NDArray[np.float64], signal: npt.NDArray[np.float64]) -> float:
    """Error over signal of a layer, the mean over its outputs, each counted by its own signal and at most as lost."""
    share = np.divide(error, signal, out=np.zeros_like(error), where=signal > 1e-20)
    return round(float(np.minimum(share, 1.0).mean()), 6)
