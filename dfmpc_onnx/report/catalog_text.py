"""Passes and recipes as text for the terminal."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from dfmpc_onnx.pipeline.manager import Pass
from dfmpc_onnx.pipeline.recipe import Recipe
from dfmpc_onnx.report.tables import plain, table


def passes_table(kinds: list[type[Pass[Any]]], console: Console) -> None:
    """Every pass with its first line before and after."""
    rows = table("pass", "before", "after")
    for kind in kinds:
        page = headings(kind)
        rows.add_row(*plain(kind.name, page.get("Before", ""), page.get("After", "")))
    console.print(rows)


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
    rows = table("recipe", "weights", "activations", "summary")
    for recipe in recipes:
        rows.add_row(*plain(recipe.name, recipe.weights, recipe.activations, recipe.summary))
    console.print(rows)
