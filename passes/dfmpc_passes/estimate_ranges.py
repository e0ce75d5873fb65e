"""The range of every activation, from the network's own parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar

import msgspec
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.operators import (
    averages,
    batch_norm_parameters,
    clip_bounds,
    is_weighted,
    keeps_scale,
    meaning_of,
    op_of,
    squashes,
)
from dfmpc_onnx.graph.output_layers import tail_tensors
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.numerics.interpolation import CUBIC_COEFFICIENT, cubic_overshoot
from dfmpc_onnx.numerics.moments import ChannelMoments
from dfmpc_onnx.numerics.ranges import (
    DEVIATIONS,
    LEVELS,
    LONGEST_REACH,
    REACH,
    VECTOR_REACH,
    moment_range,
    skewed_range,
    without_room,
)
from dfmpc_onnx.pipeline.facts import Codes, FewBitGrids, Layers, MeasuredRanges, Ranges
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Refusal
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.added_numbers import multiplies_by_codes
from dfmpc_onnx.quantization.input_grids import few_bit_grids, few_bits_warnings
from dfmpc_onnx.quantization.layer_reach import reach_by_moments
from dfmpc_onnx.statistics.averaged_vectors import averaged_vectors
from dfmpc_onnx.statistics.gated_ranges import cap_gated
from dfmpc_onnx.statistics.hidden_of_heads import hidden_of_heads
from dfmpc_onnx.statistics.independent_moments import NOT_NEEDED, propagate
from dfmpc_onnx.statistics.normalized_sums import bounds_of_sums
from dfmpc_onnx.statistics.reach_followers import widened
from dfmpc_onnx.statistics.stated_reach import stated_reach


class EstimateRangesOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """deviations: how far from the mean a range reaches, in standard deviations. reach: of what was measured on
    procedural images, as a multiple; what was measured on images that the user gave counts as it is."""

    deviations: Annotated[float, msgspec.Meta(gt=0)] = DEVIATIONS
    reach: Annotated[float, msgspec.Meta(ge=1)] = REACH


class EstimateRanges(Pass[EstimateRangesOptions]):
    """Before: BatchNormalization -> Relu with unknown range
    After: the same graph; the range is [0, max(beta + 8 |gamma|)] over the channels

    Why: behind a BatchNormalization a channel is N(beta, gamma^2) up to its shape, so mean +- 8 deviations, through the
    activation, holds all but rare outliers. Where it normalizes what a Relu has cut the tail is longer: 4 deviations of
    the Gaussian that had these moments when it was cut. What is added of such outputs, with no activation between,
    reaches at most 8 deviations of the sum, whose variances add, or 4 if all parts varied together: beyond lie a few
    positions whose channels saturate behind it. Elsewhere 1.5 times the 0.01 and 99.99 percentile on procedural
    images count where they were measured, twice for vectors, three times for what Convs make maps of scores of: a
    picture of a thing excites what has learnt it more than one of nothing does, the more the deeper. Where nothing was
    measured, propagated moments count: a sum adds means and variances. Behind the last layers, and for averages over a
    map, the wider of the two counts, up to three times what was measured. An input of pictures has the range of the
    bytes 0 to 255 after the preprocess, any other that which the user gave, or that of what it was fed. Where only its
    moments are known it has none, up to the first layer, which then computes in float; so has one whose floats 256
    codes do not hold, as sound or a scan between bounds that the user states. What the network makes of inputs that
    fill such bounds counts where it reaches further than BatchNormalizations say. A cubic Resize overshoots what it
    reads by at most 0.445 of its range, which is what its kernel's negative weights add up to.

    What layers may read with fewer than 8 bits has a grid beside its range: that of least squared error, for the values
    that the quantized network gave on the images, or for channels that are Gaussians of known moments.

    Requires: codes (the quantized network's BatchNormalizations count, not the float one's), and BN not yet folded.

    Refuses when: an operator has no rule; the layers on both sides then compute in float, with integer weights.

    Reference: docs/method.md, section 7; Nagel et al. 2019, section 4 (the same idea).
    """

    name = "estimate_ranges"
    Options = EstimateRangesOptions
    requires: ClassVar = (Codes, Layers)
    provides: ClassVar = (Ranges, FewBitGrids)

    def run(self, workspace: Workspace) -> PassResult:
        if workspace.settings.activations == "none":
            workspace.put(Ranges({}))
            workspace.put(FewBitGrids({}))
            return PassResult(self.name, notes=("activations stay in float: no ranges needed",))
        known, unknown = propagate(workspace.graph, workspace.inputs)
        found = workspace.find(MeasuredRanges) or MeasuredRanges({})
        pinned, skewed = pinned_tensors(workspace.graph)
        reach = self.options.reach if workspace.inputs.own_images is None else 1.0
        ranges = self._joined(workspace.graph, known, found.tensors, reach, pinned, skewed)
        if workspace.inputs.own_images is None:
            fixed = pinned | skewed.keys()
            reach_of = found.reach or reach_by_moments(workspace.graph, workspace.get(Layers).by_name(), known)
            reach_of = _within_averages(workspace.graph, reach_of, found.tensors)
            ranges.update(widened(workspace.graph, ranges, reach_of, known, fixed))
        if found.tensors:  # a recipe that runs no network has none
            _reach_as_stated(workspace, ranges)
        ranges.update(_of_inputs(workspace.inputs, known, found.tensors))
        for name in _unscaled_tensors(workspace.graph, workspace.inputs):
            ranges.pop(name, None)
        bounded = _within_clips(workspace.graph, ranges)
        _overshoot(workspace.graph, ranges, found.tensors, reach)
        cap_gated(workspace.graph, ranges, pinned, reach)
        _widen_averages(workspace.graph, ranges)
        if workspace.settings.target.scales == "power-of-two":
            exact = bounded | {spec.name for spec in workspace.inputs if spec.is_picture or spec.range is not None}
            ranges.update({name: without_room(range_) for name, range_ in ranges.items() if name not in exact})
        workspace.put(Ranges(ranges))
        few = few_bit_grids(workspace, known, found.grids)
        workspace.put(FewBitGrids(few))
        refusals = tuple(
            Refusal(name, reason, "moments-unknown")
            for name, reason in unknown.items()
            if name not in ranges and reason != NOT_NEEDED
        )
        by_norms = len(pinned) + len(skewed)
        notes = (f"{len(ranges)} ranges, {by_norms} by BatchNormalization, {len(found.tensors)} tensors measured",)
        return PassResult(self.name, refusals=refusals, notes=notes, warnings=few_bits_warnings(workspace, few))

    def _joined(
        self,
        graph: gs.Graph,
        known: Mapping[str, ChannelMoments],
        measured: Mapping[str, tuple[float, float]],
        reach: float,
        pinned: Collection[str],
        skewed: Mapping[str, tuple[float, float]],
    ) -> dict[str, tuple[float, float]]:
        """The range of each tensor by its moments, by what was measured, or by both. reach: of what was measured."""
        # Scores, and averages over a map of a picture of one thing, are further out than any of the procedural ones.
        outer = tail_tensors(graph) | {t.name for node in graph.nodes if averages(node) for t in node.outputs}
        vectors = vector_tensors(graph) if reach > 1 else set[str]()
        hidden = hidden_of_heads(graph) if reach > 1 else set[str]()
        ranges = {}
        for name, (low, high) in measured.items():
            factor = max(reach, LONGEST_REACH if name in hidden else VECTOR_REACH if name in vectors else reach)
            ranges[name] = factor * low, factor * high
        for name, m in known.items():
            if not m.mean.size:
                continue  # an empty tensor has no range
            derived = moment_range(m.mean, m.variance, m.low, m.high, self.options.deviations)
            if name in pinned or (name not in measured and name not in skewed):
                ranges[name] = derived
                continue
            low, high = skewed[name] if name in skewed else ranges[name]
            if name in skewed:
                low, high = min(derived[0], low), max(derived[1], high)
            elif name in outer:
                # Behind many layers without BatchNormalization derived moments can be off by any factor.
                least, most = (LONGEST_REACH * bound for bound in measured[name])
                low, high = min(max(derived[0], least), low), max(min(derived[1], most), high)
            ranges[name] = max(low, float(m.low.min())), min(high, float(m.high.max()))
        for name, (low, high) in bounds_of_sums(graph, known, self.options.deviations).items():
            if name in ranges:
                ranges[name] = max(low, ranges[name][0]), min(high, ranges[name][1])
        return ranges


def _within_averages(
    graph: gs.Graph, reach: Mapping[str, tuple[float, float]], measured: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """The reach of layers, of hidden vectors that follow from averages over the map at most three times as measured.

    Their entries move together, from one picture to the next, and cancel in the sums of a layer; what weights make of
    independent entries is twenty times as far as any of them goes.
    """
    found = dict(reach)
    for name in averaged_vectors(graph) & reach.keys() & measured.keys():
        least, most = LONGEST_REACH * min(measured[name][0], 0.0), LONGEST_REACH * max(measured[name][1], 0.0)
        found[name] = max(reach[name][0], least), min(reach[name][1], most)
    return found


def _reach_as_stated(workspace: Workspace, ranges: dict[str, tuple[float, float]]) -> None:
    """Widen what BatchNormalizations say to what inputs reach that fill the range which the user stated."""
    for name, (low, high) in stated_reach(workspace.graph, workspace.inputs, workspace.settings.seed).items():
        if name in ranges:
            ranges[name] = min(low, ranges[name][0]), max(high, ranges[name][1])


def _of_inputs(
    inputs: InputSpecs, known: Mapping[str, ChannelMoments], measured: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """The ranges of a network's inputs."""
    ranges = {}
    for spec in inputs:
        bounds, seen = known.get(spec.name), measured.get(spec.name)
        if bounds is None:
            continue
        known_range = seen if spec.range is None else spec.range
        if known_range is not None and not spec.is_picture:
            ranges[spec.name] = known_range
            continue
        low, high = float(bounds.low.min()), float(bounds.high.max())
        if seen is not None and inputs.own_images is not None:
            low, high = min(low, seen[0]), max(high, seen[1])
        ranges[spec.name] = (low, high)
    return ranges


