"""The worked example of CONTRIBUTING.md, done as it says: a stranger's pass is written, made known, tested and used."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator

import onnx
import pytest

from dfmpc_onnx import catalog
from dfmpc_onnx.errors import PipelineError
from dfmpc_onnx.pipeline.manager import PassManager
from tests.commands import dfmpc, environment
from tests.graphs import folded, own_bias

GUIDE = pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md"
FILES = dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture
def stranger(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """A folder with the files of the example, its entry point installed and its recipe put together."""
    for name in ("absorb_bias.py", "test_absorb_bias.py"):
        (tmp_path / name).write_text(FILES[name])
    monkeypatch.syspath_prepend(tmp_path)
    declared = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]
    points = importlib.metadata.EntryPoints(
        importlib.metadata.EntryPoint(name, value, group)
        for group, entries in declared.items()
        for name, value in entries.items()
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **query: points.select(**query))
    catalog.passes.cache_clear()
    head, sign, tail = dfmpc("recipes", "closed-form").stdout.partition('use = "pair_convolutions"\n')
    (tmp_path / "full.toml").write_text(f'{head}{sign}\n[[passes]]\nuse = "absorb_bias"\n{tail}')
    (tmp_path / "mine.toml").write_text(FILES["mine.toml"])
    yield tmp_path
    catalog.passes.cache_clear()
    sys.modules.pop("absorb_bias", None)


def test_the_guide_shows_four_files() -> None:
    assert list(FILES) == ["absorb_bias.py", "pyproject.toml", "test_absorb_bias.py", "mine.toml"]


def test_its_package_can_be_built(tmp_path: pathlib.Path) -> None:
    for name in ("absorb_bias.py", "pyproject.toml"):
        (tmp_path / name).write_text(FILES[name])
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        assert "absorb_bias.py" in content.namelist()
        points = next(content.read(name).decode() for name in content.namelist() if name.endswith("entry_points.txt"))
    assert points.split() == ["[dfmpc_onnx.passes]", "absorb_bias", "=", "absorb_bias:AbsorbBias"]


def test_the_pass_is_listed_with_every_heading(stranger: pathlib.Path) -> None:
    assert "absorb_bias" in dfmpc("passes").stdout
    page = dfmpc("passes", "absorb_bias").stdout
    for heading in ("Before", "After", "Why", "Requires", "Refuses when", "Reference"):
        assert f"\n{heading}: " in page


def test_its_own_tests_pass(stranger: pathlib.Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_absorb_bias.py"]
    result = subprocess.run(command, cwd=stranger, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout


def test_its_recipe_moves_the_biases_of_a_network(stranger: pathlib.Path) -> None:
    onnx.save(own_bias(), stranger / "model.onnx")
    command = ["quantize", stranger / "model.onnx", "-o", stranger / "out.onnx", "--recipe", stranger / "mine.toml"]
    result = dfmpc(*command, "--json")
    assert result.exit_code == 0, result.stderr
    (report,) = (p for p in json.loads(result.stdout)["passes"] if p["name"] == "absorb_bias")
    assert [rewrite["site"] for rewrite in report["result"]["rewrites"]] == ["conv1", "conv2", "conv3"]
    onnx.checker.check_model(stranger / "out.onnx", full_check=True)


def test_in_full_the_recipe_is_the_same(stranger: pathlib.Path) -> None:
    longer, shorter = (catalog.find_recipe(str(stranger / name)) for name in ("full.toml", "mine.toml"))
    assert [(s.use, s.options, s.lines.keys()) for s in longer.steps] == [
        (s.use, s.options, s.lines.keys()) for s in shorter.steps
    ]
    assert (longer.summary, longer.weights, longer.activations) == (
        shorter.summary,
        shorter.weights,
        shorter.activations,
    )
    assert 'use = "absorb_bias"' in dfmpc("recipes", stranger / "mine.toml").stdout


def test_its_refusals_are_shown(stranger: pathlib.Path) -> None:
    onnx.save(folded(), stranger / "model.onnx")
    command = ["quantize", stranger / "model.onnx", "-o", stranger / "out.onnx", "--recipe", stranger / "mine.toml"]
    assert "absorb_bias: no BatchNormalization stands alone behind it" in dfmpc(*command, "-v").stdout


def test_behind_the_statistics_that_it_makes_untrue_it_is_refused(stranger: pathlib.Path) -> None:
    steps = catalog.build(catalog.recipes()["closed-form"])
    place = [step.name for step in steps].index("estimate_statistics") + 1
    late = [*steps[:place], catalog.find_pass("absorb_bias")(), *steps[place:]]
    with pytest.raises(PipelineError, match="requires FloatStatistics, which absorb_bias in front of it has used up"):
        PassManager(late).check()


@pytest.mark.parametrize("name", ["absorb_bias.py", "test_absorb_bias.py"])
def test_the_example_keeps_the_house_style(name: str) -> None:
    config = GUIDE.with_name("pyproject.toml")
    for command in (["check"], ["format", "--diff"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(config), "--stdin-filename", name, "-"]
        result = subprocess.run(ruff, input=FILES[name], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout
