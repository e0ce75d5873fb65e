"""The pages say what is measured, and have a place for everything that the program has."""

from __future__ import annotations

import pathlib
import re
import tomllib

import pytest
import yaml

from dfmpc_onnx.cli import main
from dfmpc_onnx.pipeline.targets import TARGETS
from tests.commands import ROOT
from tools.bench import peers, planning
from tools.experiments import agreement, measure, plans, sensitivity
from tools.figures import TOOLS, rows, sizes_and_drops
from tools.zoo import __main__ as zoo

DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLES = sorted((DOCS / "tables").glob("*.md"))
FIGURES = r" \| ([\d.]+) %, ([\d.]+) MB"
MEASURED = re.compile(r"(?<![\w`,])[\d.]+ (?:dB|points|MB|GB|ms)\b|\b\d+ of \d{2,}\b")
LIMITS_OF_THE_VERDICT = "## The levels"
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def test_the_readme_has_at_most_200_lines() -> None:
    assert len(README.splitlines()) <= 200


def test_the_networks_of_the_readme_are_measured_rows() -> None:
    measured = {(row["network"], row["setting"]): row for row in rows("measured")}
    found = re.findall(rf"^\| (.+?){FIGURES * 3} \|$", README, re.MULTILINE)
    assert len(found) == 6
    for network, *figures in found:
        mixed, int8 = measured[network, "mixed"], measured[network, "int8"]
        said = [mixed["FP32 %"], mixed["FP32 MB"], mixed["top-1 %"], mixed["MB"], int8["top-1 %"], int8["MB"]]
        assert figures == said, network


def test_the_picture_has_every_network_of_the_comparison_by_every_tool() -> None:
    drawn = sizes_and_drops()
    assert set(drawn) == set(TOOLS)
    networks = {row["network"] for row in rows("peers")}
    assert all({network for *_, network in points} == networks for points in drawn.values())


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_a_table_is_included_by_a_page_that_names_the_command(table: pathlib.Path) -> None:
    pages = [page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md") if page.parent.name != "tables"]
    including = [page for page in pages if f"tables/{table.name}" in page]
    assert len(including) == 1
    assert "python -m tools." in including[0]


@pytest.mark.parametrize(
    ("table", "header"),
    [
        ("agreement", agreement.HEADER),
        ("greedy", plans.HEADER),
        ("measured", measure.HEADER),
        ("peers", peers.HEADER),
        ("planning", planning.HEADER),
        ("plans", plans.HEADER),
        ("sensitivity", sensitivity.HEADER),
        ("zoo", zoo.HEADER),
    ],
)
def test_a_table_has_the_columns_that_its_tool_writes(table: str, header: tuple[str, ...]) -> None:
    assert set(rows(table)[0]) <= set(header)


@pytest.mark.parametrize("command", sorted(main.commands))
def test_a_command_has_a_page_with_examples_options_and_pitfalls(command: str) -> None:
    page = (DOCS / "commands" / f"{command}.md").read_text(encoding="utf-8")
    for part in ("## Examples", f"command_line:{command}", "## Common pitfalls"):
        assert part in page
    assert f"[{command}]({command}.md)" in (DOCS / "commands" / "index.md").read_text(encoding="utf-8")


def test_every_target_has_its_row() -> None:
    page = (DOCS / "how-to" / "targets.md").read_text(encoding="utf-8")
    assert all(f"| `{target}`" in page for target in TARGETS)
    assert "```{targets}" in (DOCS / "targets.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")], ids=str)
def test_every_link_to_a_file_leads_somewhere(document: pathlib.Path) -> None:
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (document.parent / target).exists()]


def test_the_version_is_the_same_wherever_it_stands() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, re.MULTILINE).group(1) == version


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_no_line_of_a_page_is_lost_as_a_comment(page: pathlib.Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.lstrip().startswith("%")]


def sections(page: str) -> list[str]:
    """The sections of a page in Markdown: each heading with what stands under it, code blocks included."""
    return re.split(r"^(?=#+ )", page, flags=re.MULTILINE)


@pytest.mark.parametrize("document", [ROOT / "README.md", *DOCS.rglob("*.md")], ids=str)
def test_a_section_with_measured_figures_names_a_command(document: pathlib.Path) -> None:
    """Decibels, points, sizes, times and counts are measured: a reader must be able to measure them again."""
    if document.parent.name in ("tables", "commands") or document.name in ("changelog.md", "architecture.md"):
        return
    text = document.read_text(encoding="utf-8")
    for section in sections(text):
        prose = re.sub(r"```.*?```", "", section, flags=re.DOTALL)
        if MEASURED.search(prose) and not section.startswith(LIMITS_OF_THE_VERDICT):
            page_has_one = text.startswith("# ") and "/results/" in document.as_posix() and "python -m tools." in text
            assert page_has_one or re.search(r"python -m tools\.|dfmpc-onnx ", section), section
