"""The command `plan`, and budgets of `quantize`: streams, exit status, what fits into 80 columns."""

from __future__ import annotations

import io
import json
import pathlib
import re

import pytest
from rich.console import Console

from dfmpc_onnx.pipeline.plan_file import FrontEntry
from dfmpc_onnx.report.plan_text import front_table
from tests import graphs
from tests.commands import assert_refused, dfmpc


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    net = graphs.Net((1, 3, 16, 16))
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    path.write_bytes(net.model(net.tail(net.block(net.block("x", 64), 64), 100)).SerializeToString())
    return path


def test_a_plan_is_printed_written_and_taken_by_quantize(model: pathlib.Path) -> None:
    plan, out = model.with_name("plan.toml"), model.with_name("out.onnx")
    result = dfmpc("plan", model, "-o", plan, "--max-size", "30KB", "--pareto", "4", COLUMNS="80")
    assert (result.exit_code, result.stderr) == (0, "")
    assert max(map(len, result.stdout.splitlines())) <= 80
    for label in ("SQNR (dB)", "max-size 30000", "predicted size", "mean bits per weight", "written"):
        assert label in result.stdout
    assert dfmpc("quantize", model, "-o", out, "--recipe", plan).exit_code == 0
    assert out.stat().st_size <= 30_000


def test_json_is_the_plan_for_other_tools(model: pathlib.Path) -> None:
    result = dfmpc("plan", model, "--mean-bits", "4", "--json")
    plan = json.loads(result.stdout)
    assert plan["mean_bits"] <= 4 and plan["asked"] == "mean-bits 4"
    assert {"layer", "bits", "why", "damage"} == set(plan["layers"][0])
    assert len(plan["table"][0]["damage"]) == len(plan["widths"])


def test_another_budget_needs_no_model(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    plan = tmp_path / "plan.toml"
    dfmpc("plan", model, "-o", plan)
    result = dfmpc("plan", "--from", plan, "--max-size", "35KB", "--json")
    assert json.loads(result.stdout)["bytes"] <= 35_000


def test_quantize_keeps_to_a_size(model: pathlib.Path) -> None:
    out = model.with_name("sized.onnx")
    assert dfmpc("quantize", model, "-o", out, "--max-size", "28KB").exit_code == 0
    assert out.stat().st_size <= 28_000


def test_quantize_refuses_an_sqnr_that_no_plan_reaches_and_names_the_best(model: pathlib.Path) -> None:
    out = model.with_name("noisy.onnx")
    result = dfmpc("quantize", model, "-o", out, "--min-sqnr", "150")
    assert result.exit_code == 2 and not out.exists()
    found = re.match(
        r"error: min-sqnr 150: ([0-9.]+) dB are the best that can be reached\ntip: give at most ", result.stderr
    )
    assert found, result.stderr
    assert dfmpc("quantize", model, "-o", out, "--min-sqnr", found[1]).exit_code == 0
    assert out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-agreement", "99"], "error: min-agreement: only images of yours can show it; give --images"),
        (["--max-size", "1KB"], "error: max-size 1KB: the smallest possible file takes about "),
        (["--max-size", "9" * 400], "error: max-size '9"),
        (["--max-size", "9" * 400 + "%"], "error: max-size '9"),
        (["--max-size", "lots"], "error: max-size 'lots': not understood; give bytes such as 2MB or 512KiB, or 25%"),
    ],
)
def test_a_mistake_is_one_line(model: pathlib.Path, arguments: list[str], message: str) -> None:
    result = dfmpc("plan", model, *arguments)
    assert_refused(result, message)


def test_a_plan_of_nothing_asks_for_a_model() -> None:
    result = dfmpc("plan")
    assert_refused(result, "error: plan: give a model, or a plan file with --from")


def test_a_greedy_search_says_how_far_it_is_where_there_is_no_terminal(model: pathlib.Path) -> None:
    result = dfmpc("plan", model, "--search", "greedy", "--max-size", "40KB")
    assert result.exit_code == 0
    assert re.match(r"greedy step 1: [0-9]+ bytes of [0-9]+, about [0-9]+ s left\n", result.stderr)
    for quiet in ("-q", "--json"):
        again = dfmpc("plan", model, "--search", "greedy", "--max-size", "40KB", quiet)
        assert (again.exit_code, again.stderr) == (0, "")


@pytest.mark.parametrize("stated", [("--recipe", "per-channel"), ("--recipe", "int8"), ("--weights", "5")])
def test_bits_that_are_stated_are_held_against_the_threshold(model: pathlib.Path, stated: tuple[str, str]) -> None:
    """The file is there to look at, and the exit status says that it is not what was asked for."""
    out = model.with_name("held.onnx")
    result = dfmpc("quantize", model, "-o", out, *stated, "--min-sqnr", "150")
    assert result.exit_code == 1 and out.exists()
    assert re.search(r"^failed: SQNR [0-9.]+ dB is below --min-sqnr 150$", result.stderr, re.M)
    held = out.read_bytes()
    assert dfmpc("quantize", model, "-o", out, *stated, "--min-sqnr", "0.5").exit_code == 0
    assert out.read_bytes() == held


def test_a_size_beside_bits_that_are_stated_is_a_mistake(model: pathlib.Path) -> None:
    result = dfmpc("quantize", model, "-o", model.with_name("out.onnx"), "--recipe", "int8", "--max-size", "20%")
    assert_refused(result, "error: max-size 20%: recipe int8 states the bits already (8)")


def test_the_front_is_in_one_unit_and_says_how_to_take_a_plan_of_it(model: pathlib.Path) -> None:
    result = dfmpc("plan", model, "--pareto", "4", "--json")
    sizes = [entry["bytes"] for entry in json.loads(result.stdout)["front"]]
    told = dfmpc("plan", model, "--pareto", "4").stdout
    asked = re.search(r"take one: dfmpc-onnx quantize MODEL -o OUT --max-size (\S+)", told)
    assert asked, told
    out = model.with_name("taken.onnx")
    assert dfmpc("quantize", model, "-o", out, "--max-size", asked[1]).exit_code == 0
    assert out.stat().st_size <= 1.01 * max(sizes)


def test_sizes_side_by_side_have_one_unit() -> None:
    console = Console(width=80, file=io.StringIO())
    front_table([FrontEntry(95_500, 4.0, 30.0), FrontEntry(119_000, 5.0, 36.0)], console)
    assert [line.split()[:2] for line in console.file.getvalue().splitlines()[1:]] == [["0.096", "MB"], ["0.119", "MB"]]
