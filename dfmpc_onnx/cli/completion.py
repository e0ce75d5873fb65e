"""What the Tab key offers behind an option: names that the package knows."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem


def _beginning(names: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=said) for name, said in names if name.startswith(incomplete.lower())]


def complete_recipe(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The recipes that ship, and files."""
    from dfmpc_onnx import catalog

    found = _beginning(((name, recipe.summary) for name, recipe in catalog.recipes().items()), incomplete)
    return [*found, CompletionItem(incomplete, type="file")] if not found or "." in incomplete else found


def complete_pass(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from dfmpc_onnx import catalog

    return _beginning(((name, "") for name in catalog.passes()), incomplete)


def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from dfmpc_onnx.pipeline.targets import targets

    return _beginning(((target.name, target.summary) for target in targets().values()), incomplete)


def complete_preprocess(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from dfmpc_onnx.inputs.preprocess import AUTO, NAMES

    return _beginning(((name, "") for name in (AUTO, *NAMES)), incomplete)


def complete_provider(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The execution providers of the onnxruntime that is installed."""
    try:
        import onnxruntime
    except ImportError:
        return []
    names = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    return [CompletionItem(name) for name in names if name.lower().startswith(incomplete.lower())]