def _within_clips(graph: gs.Graph, ranges: dict[str, tuple[float, float]]) -> set[str]:
    """Cut the range of what a Clip gives to its bounds, also behind pooling and moves; returns those that reach
    the upper one.

    Measured ranges reach beyond what was seen. onnxruntime takes a layer and its Clip for one integer kernel only where
    the range lies within the bounds.
    """
    bounds: dict[str, tuple[float, float]] = {}
    cut: set[str] = set()
    for node in graph.nodes:
        if not node.inputs or not node.outputs:
            continue
        made, read = node.outputs[0].name, node.inputs[0].name
        try:
            bounds[made] = clip_bounds(node)
        except Unknown:
            if not _keeps_range(node) or read not in bounds:
                continue
            bounds[made] = min(bounds[read][0], 0.0), max(bounds[read][1], 0.0)
        if made in ranges:
            low, high = (min(max(end, bounds[made][0]), bounds[made][1]) for end in ranges[made])
            ranges[made] = low, high
            if 0 < high == bounds[made][1]:
                cut.add(made)
    return cut


def _overshoot(
    graph: gs.Graph,
    ranges: dict[str, tuple[float, float]],
    measured: Mapping[str, tuple[float, float]],
    reach: float,
) -> None:
    """Give what a cubic Resize makes the range of what it reads, and what it overshoots that by.

    That is the part of the range that it overshot on images, times their reach, and at most what its kernel can give.
    Where nothing was measured it is all that the kernel can give.
    """
    for node in graph.nodes:
        if op_of(node) != "Resize" or node.attrs.get("mode") != "cubic" or node.inputs[0].name not in ranges:
            continue
        read, made = node.inputs[0].name, node.outputs[0].name
        most = cubic_overshoot(float(node.attrs.get("cubic_coeff_a", CUBIC_COEFFICIENT)))
        below = above = most
        if read in measured and made in measured and measured[read][1] > measured[read][0]:
            (least, greatest), (bottom, top) = measured[read], measured[made]
            width = greatest - least
            below, above = (min(most, reach * max(d, 0.0) / width) for d in (least - bottom, top - greatest))
        low, high = ranges[read]
        ranges[made] = low - below * (high - low), high + above * (high - low)


