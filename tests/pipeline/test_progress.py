"""How far a run has come: never back, never beyond the total, and whole at its end."""

from __future__ import annotations

import pytest

import dfmpc_onnx
from dfmpc_onnx.api.progress_bars import short
from dfmpc_onnx.pipeline.progress import Progress
from tests.graphs import chain


def test_layers_are_steps_within_a_pass_and_those_that_are_left_out_count_as_done() -> None:
    seen = []
    progress = Progress(lambda *step: seen.append(step))
    progress.expect(2 + 3)
    progress.begin("rebuild", layers=3)
    progress.layer("conv1")
    progress.layer("conv2")
    progress.begin("pack")
    progress.end()
    assert seen == [
        (0, 5, "rebuild"),
        (1, 5, "rebuild, layer 1 of 3: conv1"),
        (2, 5, "rebuild, layer 2 of 3: conv2"),
        (4, 5, "pack"),
        (5, 5, ""),
    ]


def test_more_than_was_expected_moves_the_total() -> None:
    seen = []
    progress = Progress(lambda *step: seen.append(step))
    progress.expect(1)
    progress.begin("one", layers=1)
    for name in "abc":
        progress.layer(name)
    progress.note("at it")
    assert all(done <= total for done, total, _ in seen)
    assert seen[-1][2] == "at it" and [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


@pytest.mark.parametrize("options", [{}, {"max_size": "65%"}, {"recipe": "closed-form"}])
def test_a_run_reports_done_total_and_name(options: dict[str, str]) -> None:
    seen = []
    dfmpc_onnx.quantize(chain(), preprocess="unit", progress=lambda *step: seen.append(step), **options)
    done = [step[0] for step in seen]
    assert done == sorted(done) and done[0] == 0
    assert all(step[0] <= step[1] for step in seen) and seen[-1][0] == seen[-1][1]
    assert seen[0][2] == "load" and any("layer 2 of " in step[2] for step in seen)


def test_bars_of_rich_and_tqdm_take_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    with dfmpc_onnx.rich_progress() as progress:
        dfmpc_onnx.quantize(chain(), recipe="paper", preprocess="unit", check=False, progress=progress)
    pytest.importorskip("tqdm")
    with dfmpc_onnx.tqdm_progress(disable=None) as progress:
        dfmpc_onnx.quantize(chain(), recipe="paper", preprocess="unit", check=False, progress=progress)
    assert "Traceback" not in capsys.readouterr().err


def test_a_line_keeps_the_pass_and_the_end_of_a_layers_name() -> None:
    """Layers of one network begin alike."""
    step = "reconstruct_layers, layer 1 of 22"
    assert short(f"{step}: conv1") == f"{step}: conv1"
    assert short(f"{step}: /features/features.11/conv2/Conv", 60) == f"{step}: ../features.11/conv2/Conv"
    assert short(f"{step}: /features/features.11/conv2/Conv", 20) == f"{step}: ..conv2/Conv"
    assert short("a\nb" * 20, 12) == "a?ba?ba?ba.."
