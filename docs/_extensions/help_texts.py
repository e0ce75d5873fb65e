"""Help texts are plain text: no sign in them is markup on the pages of the commands."""

from __future__ import annotations

import re

import click
from sphinx.application import Sphinx

MARKUP = re.compile(r"(?<![\\*])([*|_])(?!\*)")  # `**Required**` is of sphinx-click
MADE = (".. ", ":")  # lines that sphinx-click makes itself: directives and their options
TEXTS = ("description", "options")


def escape(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Escape what reStructuredText would read as emphasis, a substitution or a reference, but in literals."""
    for index, line in enumerate(lines):
        if not line.lstrip().startswith(MADE):
            parts = line.split("``")
            parts[::2] = [MARKUP.sub(r"\\\1", part) for part in parts[::2]]
            lines[index] = "``".join(parts)


def leave_out_examples(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """The pages have examples of their own, in front."""
    if "\n".join(lines).lstrip("| \n").startswith("Examples"):
        lines.clear()


def setup(app: Sphinx) -> dict[str, bool]:
    for text in TEXTS:
        app.connect(f"sphinx-click-process-{text}", escape)
    app.connect("sphinx-click-process-epilog", leave_out_examples)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
