"""Reports as JSON, safe to print."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from dfmpc_onnx.report.schema import Report

# Of a comparison.
FIGURES = frozenset(
    {
        "agreement",
        "tangent",
        "agreeing",
        "sqnr_db",
        "max_error",
        "top1",
        "float_top1",
        "rms",
        "equal",
        "boxes",
        "outputs",
        "groups",
    }
)


def as_json(data: msgspec.Struct, **extra: object) -> str:
    """One JSON object with the fields of the data and what is added.

    Names stand in it as they are, but all beyond ASCII is escaped: it would steer a terminal, hide from the eye, or
    have no place in the encoding of standard output. Figures of inputs that were made up at an unknown scale are null.
    """
    fields: dict[str, Any] = _withheld(msgspec.to_builtins(data))
    text = msgspec.json.format(msgspec.json.encode({**fields, **extra}), indent=2).decode()
    return _UNUSUAL.sub(lambda found: "".join(_escape(c) for c in found[0]), text)


def _withheld(value: Any) -> Any:
    """Without the figures where a `not_known` beside them says that they hold of nothing real."""
    if isinstance(value, list | tuple):
        return [_withheld(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    hidden = FIGURES if value.get("not_known") else ()
    return {key: _nulled(entry) if key in hidden else _withheld(entry) for key, entry in value.items()}


def _nulled(value: Any) -> Any:
    """A figure as null; of a list of outputs all figures inside."""
    if not isinstance(value, list | tuple):
        return None
    return [{k: _nulled(v) if k in FIGURES else v for k, v in entry.items()} for entry in value]


# What JSON lets stand as it is: line breaks appear between fields only, where they are meant.
_UNUSUAL = re.compile(r"[^\n -~]+")


def _escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def report_json(report: Report) -> str:
    counts = {role: report.count(role) for role in ("low", "high", "8-bit", "float")}
    return as_json(report, counts=counts)
