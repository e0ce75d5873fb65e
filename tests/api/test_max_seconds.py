"""A limit on the time of a run: a whole file however little there is, and what was cut short. No test looks at a real
clock: each look at the time takes a second of it."""

from __future__ import annotations

import importlib
import itertools
import pathlib
import tomllib

import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.api.made_again import as_arguments, options_again, recorded_seconds
from dfmpc_onnx.model.metadata import metadata_of
from dfmpc_onnx.pipeline.deadline import Deadline
from tests.commands import dfmpc
from tests.graphs import Net, chain


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is a second later each time that it is read."""
    for name in ("quantize", "plan"):
        module = importlib.import_module(f"dfmpc_onnx.api.{name}")
        monkeypatch.setattr(module, "Deadline", lambda seconds: Deadline(seconds, itertools.count().__next__))


def small(seconds: float | None, output: pathlib.Path | None = None, **options: object) -> dfmpc_onnx.Quantized:
    return dfmpc_onnx.quantize(chain(), output, preprocess="unit", threads=1, max_seconds=seconds, **options)


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize("recipe", ["mixed", "int8", "closed-form"])
def test_without_any_time_a_whole_file_is_written_and_checked_the_shortest_way(
    recipe: str, tmp_path: pathlib.Path
) -> None:
    made = small(0.001, tmp_path / "out.onnx", recipe=recipe)
    report = made.report
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"))
    assert report.fidelity is not None and report.fidelity.images == 1
    assert report.max_seconds == 0.001 and all(layer.bits <= 8 for layer in report.layers if not layer.refused)
    said = [warning for warning in report.warnings if warning.startswith("max-seconds 0.001: ")]
    assert len(said) == 1 and all(cut in said[0] for cut in report.cut_short)
    if recipe == "mixed":
        assert report.cut_short == (
            "statistics from 1 of 64 images",
            f"layers whose loss by rounding was assumed, not measured: {len(report.layers)}",
            "what each layer does to the outputs was not measured",
            f"weights rounded to the nearest level: {len(report.layers)}",
            "no search for activations that should stay in float",
            "the closing check on 1 of 64 inputs",
        )


@pytest.mark.usefixtures("ticking")
def test_layers_and_causes_keep_to_the_limit_and_the_page_says_what_is_missing(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.html"
    made = small(0.001, layer_errors=True, report=page)
    assert made.report.cut_short[-3:] == (
        "the closing check on 1 of 64 inputs",
        "layers compared on 1 of 16 inputs",
        "the report does not say what causes the error",
    )
    assert made.report.layer_errors is not None
    assert "left none to look for causes" in page.read_text(encoding="utf-8")


@pytest.mark.usefixtures("ticking")
def test_of_a_batch_that_the_network_fixes_no_image_is_left_out_and_none_is_said_to_be() -> None:
    net = Net((4, 3, 8, 8))
    x = net.node("GlobalAveragePool", net.block(net.block("x", 8), 8))
    flat = net.node("Reshape", x, net.weight("shape", np.array([4, 8], np.int64)))
    net.channels[flat] = 8
    made = dfmpc_onnx.quantize(net.model(net.gemm(flat, 5)), preprocess="unit", threads=1, max_seconds=0.001)
    assert not any(cut.startswith("statistics from") for cut in made.report.cut_short) and made.report.cut_short


@pytest.mark.usefixtures("ticking")
def test_the_same_answers_of_the_clock_give_the_same_file() -> None:
    first, second = small(30), small(30)
    assert first.report.cut_short == second.report.cut_short != ()
    assert first.model == second.model


@pytest.mark.usefixtures("ticking")
def test_with_time_enough_the_file_is_that_without_a_limit() -> None:
    free, limited = small(None), small(1e6)
    assert limited.report.cut_short == () and limited.model == free.model
    assert not any(warning.startswith("max-seconds") for warning in limited.report.warnings)


@pytest.mark.usefixtures("ticking")
def test_a_file_says_what_was_cut_short_and_is_made_again_within_the_same_limit(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "out.onnx"
    made = small(0.001, path)
    assert not any(name in metadata_of(small(1e6).model) for name in ("max_seconds", "cut_short"))
    stated = metadata_of(made.model)
    before_the_check = made.report.cut_short[:-1]
    assert (stated["max_seconds"], stated["cut_short"]) == ("0.001", "; ".join(before_the_check))
    options = options_again(stated, {})
    assert as_arguments(options)[-2:] == ["--max-seconds", "0.001"]
    assert dfmpc_onnx.quantize(chain(), threads=1, **options).model == made.model
    assert "0.001 s; cut short: statistics from 1 of 64 images" in " ".join(dfmpc("inspect", path).stdout.split())


def test_a_damaged_limit_is_none() -> None:
    assert [recorded_seconds({"max_seconds": text}) for text in ("soon", "-1", "nan", "2.5")] == [None] * 3 + [2.5]


@pytest.mark.usefixtures("ticking")
def test_a_size_is_met_however_little_time_there_is() -> None:
    usual = small(None, mean_bits=6)
    made = small(0.001, max_size=usual.report.bytes)
    assert made.report.bytes <= usual.report.bytes


@pytest.mark.usefixtures("ticking")
def test_a_plan_without_any_time_is_a_plan_and_says_what_is_missing(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "plan.toml"
    found = dfmpc_onnx.plan(chain(), out, mean_bits=6, preprocess="unit", threads=1, max_seconds=0.001)
    assert tomllib.loads(out.read_text()) and any("not measured" in warning for warning in found.warnings)


def test_a_plan_from_a_table_takes_no_limit(tmp_path: pathlib.Path) -> None:
    with pytest.raises(dfmpc_onnx.OptionError, match="leave out --max-seconds"):
        dfmpc_onnx.plan(table_from=tmp_path / "plan.toml", max_seconds=1)


@pytest.mark.parametrize("seconds", [0, -2, float("nan")])
def test_no_time_at_all_is_no_limit(seconds: float) -> None:
    with pytest.raises(dfmpc_onnx.OptionError, match=r"max-seconds .*: give a number of seconds above 0"):
        small(seconds)
