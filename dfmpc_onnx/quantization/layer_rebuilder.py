"""What is done to one layer after the other while the float and the quantized network advance side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.channels import channel_sources, pools_without_zeros
from dfmpc_onnx.graph.known_scale import tensors_of_known_scale
from dfmpc_onnx.graph.query import constant, has_input
from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.least_squares import RIDGE, PatchMoments, diagonal_factors, least_squares
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.numerics.recalibration import recalibrate_streams
from dfmpc_onnx.numerics.rounding import FeedbackRounder
from dfmpc_onnx.pipeline.deadline import ROUNDED
from dfmpc_onnx.pipeline.facts import Layer, LayerBits
from dfmpc_onnx.pipeline.manager import Figure, Refusal, Rewrite
from dfmpc_onnx.pipeline.settings import FLOAT, BitWidth
from dfmpc_onnx.pipeline.shared_weights import layers_of_one_weight
from dfmpc_onnx.pipeline.weight_plan import PlannedWidths, StatedWidths
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.int8_biases import int8_bias_grid
from dfmpc_onnx.qdq.kernel_pairs import LIMITED_OUTPUTS, neighbours_of
from dfmpc_onnx.quantization.codebook_tables import NetworkTables, blocks_of_plan
from dfmpc_onnx.quantization.grid_rules import GridRules
from dfmpc_onnx.quantization.layer_reach import LayerReach, only_norms_read, to_rows
from dfmpc_onnx.quantization.rounding_task import FEWEST_PATCHES, Measure, PooledUses, Task
from dfmpc_onnx.quantization.weight_grids import nearest
from dfmpc_onnx.statistics.channel_statistics import ChannelStatistics
from dfmpc_onnx.statistics.engines import registration
from dfmpc_onnx.statistics.error_at_next_layer import Known, next_input
from dfmpc_onnx.statistics.image_streams import measured_range
from dfmpc_onnx.statistics.walk import BatchNormUpdate, bias_of

WIDEST_PATCH = 8192  # entries of a patch: half a gigabyte for one matrix of second moments


class ReconstructLayersOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """statistics: from images, from covariance functions alone (gaussian), or what else is registered in
    `dfmpc_onnx.statistics.engines`. images: how many, 0 to let their size and the bits decide. compensate: the full
    least-squares fit, the paper's one factor per input channel, or none. rounding: with error feedback, or to the
    nearest level. recalibrate: whether BatchNormalizations, or biases where there are none, take up what the two
    networks show. recolour: whether procedural images are corrected on their way by what BatchNormalizations know,
    where few bits are asked for. ridge: strength of the fit's regularization. threshold: the share of what the next
    layer reads from which on rounding a weight at the bits that the user chose is warned of."""

    statistics: str = "images"
    images: int = 0
    compensate: Literal["full", "diagonal", "none"] = "full"
    rounding: Literal["feedback", "nearest"] = "feedback"
    recalibrate: bool = True
    recolour: bool = True
    ridge: Annotated[float, msgspec.Meta(gt=0)] = RIDGE
    threshold: Annotated[float, msgspec.Meta(ge=0)] = 0.006

    def __post_init__(self) -> None:
        try:
            registration(self.statistics)
        except ValueError as error:
            raise ValueError(f"{error} - at `$.statistics`") from None  # as msgspec says where its own errors are


class Rebuilder:
    """The visitor that quantizes: rounds a layer's weight, and corrects the mean and deviation behind it."""

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
        self._graph = workspace.graph
        self._biases: dict[str, tuple[Float | None, Float]] = {}  # those changed: in both networks
        self._rounded_at, self._limits_pairs = workspace.settings.rounded_at, workspace.settings.limits_pairs
        self._tell, self._deadline = workspace.progress.layer, workspace.deadline
        settings = workspace.settings
        self._rounds_biases = settings.target.bias == "int8" and settings.activations != "none"
        self._seed = workspace.settings.seed
        self._rounds_inputs = workspace.settings.few_bits is not None
        self.rules = GridRules.of(workspace.settings.target)
        self.ranges: dict[str, tuple[float, float]] = {}
        self.reach = LayerReach(workspace.graph, layers)
        inputs = workspace.inputs
        scaled = {spec.name for spec in inputs if inputs.own_images is not None or spec.name not in inputs.unknown}
        self._scaled = tensors_of_known_scale(workspace.graph, scaled)
        self.rewrites: list[Rewrite] = []
        self.refusals: list[Refusal] = []
        self._lost: dict[str, float] = {}
        self.pooled: Mapping[str, PooledUses] = {}  # by the first of the layers that share a weight
        self.first = {  # of those by layer; two widths are two sets of codes
            layer.name: next(other.name for other in group if _alike(plan[other.name], plan[layer.name]))
            for group in layers_of_one_weight(workspace)
            for layer in group
            if plan[layer.name].bits != FLOAT
        }
        self._shared: dict[str, QuantizedWeight] = {}
        widths = {name: plan[name].bits for name in layers}
        planned = blocks_of_plan(workspace.find(PlannedWidths) or workspace.find(StatedWidths))
        self._tables = NetworkTables(self._graph, layers.values(), self.rules, widths, planned)

    def warnings(self, threshold: float) -> tuple[str, ...]:
        """What the bits that the user asked for cost, where it is more than would have been chosen."""
        over = {name: lost for name, lost in self._lost.items() if lost > threshold}
        if not over:
            return ()
        worst = max(over, key=lambda name: over[name])
        return (
            f"{len(over)} of {len(self._lost)} layers lose over {100 * threshold:g} % of what is read of them to "
            f"rounding at the bits asked for; the worst, '{shown(worst)}', {100 * over[worst]:.1f} %",
        )

    def layer(
        self, node: gs.Node, moments_of: Callable[[], PatchMoments], known: Known
    ) -> QuantizedWeight | Float32 | None:
        first = self.first.get(node.name)
        if first is None:
            return self._rebuilt(node, moments_of, known, None)
        if first not in self._shared:
            pooled = self.pooled.get(first)
            self._shared[first] = self._rebuilt(node, moments_of, known, pooled)
        else:
            rows = to_rows(np.asarray(constant(node.inputs[1]), np.float32), self._layers[node.name])
            moments = moments_of()
            if moments.count and rows.shape[2] <= WIDEST_PATCH:
                self.reach.sampled(node, rows, moments)
            self._plan[node.name] = self._plan[first]
            self.rewrites.append(Rewrite(node.name, f"shares its weight and codes with {shown(first)}"))
        return self._shared[first]

    def _rebuilt(
        self, node: gs.Node, moments_of: Callable[[], PatchMoments], known: Known, pooled: PooledUses | None
    ) -> QuantizedWeight:
        layer, bits = self._layers[node.name], self._plan[node.name]
        assert bits.bits != FLOAT  # a float layer is none of those that the walk shows
        self._tell(node.name)
        late = self._deadline.past(ROUNDED)
        if late:
            self._deadline.count("weights rounded to the nearest level")
        task = "no time was left" if late else self.task(node, moments_of, known, pooled)
        if isinstance(task, str):
            return self._nearest(node, layer, bits.bits, task)
        chosen = task.rounded(self._rounded_at(bits.bits))
        self._tables.take(chosen.quantized.book)
        self._lost[node.name] = chosen.lost
        figures: dict[str, Figure] = {
            "bits": chosen.quantized.width,
            "output_error": task.measure.share(task.errors.of(chosen.rows)),
            "rounding_share": chosen.lost,
            "shrinkage": round(float(task.moments.shrinkage.mean()), 4),
            "fit_gain": round(task.gain, 6),
            "patches": task.moments.count,
        }
        if pooled is not None:
            figures["uses"] = pooled.uses
        if chosen.limited:
            figures[LIMITED_OUTPUTS] = chosen.limited
        self.rewrites.append(Rewrite(node.name, f"rebuilt at {bits.bits} bits", figures))
        return chosen.quantized

    def task(
        self, node: gs.Node, moments_of: Callable[[], PatchMoments], known: Known, pooled: PooledUses | None
    ) -> Task | str:
        """The weight of a layer to round; the reason where each weight is to be rounded by itself."""
        layer = self._layers[node.name]
        if layer.op == "ConvTranspose":
            return "ConvTranspose"
        rows = to_rows(np.asarray(constant(node.inputs[1]), np.float32), layer)
        if rows.shape[2] > WIDEST_PATCH:
            return f"its patches have {rows.shape[2]} entries, over {WIDEST_PATCH}"
        moments = moments_of()
        if not moments.count:
            return "nothing reaches it on the images of the statistics"
        unseen = self.reach.sampled(node, rows, moments)
        if pooled is not None:  # of uses at a mean square of 1
            unseen = unseen / max(float(moments.diagonal.mean()), 1e-30)
            moments = pooled.moments
        errors = moments.output_errors(rows)
        measure = pooled or self.measure(node, rows, moments, errors.variance, known)
        target = self._target(rows, moments, layer)
        gain = 0.0 if target is rows else measure.share(errors.of(rows)) - measure.share(errors.of(target))
        shrunk = moments.shrunk().varying(unseen)
        feedback = self._options.rounding == "feedback" and moments.count >= FEWEST_PATCHES
        beside = neighbours_of(layer) if self._limits_pairs and self.rules.leaves_free(layer.op) else None
        rounder = FeedbackRounder(target, shrunk.hat, beside) if feedback else None
        return Task(target, shrunk, measure, rounder, layer, errors, gain, self._tables, self.rules)

    def measure(self, node: gs.Node, rows: Float32, moments: PatchMoments, signal: Float, known: Known) -> Measure:
        """How errors of a layer are measured: at what is read of it next."""
        bias = _bias_of(node)
        mean = np.einsum("goi,gi->go", rows.astype(np.float64), moments.mean).reshape(-1)
        if bias is not None and bias.size == mean.size:
            mean = mean + bias
        return Measure(signal, next_input(self._graph, node, mean, signal.reshape(-1), known))

    def _nearest(self, node: gs.Node, layer: Layer, bits: BitWidth, why: str) -> QuantizedWeight:
        """Each weight by itself: where second moments of patches would not fit into memory, or patches overlap, or
        there is none."""
        said = f"{why}; rounded to the nearest level, not compensated"
        self.refusals.append(Refusal(node.name, said, "rounded-to-nearest"))
        weight = np.asarray(constant(node.inputs[1]), np.float32)
        return nearest(weight, layer, self._rounded_at(bits), self.rules)

    def _target(self, rows: Float32, moments: PatchMoments, layer: Layer) -> Float32:
        """The weight to round."""
        if self._options.compensate == "none" or moments.same or layer.depthwise:
            return rows
        if self._rounds_inputs:
            return rows  # the error is noise of rounding: the fit weakens what barely shows beside it on the images
        if moments.count < FEWEST_PATCHES:
            return rows  # a fit to a handful of patches is a fit to nothing else
        if self._options.compensate == "full":
            return least_squares(rows, moments, self._options.ridge)
        taps = rows.shape[2] // layer.shape[1] if layer.op == "Conv" else 1
        factors = diagonal_factors(rows, moments, taps, self._options.ridge)
        return rows * np.repeat(factors, taps, axis=1)[:, None].astype(np.float32)

    def after_layer(self, node: gs.Node, shift_of: Callable[[], Float] | None) -> Float32 | None:
        if self._rounds_biases:
            return self._with_rounded_bias(node, self._corrected(node, shift_of))
        return self._corrected(node, shift_of)

    def _with_rounded_bias(self, node: gs.Node, corrected: Float32 | None) -> Float32 | None:
        """The bias as the file will hold it, so that what its rounding does is seen, and taken up, by what follows."""
        bias = corrected if corrected is not None else bias_of(node)
        if bias is None or self._layers[node.name].batch_norm:
            return corrected
        row = np.asarray(bias, np.float32).reshape(1, -1)
        return int8_bias_grid(row).nearest(row).reshape(-1)

    def _corrected(self, node: gs.Node, shift_of: Callable[[], Float] | None) -> Float32 | None:
        """A layer's bias with the mean of its output corrected; None where it stays as it is."""
        layer = self._layers[node.name]
        if not self._options.recalibrate or shift_of is None or layer.batch_norm or layer.op == "MatMul":
            return None
        if only_norms_read(self._graph, node.outputs[0]):
            return None
        if node.inputs[0].name not in self._scaled:
            return None  # a shift of the sample's scale is noise on what is quieter
        shift = shift_of()
        old = constant(node.inputs[2]) if has_input(node, 2) else np.zeros(len(shift), np.float32)
        if old is None or old.size != len(shift):
            why = "its bias is not one constant a channel; the mean of its output is not corrected"
            self.refusals.append(Refusal(node.name, why, "bias-not-constant"))
            return None
        fresh: Float32 = (np.asarray(old, np.float64).reshape(-1) + shift).astype(np.float32)
        self._biases[node.name] = _bias_of(node), fresh.astype(np.float64)
        return fresh

    def batch_norm(
        self, node: gs.Node, norm: BatchNormParameters, statistics: ChannelStatistics
    ) -> BatchNormUpdate | None:
        if not self._options.recalibrate or np.array_equal(statistics.mean, statistics.mean_hat):
            return None
        # A layer's own bias is a constant in all three means; neither the gain nor the ratio must be applied to it.
        bias, bias_hat = self._biases_before(node, len(norm.mean))
        before = norm.without_bias(bias)
        found = statistics.shifted(-bias, -bias_hat)
        fresh = recalibrate_streams(found, before.mean, before.variance, before.epsilon)
        factor = norm.gamma * fresh.scale / norm.batch_std(statistics.variance)
        shift = norm.beta - factor * statistics.mean_hat
        return BatchNormUpdate(factor, shift, fresh.mean + bias_hat, fresh.variance)

    def _biases_before(self, batch_norm: gs.Node, channels: int) -> tuple[Float, Float]:
        """Of the layers whose outputs a BatchNormalization reads, their biases in both networks; zeros elsewhere."""
        plain, hat = np.zeros(channels), np.zeros(channels)
        for source, first in channel_sources(batch_norm.inputs[0], pools_without_zeros):
            layer = self._layers.get(source.name) if source is not None else None
            if source is None or layer is None:
                continue
            same = _bias_of(source)
            for total, bias in zip((plain, hat), self._biases.get(source.name, (same, same)), strict=True):
                if bias is not None and layer.channels in (None, bias.size):
                    total[first : first + bias.size] = bias[: max(channels - first, 0)]
        return plain, hat

    def observe(self, tensor: str, values: Float32) -> None:
        low, high = measured_range(values)
        if np.isfinite(low) and np.isfinite(high):
            self.ranges[tensor] = (low, high)
            self.reach.observe(tensor, values)


def _alike(a: LayerBits, b: LayerBits) -> bool:
    """Whether two layers have one width; a width that is yet to be planned is none."""
    return a.bits == b.bits and (a.role == "auto") == (b.role == "auto")


def _bias_of(node: gs.Node) -> Float | None:
    """A layer's constant bias, flat; None where it has none, or a computed one."""
    bias = bias_of(node)
    return None if bias is None else np.asarray(bias, np.float64).reshape(-1)
