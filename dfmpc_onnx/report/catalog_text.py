"""Passes and recipes as text for the terminal."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from dfmpc_onnx.pipeline.manager import Pass
from dfmpc_onnx.pipeline.recipe import Recipe
from dfmpc_onnx.report.tables import definitions


def passes_table(kinds: list[type[Pass[Any]]], console: Console, *, verbose: bool = False) -> None:
    """Every pass with what it does; verbose: with the graph before and after it, too."""
    entries = []
    for kind in kinds:
        page = headings(kind)
        said = [pass_summary(kind)] if pass_summary(kind) else []
        if verbose or not said:
            said += [f"{heading}: {page[heading]}" for heading in ("Before", "After") if heading in page]
        entries.append((kind.name, "", "\n".join(said)))
    definitions(console, entries)
    console.print(Text("\ndfmpc-onnx passes NAME says why a pass is right, and when it refuses a layer"))


def pass_summary(kind: type[Pass[Any]]) -> str:
    """The first sentence of the module of a pass; empty where another package's has none."""
    module = sys.modules.get(kind.__module__)
    return (inspect.getdoc(module) or "").partition("\n\n")[0].replace("\n", " ") if module else ""


def headings(kind: type[Pass[Any]]) -> dict[str, str]:
    """The headings of a pass's docstring with their text, in order."""
    found: dict[str, str] = {}
    current = None
    for line in (inspect.getdoc(kind) or "").splitlines():
        head, sign, rest = line.partition(":")
        if sign and head in HEADINGS:
            current, line = head, rest
        if current:
            found[current] = f"{found.get(current, '')} {line.strip()}".strip()
    return found


HEADINGS = ("Before", "After", "Why", "Requires", "Refuses when", "Reference")


def pass_page(kind: type[Pass[Any]], console: Console) -> None:
    """What one pass does, with the options that a recipe may set."""
    console.print(Text(kind.name, style="bold"))
    for heading, text in headings(kind).items():
        console.print(Text(f"{heading}: {text}"))
    fields = msgspec.structs.fields(kind.Options)
    if fields:
        console.print(Text("\nOptions in a recipe:", style="bold"))
        for field in fields:
            console.print(Text(f"  {field.name} = {msgspec.json.encode(field.default).decode()}"))
        console.print(Text(inspect.getdoc(kind.Options) or ""))


def recipes_table(recipes: list[Recipe], console: Console) -> None:
    """Every recipe with its bits and its summary."""
    entries = [(r.name, f"weights {r.weights}, activations {r.activations}", r.summary) for r in recipes]
    definitions(console, entries)
    console.print(Text("\ndfmpc-onnx recipes NAME prints one as TOML, to copy and change"))
