"""Passes and recipes as text for the terminal."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from dfmpc_onnx.pipeline.manager import Pass
from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE, Recipe
from dfmpc_onnx.report.tables import definitions


def passes_table(
    kinds: list[type[Pass[Any]]], recipes: list[Recipe], console: Console, *, verbose: bool = False
) -> None:
    """Every pass with what it does: those of the default recipe in their order, then the others with their recipes.

    verbose: with the graph before and after it, too.
    """
    by_name = {kind.name: kind for kind in kinds}
    default = next((recipe for recipe in recipes if recipe.name == DEFAULT_RECIPE), None)
    usual = list(dict.fromkeys(step.use for step in default.steps if step.use in by_name)) if default else []
    console.print(Text(f"The recipe {DEFAULT_RECIPE}, the default, runs in this order:\n", style="bold"))
    definitions(console, [_entry(by_name[name], "", verbose) for name in usual])
    others = [name for name in by_name if name not in usual]
    if others:
        console.print(Text("\nOther recipes, targets and options run these too:\n", style="bold"))
        definitions(console, [_entry(by_name[name], _users(name, recipes), verbose) for name in others])
    console.print(Text("\ndfmpc-onnx passes NAME says why a pass is right, and when it refuses a layer"))


def _entry(kind: type[Pass[Any]], remark: str, verbose: bool) -> tuple[str, str, str]:
    page = headings(kind)
    said = [pass_summary(kind)] if pass_summary(kind) else []
    if verbose or not said:
        said += [f"{heading}: {page[heading]}" for heading in ("Before", "After") if heading in page]
    return kind.name, remark, "\n".join(said)


def _users(name: str, recipes: list[Recipe]) -> str:
    """The recipes that run a pass."""
    return ", ".join(recipe.name for recipe in recipes if any(step.use == name for step in recipe.steps))


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