def _widen_averages(graph: gs.Graph, ranges: dict[str, tuple[float, float]]) -> None:
    """Give each average at least a 255th of the range of what it averages.

    Finer steps would show nothing but the rounding of its input, as where the images average to zero, and
    onnxruntime's QLinearGlobalAveragePool refuses a ratio of scales from 256 on.
    """
    for node in graph.nodes:
        if not averages(node) or not {node.inputs[0].name, node.outputs[0].name} <= ranges.keys():
            continue
        (low, high), (least, most) = ranges[node.outputs[0].name], ranges[node.inputs[0].name]
        missing = (max(most, 0.0) - min(least, 0.0)) / LEVELS - (high - low)
        if missing > 0:
            ranges[node.outputs[0].name] = low - missing / 2, high + missing / 2


def _unscaled_tensors(graph: gs.Graph, inputs: InputSpecs) -> set[str]:
    """Inputs that 8 bits do not hold, and what is made of them in front of layers and BatchNormalizations.

    Where moments alone are known nobody knows how far they reach: a sound is ten times as loud as its deviation, or a
    tenth of it for a minute. Of 16-bit pixels between stated bounds a scene fills a part that is no wider than a few
    steps of 255.
    """
    found = {spec.name for spec in inputs if spec.is_float and not spec.is_of_bytes}
    for node in graph.nodes:
        measures = is_weighted(node) or squashes(node) or op_of(node) == "BatchNormalization"
        if not measures and any(t.name in found for t in node.inputs):
            found.update(t.name for t in node.outputs)
    return found


