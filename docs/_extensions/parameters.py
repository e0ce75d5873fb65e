"""Docstrings name their parameters inside paragraphs (``images: an .npz. seed: of ...``); a page lists them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from sphinx.application import Sphinx


def parameter_names(thing: object) -> list[str]:
    """Of a function its parameters, of a class its fields; none where they cannot be found out."""
    try:
        return [name for name in inspect.signature(thing).parameters if name != "self"]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return []


def as_list(paragraph: str, names: list[str]) -> Iterator[str]:
    """A paragraph with each sentence that begins with parameters and a colon as an item of a list."""
    name = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    starts = re.compile(rf"(?:^|(?<=[.;)] ))(?:(?=(?:{name})(?:, (?:{name}))*: )|(?=Raises ))") if names else None
    parts = [part.strip() for part in starts.split(paragraph)] if starts else [paragraph]
    for part in filter(None, parts):
        head, colon, rest = part.partition(": ")
        if colon and all(word in names for word in head.split(", ")):
            yield f"* **{head}**: {rest}"
        else:
            yield part


def list_parameters(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Rewrite the lines of one docstring in place; indented paragraphs stay as they are."""
    names = parameter_names(thing) if what in {"function", "class", "method"} else []
    paragraphs = "\n".join(lines).split("\n\n")
    made: list[str] = []
    for paragraph in paragraphs:
        plain = paragraph and not any(line.startswith((" ", "*", "-", ":")) for line in paragraph.splitlines())
        parts = list(as_list(" ".join(paragraph.splitlines()), names)) if plain and names else [paragraph]
        for part in parts:
            made += [*part.splitlines(), ""]
    lines[:] = made


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", list_parameters)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
