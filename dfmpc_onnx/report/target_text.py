"""Targets and their rules in words: for the terminal, and for the page of the docs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.text import Text

from dfmpc_onnx.errors import printable
from dfmpc_onnx.pipeline.target_rules import LAYER_OPERATORS, RULES, Target
from dfmpc_onnx.report.tables import definitions, figures, prose

MOST_OPERATORS_LISTED = 12  # operators that a line of the terminal holds
RULE_LABELS = {
    "activations": "activations",
    "activation_bits": "activation bits to ask for",
    "activation_type": "type of activations",
    "scales": "scales",
    "per_channel": "a scale a channel",
    "bias": "bias",
    "pairs_in_16_bits": "sums of two products",
    "between": "Q/DQ stand",
    "fused_sums": "sums",
    "float_operators": "stays in float",
    "spatial_dimensions": "dimensions of a Conv",
    "all_quantized": "must be quantized",
    "every_operator": "codes between",
    "fixed_scales": "a scale of its own bounds",
    "operators": "operators that it takes",
    "weight_zero_points": "zero points of weights",
    "quantizers": "nodes that quantize",
    "may_leave_device": "what costs too much",
    "storage": "weights are stored",
    "float_type": "type of floats",
    "static_shapes": "shapes",
    "lowest_opset": "lowest opset",
    "newest_opset": "types of weights",
    "highest_opset": "highest opset",
}
RULE_WORDS: dict[tuple[str, object], str] = {
    ("activations", "8"): "8 bits",
    ("activations", "16"): "16 bits",
    ("activations", "auto"): "8 bits, and 16 where 8 would cost too much",
    ("activations", "none"): "float, unless bits are asked for",
    ("activation_type", "uint8"): "uint8, any zero point",
    ("activation_type", "int8"): "int8, zero point 0",
    ("scales", "free"): "any",
    ("scales", "power-of-two"): "powers of two",
    ("per_channel", LAYER_OPERATORS): "of all weights",
    ("per_channel", ()): "of none: one scale a tensor",
    ("bias", "int32"): "int32 at the scale of the products",
    ("bias", "float"): "float",
    ("bias", "int8"): "int8 at a scale of its own",
    ("pairs_in_16_bits", True): "codes are such that no two leave 16 bits",
    ("pairs_in_16_bits", False): "of any size",
    ("between", True): "between all operators that compute in integers",
    ("between", False): "in front of layers",
    ("fused_sums", True): "added within the Conv that ends one branch; the other branch is quantized",
    ("fused_sums", False): "operators like others",
    ("float_operators", ()): "nothing by rule",
    ("all_quantized", True): "every operator that can be",
    ("all_quantized", False): "nothing by rule",
    ("every_operator", True): "all operators, outputs included",
    ("every_operator", False): "operators with integer kernels on the CPU provider",
    ("fixed_scales", ()): "no operator",
    ("operators", ()): "any",
    ("weight_zero_points", True): "any, at 4 bits and below",
    ("weight_zero_points", False): "0",
    ("quantizers", "qdq"): "QuantizeLinear and DequantizeLinear",
    ("quantizers", "qonnx"): "Quant and BipolarQuant, of the domain qonnx.custom_op.general",
    ("may_leave_device", True): "may stay in float, and leave the device",
    ("may_leave_device", False): "stays in float where nothing must be quantized",
    ("storage", "packed"): "packed, in as few bits as the opset has types or tables for",
    ("storage", "int8"): "int8",
    ("static_shapes", True): "every dimension known",
    ("static_shapes", False): "any",
}


class TargetList(msgspec.Struct, frozen=True):
    """What `targets --json` prints."""

    targets: tuple[Target, ...]


def rule_words(target: Target, rule: str) -> str:
    """What a rule of a target comes to, in words."""
    value = getattr(target, rule)
    if rule == "storage" and target.quantizers == "qonnx":
        return "as floats, in front of the nodes that quantize"
    if rule == "activation_type" and 16 in target.activation_bits:
        return "uint8 and uint16, any zero point"
    if (rule, value) in RULE_WORDS:
        return RULE_WORDS[rule, value]
    if rule == "newest_opset":
        return f"those of opset {value}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def rule_rows(target: Target) -> list[tuple[str, str, int]]:
    """Every rule: its label, what it comes to, and the number of its source, from 1."""
    place = {rule: number for number, source in enumerate(target.sources, 1) for rule in source.rules}
    return [(RULE_LABELS[rule], rule_words(target, rule), place[rule]) for rule in RULES]


def targets_table(targets: Sequence[Target], console: Console) -> None:
    """Every target with what it is for."""
    definitions(console, [(target.name, target.takes, target.summary) for target in targets])
    console.print(Text("\ndfmpc-onnx targets NAME prints the rules of one, and where they come from"))


def target_page(target: Target, console: Console) -> None:
    """One target: its rules with the numbers of their sources, the sources, and where it was run."""
    console.print(Text(target.name, style="bold"))
    prose(console, target.summary)
    console.print()
    rows = [("for", target.takes), ("run on", target.ran)]
    figures(console, [*rows, ("never run", target.not_run)] if target.not_run else rows)
    console.print(Text("\nRules, with the number of the source:", style="bold"))
    figures(console, [(label, f"{_in_brief(words)} [{number}]") for label, words, number in rule_rows(target)])
    console.print(Text("\nSources:", style="bold"))
    for number, source in enumerate(target.sources, 1):
        prose(console, f"[{number}] {source.title}")
        if source.url:
            console.print(Text(f"    {printable(source.url)}"), soft_wrap=True)


def _in_brief(words: str) -> str:
    """A list of very many operators as how many there are, the first and the last."""
    names = words.split(", ")
    if len(names) <= MOST_OPERATORS_LISTED:
        return words
    return f"{len(names)} operators, {names[0]} to {names[-1]}; --json names each"
