"""Which layers compute in float although their weights are integers, and why, in a few words."""

from __future__ import annotations

from collections import Counter

from dfmpc_onnx.report.schema import Report

ACCURACY = "for accuracy"
# By the codes of refusals that leave a layer with integer weights in float.
WHY_FLOAT = {
    "slower-in-integers": "integers would be slower",
    "no-integer-kernel": "no fast integer kernel",
    "float-activation": ACCURACY,
    "range-unknown": "a range is not known",
    "scaled-product": "alpha or beta is not 1",
    "bias-too-large": "the bias does not fit int32",
    "noisy-input": ACCURACY,
    "output-layer": ACCURACY,
    "whole-map": ACCURACY,
    "codes-too-wide": "the codes do not fit the integer type",
}
ACTIVATIONS_FLOAT = "activations are not quantized"
NO_KERNEL = "onnxruntime has no kernels for codes of so few bits"
OTHER = "no other form is known"


def why_float(report: Report) -> dict[str, str]:
    """Why each layer with integer weights that computes in float does, by its name."""
    if report.activations == "none":
        return {layer.name: ACTIVATIONS_FLOAT for layer in report.layers if layer.bits != 32 and not layer.integer}
    few = report.activations not in ("8", "16") and not any(layer.integer for layer in report.layers)
    codes = {refusal.site: refusal.code for refusal in report.refusals if refusal.code in WHY_FLOAT}
    floats = [layer.name for layer in report.layers if layer.bits != 32 and not layer.integer]
    return {name: WHY_FLOAT.get(codes.get(name, ""), NO_KERNEL if few else OTHER) for name in floats}


def computes_in(report: Report) -> str:
    """How many layers compute in integers and how many in float, with the reasons, the most frequent first."""
    integers = sum(layer.integer for layer in report.layers)
    in_float = len(report.layers) - integers
    if not in_float:
        return f"integers: {integers}"
    reasons = Counter(why_float(report).values())
    kept = sum(layer.bits == 32 for layer in report.layers)
    each = [reason if len(reasons) == 1 and not kept else f"{n}: {reason}" for reason, n in reasons.most_common()]
    if kept:
        each.append(f"{kept}: left in float" if reasons else "left in float")
    which = "" if not integers and len(each) == 1 else "; -v says which"
    return f"integers: {integers}, float: {in_float} ({'; '.join(each)}{which})"
