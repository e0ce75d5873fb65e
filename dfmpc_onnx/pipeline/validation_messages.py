"""What msgspec finds wrong with a document, as one line for its author."""

from __future__ import annotations

import re

import msgspec


def explain(error: msgspec.ValidationError, where: str) -> str:
    """msgspec's message in one line, with the place in front and the path in the document put in words."""
    message = str(error).replace("Object contains unknown field", "unknown key").replace(" | null", "")
    message = message.replace("Object missing required field", "missing key").replace("`", "'")
    head, _, path = message.partition(" - at ")
    keys = re.findall(r"\.(\w+)", path)
    at = f" at '{keys[-1]}'" if keys and "key" not in head else ""
    return f"{where}: {head[:1].lower()}{head[1:]}{at}"


def named_key(error: msgspec.ValidationError) -> str | None:
    """The key that a validation error speaks of; None where it names none."""
    message = str(error)
    named = re.search(r"unknown field `(\w+)`", message) or re.search(r"at `\$\.(\w+)", message)
    return named[1] if named else None
