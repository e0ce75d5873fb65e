"""The words for the bits of layers: how many have how many, and a layer's role in a recipe of two widths."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Literal

BitSpan = Literal["1-3", "4-7", "8", "auto", "float"]
SPANS: tuple[BitSpan, ...] = ("1-3", "4-7", "8", "auto", "float")

# What tables say for the `role` that JSON and Python have; what is not here is its own word.
ROLE_WORDS: Mapping[str, str] = {"low": "few bits", "high": "more bits"}
ROLES_LEGEND = (
    "role: what a layer gets where a recipe has two widths, such as 2/6: few bits (2) where the next layer can make up "
    "for the error, more bits (6) where none can, or where the layer makes up for another's; first layer, depthwise "
    "and classifier get 8. A recipe may give few bits to fewer layers. The default recipe measures each layer "
    "instead, whatever its role"
)


def span_of(bits: str) -> BitSpan:
    """Where a layer's bits lie, as reports have them: a number, "ternary", "auto" or "float"."""
    if bits == "auto":
        return "auto"
    if bits == "float":
        return "float"
    number = 2.0 if bits == "ternary" else float(bits)
    return "1-3" if number < 4 else "4-7" if number < 8 else "8"


def layers_by_bits(bits: Iterable[str]) -> str:
    """How many layers have how many bits, the fewest first: ``1 ternary, 5 at 4 bits, 2 at 8, 1 in float``."""
    counts = collections.Counter(bits)
    numbers = sorted((text for text in counts if text not in ("ternary", "float")), key=float)
    words = {"ternary": "ternary", **{text: f"at {text}" for text in numbers}, "float": "in float"}
    words.update((text, f"{words[text]} bits") for text in numbers[:1])
    return ", ".join(f"{counts[text]} {said}" for text, said in words.items() if counts[text])
