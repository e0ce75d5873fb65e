"""Directives ``recipes``, ``passes`` and ``targets``: what the program knows, each entry under a heading of its own.

Nothing is copied into the pages: recipes are shown as they are on disk, passes as their docstrings say.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from dfmpc_onnx import catalog
from dfmpc_onnx.pipeline.targets import TARGETS
from dfmpc_onnx.report.catalog_text import headings
from dfmpc_onnx.report.target_text import rule_rows

GRAPHS = ("Before", "After")  # lines of a graph, shown as code


def recipe_lines() -> Iterator[str]:
    """Markdown of every recipe: its summary and its text."""
    for name, recipe in catalog.recipes().items():
        yield from (f"## {name}", "", f"{recipe.summary[:1].upper()}{recipe.summary[1:]}.", "")
        yield from ("```toml", *catalog.recipe_text(name).text.splitlines(), "```", "")


def pass_lines() -> Iterator[str]:
    """Markdown of every pass: the headings of its docstring, and the options that a recipe may set."""
    for name, kind in catalog.passes().items():
        yield from (f"## {name}", "")
        for heading, text in headings(kind).items():
            if heading in GRAPHS:
                yield from (f"{heading}:", "", "```text", text, "```", "")
            else:
                yield from (f"**{heading}:** {escaped(text)}", "")
        yield from option_lines(kind.Options)


def option_lines(options: Any) -> Iterator[str]:
    fields = msgspec.structs.fields(options)
    if not fields:
        return
    yield from ("Options in a recipe:", "", "| option | default |", "|---|---|")
    yield from (f"| `{field.name}` | {_default(field)} |" for field in fields)
    yield from ("", escaped(inspect.getdoc(options) or ""), "")


def target_lines() -> Iterator[str]:
    """Markdown of every target: what it is for, where it was run, and its rules with their sources."""
    for name, target in TARGETS.items():
        yield from (f"## {name}", "", f"For {escaped(target.takes)}: {escaped(target.summary)}.", "")
        yield from (f"**Run on:** {escaped(target.ran)}.", "")
        if target.not_run:
            yield from (f"**Never run:** {escaped(target.not_run)}.", "")
        yield from ("| rule | | source |", "|---|---|---|")
        yield from (f"| {label} | {escaped(words)} | {number} |" for label, words, number in rule_rows(target))
        yield ""
        for number, source in enumerate(target.sources, 1):
            title = escaped(source.title)
            yield f"{number}. [{title}]({source.url})" if source.url else f"{number}. {title}"
        yield ""


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return "none: must be given" if value is msgspec.NODEFAULT else f"`{msgspec.json.encode(value).decode()}`"


def escaped(text: str) -> str:
    """Prose of a docstring as Markdown: its back quotes stay code, and no sign of an equation becomes markup."""
    parts = text.replace("``", "`").split("`")
    return "`".join(part if odd % 2 else _plain(part) for odd, part in enumerate(parts))


def _plain(part: str) -> str:
    for sign in "\\*_|<>[]^$~{}":
        part = part.replace(sign, "\\" + sign)
    return part


class Catalogue(SphinxDirective):
    """Parses generated Markdown in the place of the directive."""

    lines: ClassVar[Any] = None

    def run(self) -> list[nodes.Node]:
        text = StringList(list(type(self).lines()), source=f"the catalogue ({self.name})")
        return self.parse_text_to_nodes("\n".join(text), allow_section_headings=True)


class Recipes(Catalogue):
    lines = staticmethod(recipe_lines)


class Passes(Catalogue):
    lines = staticmethod(pass_lines)


class Targets(Catalogue):
    lines = staticmethod(target_lines)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("recipes", Recipes)
    app.add_directive("passes", Passes)
    app.add_directive("targets", Targets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
