"""Leave in float the few activations whose 8 bits would cost the network's output too much."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.evaluation.rounding_switches import ToggledRounding
from dfmpc_onnx.inputs.feeds import LEAST_PART, filled_in_part
from dfmpc_onnx.numerics.arrays import Array
from dfmpc_onnx.numerics.group_search import Costliest, costliest
from dfmpc_onnx.numerics.output_loss import OutputLoss
from dfmpc_onnx.pipeline.deadline import SEARCHED
from dfmpc_onnx.pipeline.facts import (
    ActivationNoise,
    Codes,
    FinalOpset,
    FloatActivations,
    FoldedBatchNorms,
    Layers,
    Ranges,
)
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.settings import WIDE_ACTIVATION_BITS, Settings
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.activation_grids import activation_qparams
from dfmpc_onnx.qdq.placement import Placer
from dfmpc_onnx.quantization.image_count import images_in_time
from dfmpc_onnx.statistics.batch_axis import statistics_batch

IMAGES = 4
MAP_STRICTNESS_8_BITS = 1.1  # times less may an output lose that is a map or a list
MOST_RUNS = 240  # before the search ends with whole groups
FEWEST_RUNS = 5  # that tell whether any activation costs too much


class KeepActivationsFloatOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """budget: the largest share of a vector's variance that 8-bit activations may cost at the output, of maps and lists
    0.9 times that; wide_budget: the same where what costs more gets 16 bits in place of float; images: how many to
    measure it on; tensors: activations that stay in float, or get 16 bits, whatever they cost."""

    budget: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01
    wide_budget: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.001
    images: Annotated[int, msgspec.Meta(ge=1)] = IMAGES
    tensors: tuple[str, ...] = ()


class KeepActivationsFloat(Pass[KeepActivationsFloatOptions]):
    """Before: every activation between layers with a range, to be quantized
    After: the same graph; those that cost the output most are marked to stay in float, with the layers they touch

    Why: one scale for a tensor whose channels reach a hundred times as far as each other leaves most of them no codes.
    How much of that arrives at the output no local measure says, so it is measured there: with all activations
    quantized, and where that loses more than 1 % of an output's variance (20 dB; 0.9 % where it is a map or a list,
    which is used value by value), with ever smaller groups of them, until those are found that matter. Networks
    that lose less, nearly all classifiers, are run twice and left as they are. Where a target mixes widths, what is
    found gets 16 bits: that is cheaper than float, which would leave the device, and a tenth of the loss is too much.

    Requires: ranges and codes, BatchNormalization folded, the final opset.

    Refuses when: activations stay in float; nothing that can be compared comes out of the network.

    Reference: docs/method.md, section 7; Dorfman 1943 (group testing).
    """

    name = "keep_activations_float"
    Options = KeepActivationsFloatOptions
    requires: ClassVar = (Ranges, Codes, Layers, FoldedBatchNorms, FinalOpset)
    provides: ClassVar = (FloatActivations, ActivationNoise)

    def reads_images(self) -> bool:
        return True

    def run(self, workspace: Workspace) -> PassResult:
        workspace.put(FloatActivations({}))
        workspace.put(ActivationNoise(0.0))
        settings, graph = workspace.settings, workspace.graph
        if settings.activations == "none" or graph.opset < settings.lowest_opset:
            return PassResult(self.name, notes=("activations stay in float",))
        if not settings.float_rules.keeps_costly_floats:
            return PassResult(self.name, notes=(f"{settings.target.name} wants every operator quantized",))
        ranges, sites = workspace.get(Ranges).tensors, Placer.by_float_rules(workspace).place()
        # Tensors that are only moved have one scale with what they are moved from, and share its fate.
        groups: dict[str, list[str]] = {}
        for name, like in sites.tensors.items():
            groups.setdefault(like, []).append(name)
        if not groups:
            return PassResult(self.name, notes=("no activation is quantized",))
        if workspace.deadline.past(SEARCHED):
            workspace.deadline.cut("no search for activations that should stay in float")
            return PassResult(self.name, notes=("no time was left to measure what activations cost",))
        qparams = activation_qparams(settings)
        scales = {name: qparams(*ranges[like])[0] for name, like in sites.tensors.items()}
        try:
            feeds = _feeds(workspace, self.options.images)
            network = ToggledRounding(workspace, scales, list(groups.values()), feeds)
        except ModelError as error:
            unknown = f"its outputs cannot be measured: {error}"
            return PassResult(self.name, refusals=(Refusal("model", unknown, "outputs-not-comparable"),))
        if not network.comparable:
            why = "no output holds finite numbers that are the same in every run"
            unknown = f"{why}; what {settings.activation_bits}-bit activations cost is not known"
            return PassResult(self.name, refusals=(Refusal("model", unknown, "outputs-not-comparable"),))
        known: dict[frozenset[int], OutputLoss] = {}

        def loss_of(chosen: Sequence[int]) -> OutputLoss:
            key = frozenset(chosen)
            if key not in known:
                known[key] = max(network.losses(chosen), key=_budget_share, default=OutputLoss(0.0, 0.0, True))
            return known[key]

        before = loss_of(range(len(groups)))
        budget = self.options.wide_budget if settings.mixes_widths else self.options.budget
        found = _costliest(workspace, lambda chosen: _budget_share(loss_of(chosen)), len(groups), budget)
        names, taken, bits = list(groups), set(found.all), settings.activation_bits
        after = loss_of([i for i in range(len(groups)) if i not in taken])
        kept, strangers = _asked_for(self.options.tensors, sites.tensors, groups)
        for index in found.singly:
            share = f"{100 * loss_of([index]).share_of_variance:.2g} %"
            why = f"{bits} bits of '{shown(names[index])}' cost {share} of the output"
            kept.update(dict.fromkeys(groups[names[index]], why))
        for part in found.together:
            share = f"{100 * loss_of(part).share_of_variance:.2g} %"
            cost = f"{bits} bits of {len(part)} activations around it cost {share} of the output"
            why = f"{cost}, and the search for those that matter was cut short"
            kept.update(dict.fromkeys((name for index in part for name in groups[names[index]]), why))
        workspace.put(FloatActivations(kept))
        workspace.put(ActivationNoise(after.share_of_variance))
        rewrites, refusals = _reported(kept, settings)
        cost = f"{bits}-bit activations cost {100 * before.share_of_variance:.2g} % of the output"
        rest = f", {100 * after.share_of_variance:.2g} % without {len(taken)} of {len(groups)}" if taken else ""
        notes = (cost + rest, *strangers, *network.notes, *_passed_over(network))
        return PassResult(self.name, rewrites, refusals, notes=notes)


def _reported(kept: Mapping[str, str], settings: Settings) -> tuple[tuple[Rewrite, ...], tuple[Refusal, ...]]:
    """The activations that 8 bits are not enough for, with the reason: 16 bits are a rewrite, float is a refusal."""
    if settings.mixes_widths:
        return tuple(Rewrite(name, f"has {WIDE_ACTIVATION_BITS} bits: {why}") for name, why in kept.items()), ()
    return (), tuple(Refusal(name, f"stays in float: {why}", "costly-activation") for name, why in kept.items())


def _feeds(workspace: Workspace, images: int) -> dict[str, Array]:
    """Of so many images, those that there is time for."""
    images = images_in_time(workspace, images, SEARCHED, FEWEST_RUNS)
    batch = statistics_batch(workspace.graph, workspace.inputs, workspace.settings.seed, images)
    feeds: dict[str, Array] = dict(batch.first(images).feeds)  # the user's own may be more than asked for
    return feeds | _filling_a_part(workspace, feeds)


def _costliest(workspace: Workspace, cost: Callable[[Sequence[int]], float], count: int, budget: float) -> Costliest:
    """The search, as far as there is time."""
    deadline = workspace.deadline
    found = costliest(cost, count, budget, MOST_RUNS, lambda: deadline.past(SEARCHED))
    if found.together and deadline.past(SEARCHED):
        deadline.cut("the search for activations that stay in float")
    return found


def _asked_for(
    tensors: Sequence[str], sites: Mapping[str, str], groups: Mapping[str, list[str]]
) -> tuple[dict[str, str], list[str]]:
    """The activations to keep whatever they cost, with those of one scale with them; a note on names that are none."""
    kept = {like: "asked for" for name in tensors if name in sites for like in groups[sites[name]]}
    return kept, [f"'{shown(name)}' is no activation to quantize" for name in tensors if name not in sites]


def _passed_over(network: ToggledRounding) -> tuple[str, ...]:
    """A note on the outputs that cannot be compared, where there are any."""
    left = ", ".join(f"'{shown(name)}'" for name in network.passed_over)
    return (f"not compared, since it holds no finite numbers or differs from run to run: {left}",) if left else ()


def _filling_a_part(workspace: Workspace, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Of the inputs, those with a range of the user's, shrunk to a 32nd of it, where 8 bits have the fewest steps."""
    inputs = workspace.inputs
    return {
        spec.name: filled_in_part(feeds[spec.name].astype(np.float64), LEAST_PART).astype(spec.dtype)
        for spec in inputs
        if inputs.own_images is None and spec.has_stated_range
    }


def _budget_share(loss: OutputLoss) -> float:
    """What an output loses, as a budget for vectors counts it."""
    return loss.share_of_variance * loss.strictness(MAP_STRICTNESS_8_BITS)
