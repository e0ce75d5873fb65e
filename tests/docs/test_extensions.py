"""What the pages are made of: recipes and passes from the catalogue, parameters from docstrings."""

from __future__ import annotations

import pathlib
import sys

import pytest

from dfmpc_onnx import catalog
from tests.commands import ROOT


@pytest.fixture(autouse=True)
def extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_extensions"))
    yield
    for name in ("catalogue", "parameters"):
        sys.modules.pop(name, None)


def test_every_recipe_is_shown_as_it_is_on_disk() -> None:
    from catalogue import recipe_lines

    said = "\n".join(recipe_lines())
    for name in catalog.recipes():
        text = pathlib.Path(ROOT / "passes" / "dfmpc_passes" / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        assert f"## {name}\n" in said
        assert text.strip() in said


def test_every_pass_has_its_headings_and_options() -> None:
    from catalogue import pass_lines

    sections = "\n".join(pass_lines()).split("\n## ")
    assert len(sections) == len(catalog.passes())
    for name, section in zip(catalog.passes(), sections, strict=True):
        assert section.removeprefix("## ").startswith(f"{name}\n")
        assert all(heading in section for heading in ("Before:", "After:", "**Why:**", "**Refuses when:**"))
    assert "| `lambda1` | `0.1` |" in "\n".join(sections)


def test_every_target_says_where_it_was_run_and_the_source_of_every_rule() -> None:
    from catalogue import target_lines

    from dfmpc_onnx.pipeline.target_rules import RULES
    from dfmpc_onnx.pipeline.targets import TARGETS

    sections = "\n".join(target_lines()).split("\n## ")
    assert [section.removeprefix("## ").partition("\n")[0] for section in sections] == list(TARGETS)
    for target, section in zip(TARGETS.values(), sections, strict=True):
        assert "**Run on:**" in section and section.count("\n| ") == len(RULES) + 1
        assert all(source.title.partition("_")[0] in section for source in target.sources)
        assert ("**Never run:**" in section) == bool(target.not_run)


def test_signs_of_equations_are_no_markup_and_code_stays_code() -> None:
    from catalogue import escaped

    assert escaped("|c A^| * `a_b`") == r"\|c A\^\| \* `a_b`"


def test_sentences_that_begin_with_parameters_become_a_list() -> None:
    from parameters import as_list

    said = "images: an .npz: x. seed, size: of it (size: 2). Raises UserError."
    assert list(as_list(said, ["images", "seed", "size"])) == [
        "* **images**: an .npz: x.",
        "* **seed, size**: of it (size: 2).",
        "Raises UserError.",
    ]
    assert list(as_list("Of images: nothing.", ["images"])) == ["Of images: nothing."]
