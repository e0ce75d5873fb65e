"""The shape of the source: sizes of modules and functions, one meaning a name, nothing private used elsewhere."""

from __future__ import annotations

import ast
import collections
import pathlib
import re

import pytest

from tests.commands import ROOT

FILES = sorted([*(ROOT / "dfmpc_onnx").rglob("*.py"), *(ROOT / "passes" / "dfmpc_passes").glob("*.py")])
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
# Verbs that were private words of this project, and participles in place of a verb.
PRIVATE_WORDS = re.compile(r"\b(mend(ed|s)?|borne|bethink|hardly stirs?|for want of)\b", re.IGNORECASE)


def names(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=names)
def test_a_module_has_at_most_400_lines(path: pathlib.Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_a_function_has_at_most_60_lines() -> None:
    long = [
        f"{names(path)}:{node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > 60
    ]
    assert not long


def test_no_private_name_is_imported() -> None:
    found = [
        f"{names(path)}: {alias.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dfmpc_")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert not found


def _defined(tree: ast.Module) -> set[str]:
    """The public constants, types and classes at the top of a module."""
    found = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if name[:1].isupper()}


def test_a_constant_or_class_has_a_name_of_its_own() -> None:
    homes = collections.defaultdict(list)
    for path, tree in TREES.items():
        for name in _defined(tree):
            homes[name].append(names(path))
    assert not {name: places for name, places in homes.items() if len(places) > 1}


@pytest.mark.parametrize("path", FILES, ids=names)
def test_the_words_are_those_of_the_field(path: pathlib.Path) -> None:
    assert not PRIVATE_WORDS.search(path.read_text(encoding="utf-8"))
