"""Figures of matplotlib as they stand in a page."""

from __future__ import annotations

import concurrent.futures

import matplotlib
import pytest

from dfmpc_onnx.evaluation.activation_ranges import ActivationRange
from dfmpc_onnx.report.html.charts import NARROW_WIDTH, NoiseBars, front_chart, noise_chart, range_chart
from dfmpc_onnx.report.html.drawing import Chart, own_parameters


def drawn() -> Chart:
    with own_parameters():
        return noise_chart([30.0, None, 12.5], NoiseBars((0.2, None, 0.8), "made here, %"), [2])


def test_what_the_user_has_set_changes_nothing_and_stays() -> None:
    plain = drawn()
    with matplotlib.rc_context({"font.size": 40, "axes.facecolor": "red"}):
        assert drawn() == plain
        assert matplotlib.rcParams["font.size"] == 40


def test_the_same_figure_has_the_same_bytes_in_every_thread() -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: drawn().drawing, range(8)))) == 1


def test_text_stays_text_and_colours_are_variables_of_the_page() -> None:
    chart = drawn()
    assert "SQNR, dB</text>" in chart.drawing
    assert "var(--before)" in chart.drawing and "var(--bad)" in chart.drawing
    assert "<style" not in chart.drawing and "<metadata" not in chart.drawing and "xmlns" not in chart.drawing


def test_the_description_says_what_there_is_to_see() -> None:
    assert drawn().description == "3 places, from 30.0 dB behind the first to 12.5 dB behind the last; most: 3"


@pytest.mark.parametrize("count", [1, 2, 300])
def test_networks_of_any_length_are_drawn(count: int) -> None:
    ranges = [ActivationRange(f"t{i}", -1, 1, -9, 0.1, 0.5, 0) for i in range(count)]
    with own_parameters():
        for chart in (noise_chart([None] * count, NoiseBars((None,) * count, ""), []), range_chart(ranges)):
            assert len(chart.drawing) < 60_000


def test_a_range_of_no_width_is_drawn() -> None:
    with own_parameters():
        assert range_chart([ActivationRange("t", 0, 0, 0, 0, 0, 0)]).drawing


def test_one_file_is_a_front() -> None:
    with own_parameters():
        assert "A</text>" in front_chart([("A", 1000, 20.0)], ["A"]).drawing


def test_a_marked_bar_has_the_number_of_its_place() -> None:
    with own_parameters():
        chart = noise_chart([20.0] * 40, NoiseBars((0.01,) * 40, "made here, %"), [36])
    assert ">37</text>" in chart.drawing and ">36</text>" in chart.drawing  # the latter is a tick


def test_a_chart_has_a_narrow_one_beside_it_with_other_ids() -> None:
    bars = NoiseBars((0.2, 0.8), "made here, %")
    with own_parameters():
        wide, narrow = noise_chart([9.0, 8.0], bars, [1]), noise_chart([9.0, 8.0], bars, [1], NARROW_WIDTH)
    assert narrow.width == NARROW_WIDTH < wide.width
    assert narrow.prefix != wide.prefix
