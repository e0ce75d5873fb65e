"""Numbers and sentences as the report writes them."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float) -> str:
    """A share in per cent, of two digits and never an exponent."""
    value = 100 * share
    if value == 0:
        return "0 %"
    return "<0.001 %" if 0 < value < 1e-3 else f"{value:.2g} %" if abs(value) < 10 else f"{value:.0f} %"


def decibels_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def signed_kilobytes(count: int) -> str:
    return f"{'+' if count > 0 else '-' if count < 0 else ''}{abs(count) / 1000:,.1f} kB"


def bits_words(bits: str) -> str:
    """A width as `PageLayer` has it, in words."""
    return f"{bits} bits" if bits.replace(".", "", 1).isdigit() else bits


def as_sentence(text: str) -> str:
    """Words as a sentence of their own."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def joined(names: Sequence[str]) -> str:
    """Names as a list in a sentence: ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def verb(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