def vector_tensors(graph: gs.Graph) -> set[str]:
    """The outputs of Gemms, one vector an image, also through an activation."""
    found: set[str] = set()
    for node in graph.nodes:
        if op_of(node) == "Gemm" or (_follows(node) and node.inputs[0].name in found):
            found.update(t.name for t in node.outputs)
    return found


def _follows(node: gs.Node) -> bool:
    """Whether a node keeps the shape of each channel's distribution, or cuts it."""
    return meaning_of(node).rectifies or multiplies_by_codes(node) or _keeps_range(node)


def _keeps_range(node: gs.Node) -> bool:
    """Whether a node gives nothing beyond the range of what it reads, and zeros."""
    return op_of(node) in KEEPS_RANGE and (op_of(node) != "Resize" or keeps_scale(node))


def pinned_tensors(graph: gs.Graph) -> tuple[set[str], dict[str, tuple[float, float]]]:
    """The tensors whose moments a BatchNormalization fixes: its output, also through activation, pooling and moves.

    Apart, second, those of one that normalizes a rectifier's output, with their range by `skewed_range`.
    """
    pinned: set[str] = set()
    skewed: dict[str, tuple[float, float]] = {}
    cut: set[str] = set()
    for node in graph.nodes:
        names = [t.name for t in node.outputs]
        source = node.inputs[0].name if node.inputs else ""
        if meaning_of(node).rectifies or (_keeps_range(node) and source in cut):
            cut.update(names)
        norm = batch_norm_parameters(node) if op_of(node) == "BatchNormalization" and source in cut else None
        if norm is not None:
            range_ = skewed_range(norm.mean, norm.std, norm.gamma, norm.beta)
            skewed.update(dict.fromkeys(names, range_))
        elif _follows(node) and source in skewed:
            skewed.update(dict.fromkeys(names, skewed[source]))
        elif op_of(node) == "BatchNormalization" or (_follows(node) and source in pinned):
            pinned.update(names)
    return pinned, skewed


KEEPS_RANGE = frozenset({"MaxPool", "Flatten", "Pad", "Slice", "Resize"})
