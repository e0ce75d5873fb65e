"""Codes of refusals: each has one meaning in one table, and none is used that is not there."""

import ast
import pathlib
import re

import pytest

import dfmpc_onnx
import dfmpc_passes
from dfmpc_onnx.pipeline.refusals import NOT_LOW, REFUSAL_CODES, Reason, Refusal

ROOTS = [pathlib.Path(package.__file__).parent for package in (dfmpc_onnx, dfmpc_passes)]
FILES = [path for root in ROOTS for path in sorted(root.rglob("*.py")) if path.name != "refusals.py"]
PLACES = {"Reason": 0, "Refusal": 2}  # where the code stands among the arguments


def calls():
    """Every Reason and Refusal that is made, with its file."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PLACES:
                yield path.name, node


def test_every_refusal_has_a_code():
    bare = [f"{name}:{node.lineno}" for name, node in calls() if len(node.args) <= PLACES[node.func.id]]
    assert bare == []


def test_every_code_in_the_source_is_in_the_table_and_every_code_of_the_table_in_the_source():
    written = {node.args[PLACES[node.func.id]] for _, node in calls()}
    literal = {arg.value for arg in written if isinstance(arg, ast.Constant)}
    assert literal <= set(REFUSAL_CODES)
    strings = {
        node.value
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(REFUSAL_CODES) - strings == set()


def test_codes_are_short_and_no_two_mean_the_same():
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code) and len(code) < 30 for code in REFUSAL_CODES)
    assert len(set(REFUSAL_CODES.values())) == len(REFUSAL_CODES)
    assert set(REFUSAL_CODES) > NOT_LOW


def test_the_readme_of_the_passes_lists_every_code_with_its_meaning():
    page = (pathlib.Path(__file__).parents[2] / "passes" / "README.md").read_text()
    assert dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", page, re.MULTILINE)) == REFUSAL_CODES


def test_a_reason_reads_as_its_sentence():
    reason = Reason("first-layer", "it is the first")
    assert f"not few bits: {reason}" == "not few bits: it is the first"
    assert Refusal.of("conv1", reason) == Refusal("conv1", "it is the first", "first-layer")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_pass_is_named_outside_recipes_and_the_catalogue(path):
    """Neither imported nor as a string: what needs a pass asks for the facts that it provides."""
    if path.parent.name == "dfmpc_passes" and path.name == "__init__.py":
        return
    names = {kind.name for kind in dfmpc_passes.PASSES} | set(dfmpc_passes.FORMER_NAMES)
    tree = ast.parse(path.read_text())
    own = {
        id(node.value)
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef)
        for node in kind.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "name"
    }
    named = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in own
        if node.value.rstrip(": ") in names
    ]
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module is not None]
    assert named == []
    assert [module for module in imported if module.startswith("dfmpc_passes.")] == []
