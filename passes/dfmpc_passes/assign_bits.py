"""How many bits each layer's weight gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.pipeline.facts import BitPlan, Layer, LayerBits, Layers, Pairs
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.settings import ASKED, FLOAT, TERNARY, BitWidth, LayerOverride
from dfmpc_onnx.pipeline.shared_weights import layers_of_one_weight
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.code_formats import FLOAT_FORM_BYTES, INTEGER_FORM_BYTES

LEAST_LOSS = 2**12  # bytes: a file that is larger by less is not worth what integer kernels save
LEAST_WIDTH = 2  # of those that a measured error chooses from
WIDTH_ORDER: tuple[BitWidth | str, ...] = (TERNARY, 1.6, 2, 2.67, *range(3, 9), FLOAT)


class AssignBitsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """edges: the least bits of the first layer, the classifier and depthwise Convs; 0 makes no exception for them.
    least: how large a layer must be to be low, as a share of the average layer; 0 makes every pair's first half low.
    folded: whether the first half is low where no BatchNormalization is behind it to tell its statistics. tiny: where
    all layers get one width, the smallest get the bits of the edges, as many as together hold this share of all
    weights; 0 makes no exception for them."""

    edges: Annotated[int, msgspec.Meta(ge=0, le=8)] = 8
    least: Annotated[float, msgspec.Meta(ge=0)] = 0.5
    folded: Literal["low", "high"] = "high"
    tiny: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.005


class AssignBits(Pass[AssignBitsOptions]):
    """Before: layers and pairs, as asked with --weights 2/6
    After: 2 bits for the low half of each pair, 6 for the others, 8 for the first layer, classifier, depthwise Convs

    Why: a low layer is one whose error the next layer repairs; every other one keeps the high width. The first
    layer and the classifier hold few weights and no later layer repairs them; a depthwise Conv has so few weights an
    output that their errors do not average out, and few bytes. So do the smallest layers where all get one width, since
    what they lose costs next to no bytes. Layers that read one weight get the widest width of
    them all, so that one set of codes serves them; only a width that the user asked for sets one apart.

    Requires: the layers and the pairs.

    Refuses when: a weight cannot be quantized, or its codes with their scales and nodes would take more bytes than its
    floats, in a network of which that holds as a whole; the layer stays in float. A pair whose BatchNormalization was
    folded, in recipes that measure nothing: its first half stays high.

    Reference: Chen et al. 2023, figure 2.
    """

    name = "assign_bits"
    Options = AssignBitsOptions
    requires: ClassVar = (Layers, Pairs)
    provides: ClassVar = (BitPlan,)

    def run(self, workspace: Workspace) -> PassResult:
        layers, pairs = workspace.get(Layers), workspace.get(Pairs)
        low: set[str] = set()
        small: set[str] = set()
        folded: set[str] = set()
        if not workspace.settings.weights.auto and workspace.settings.weights.paired:
            sizes = {layer.name: layer.size for layer in layers.quantizable}
            least = self.options.least * sum(sizes.values()) / max(len(sizes), 1)
            fit = set(pairs.by_low() if self.options.folded == "low" else (p.low for p, _ in pairs.with_batch_norm()))
            low = {name for name in fit if sizes.get(name, 0) >= least}
            # One huge classifier makes every Conv small; then the share says nothing, and all pairs are low.
            low = low or {name for name in fit if name in sizes}
            small, folded = fit - low, set(pairs.by_low()) - fit
        tiny = _smallest(layers.quantizable, self.options.tiny) if _takes_one_width(workspace) else frozenset[str]()
        plan: dict[str, LayerBits] = {}
        used: set[LayerOverride] = set()
        for layer in layers.with_nested:
            half = "tiny" if layer.name in tiny else _half(layer.name, low, small, folded)
            plan[layer.name] = self._bits(workspace, layer, half, used)
        _one_width_for_each_shared_weight(workspace, plan)
        _leave_out_what_does_not_pay(workspace, plan)
        unused = [item for item in workspace.settings.layers if item not in used]
        if unused:
            names = ", ".join(shown(layer.name) for layer in layers.with_nested[:3])
            raise OptionError(f"layer '{shown(str(unused[0]))}': no layer has such a name; the first are {names}")
        workspace.put(BitPlan(plan))
        rewrites = tuple(
            Rewrite(name, str(bits.bits) if isinstance(bits.bits, str) else f"{bits.bits:g} bits", {"why": bits.why})
            for name, bits in plan.items()
            if bits.bits != FLOAT
        )
        refusals = tuple(Refusal(name, bits.why, bits.code) for name, bits in plan.items() if bits.code is not None)
        warnings: tuple[str, ...] = ()
        skipped = [item for item in used if all(plan[n].bits == FLOAT for n in plan if item.matches(n))]
        skipped = [item for item in skipped if item.bits != FLOAT]
        if layers.quantizable and all(bits.code == "codes-cost-more" for bits in plan.values()):
            warnings = ("nothing is quantized: codes with their scales and nodes take more bytes than the weights",)
        elif not layers.quantizable:
            why = layers.with_nested[0].refused if layers.with_nested else "there is no layer"
            warnings = (f"nothing is quantized: {why}",)
        elif skipped:
            listed = ", ".join(str(item) for item in sorted(skipped, key=str))
            warnings = (f"layer {shown(listed)}: what it names cannot be quantized and stays float",)
        elif workspace.settings.weights.paired and not low:
            why = NO_STATISTICS if folded else "no chain of two Convs fits"
            weights = workspace.settings.weights
            warnings = (f"no layer can get the few bits of {weights}, all get {weights.high}: {why}",)
        return PassResult(self.name, rewrites, refusals, warnings=warnings)

    def _bits(self, workspace: Workspace, layer: Layer, half: Half, used: set[LayerOverride]) -> LayerBits:
        low = half == "low"
        if layer.refused is not None:
            used.update(item for item in workspace.settings.layers if item.matches(layer.name))
            return LayerBits(FLOAT, "float", layer.refused.text, layer.refused.code)
        chosen = None
        for item in workspace.settings.layers:
            if item.matches(layer.name):
                used.add(item)
                chosen = item
        if chosen is not None:
            if chosen.bits == FLOAT:
                return LayerBits(FLOAT, "float", ASKED, "asked-for-float")
            return LayerBits(chosen.bits, "low" if low else _role_of_override(chosen.bits), ASKED)
        weights = workspace.settings.weights
        if low:
            return LayerBits(weights.low, "low", "first of a pair: the next layer repairs it")
        if weights.auto:
            return LayerBits(weights.high, "auto", "chosen by measured error")
        upward = layer.op == "ConvTranspose"
        if (layer.position != "inner" or layer.depthwise or upward) and self.options.edges > weights.high:
            inner = "ConvTranspose: rounded to the nearest" if upward else "depthwise"
            place = {"first": "first layer", "inner": inner, "last": "classifier"}[layer.position]
            return LayerBits(self.options.edges, _role(self.options.edges), place)
        if half == "tiny" and self.options.edges > weights.high:
            return LayerBits(self.options.edges, _role(self.options.edges), "too few weights for low bits to pay")
        if half == "small":
            return LayerBits(weights.high, _role(weights.high), "too few weights for low bits to pay")
        if half == "folded":
            return LayerBits(weights.high, _role(weights.high), NO_STATISTICS, "no-batch-norm")
        why = "second of a pair, or of none" if weights.paired else "one width for all layers"
        return LayerBits(weights.high, _role(weights.high), why)


def _one_width_for_each_shared_weight(workspace: Workspace, plan: dict[str, LayerBits]) -> None:
    """Give all layers that read one weight the widest of their widths: a second set of codes would cost more.

    Those that the user gave a width of their own keep it.
    """
    for group in layers_of_one_weight(workspace):
        free = [layer.name for layer in group if plan[layer.name].why != ASKED]
        widest = max((plan[name] for name in free), key=lambda bits: WIDTH_ORDER.index(bits.bits), default=None)
        if widest is not None:
            plan.update(
                (name, dataclasses.replace(widest, why=f"{widest.why}, for all who share its weight"))
                for name in free
                if plan[name].bits != widest.bits
            )


def _leave_out_what_does_not_pay(workspace: Workspace, plan: dict[str, LayerBits]) -> None:
    """Leave layers in float whose codes cost more bytes than they save, where all together would cost some kilobytes.

    Layers that share a weight stay together.
    """
    in_float = FLOAT_FORM_BYTES if workspace.settings.activations == "none" else INTEGER_FORM_BYTES
    groups = layers_of_one_weight(workspace)
    grouped = {layer.name for group in groups for layer in group}
    alone = ((layer,) for layer in workspace.get(Layers).quantizable if layer.name not in grouped)
    found: list[tuple[tuple[Layer, ...], int, int]] = []
    for group in (*groups, *alone):
        bits = plan[group[0].name]
        if bits.bits != FLOAT and not any(plan[layer.name].why == ASKED for layer in group):
            width = LEAST_WIDTH if bits.role == "auto" or bits.bits == TERNARY else float(bits.bits)
            cost = sum(in_float + 4 * (layer.channels or 1) for layer in group)
            found.append((group, int(group[0].size * (32 - width) // 8), cost))
    if sum(cost - saved for _, saved, cost in found) < LEAST_LOSS:
        return
    for group, saved, cost in found:
        if cost > saved:
            why = f"its codes would save {saved} bytes, scales and nodes cost {cost}"
            plan.update((layer.name, LayerBits(FLOAT, "float", why, "codes-cost-more")) for layer in group)


def _takes_one_width(workspace: Workspace) -> bool:
    weights = workspace.settings.weights
    return not weights.auto and not weights.paired


def _smallest(layers: Sequence[Layer], share: float) -> frozenset[str]:
    """The smallest of the inner layers that take fewer bits than edges do, as many as hold a share of all weights."""
    left = share * sum(layer.size for layer in layers)
    found: set[str] = set()
    for layer in sorted(layers, key=lambda layer: layer.size):
        if layer.position == "inner" and not layer.depthwise and layer.op != "ConvTranspose":
            left -= layer.size
            if left < 0:
                break
            found.add(layer.name)
    return frozenset(found)


Half = Literal["low", "small", "tiny", "folded", "other"]
NO_STATISTICS = "no BatchNormalization behind it to tell its statistics, and this recipe measures none"


def _half(name: str, low: set[str], small: set[str], folded: set[str]) -> Half:
    return "low" if name in low else "small" if name in small else "folded" if name in folded else "other"


def _role(bits: BitWidth) -> Literal["high", "8-bit"]:
    return "8-bit" if bits == 8 else "high"


def _role_of_override(bits: BitWidth) -> Literal["low", "high", "8-bit"]:
    """What a layer of a width of its own is called: low up to 3 bits, as where a recipe chooses; then it is repaired
    where it can be. One width for all layers makes none of them low."""
    return "low" if bits == TERNARY or float(bits) <= 3 else _role(bits)
