"""Charts as they stand in a page."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree

import pytest

from dfmpc_onnx.evaluation.activation_ranges import ActivationRange
from dfmpc_onnx.evaluation.weight_grids import WeightGrid
from dfmpc_onnx.report.html.charts import (
    NARROW_WIDTH,
    NoiseBars,
    front_chart,
    noise_chart,
    range_chart,
    weight_chart,
)
from dfmpc_onnx.report.html.drawing import AxisSpan, Chart, Panel


def drawn() -> Chart:
    return noise_chart([30.0, None, 12.5], NoiseBars((0.2, None, 0.8), "made here, %"), [2])


def elements(chart: Chart) -> list[xml.etree.ElementTree.Element]:
    return list(xml.etree.ElementTree.fromstring(f"<svg>{chart.drawing}</svg>"))


def test_text_stays_text_and_colours_are_classes_of_the_page() -> None:
    found = elements(drawn())
    assert "SQNR, dB" in [element.text for element in found if element.tag == "text"]
    assert {element.get("class") for element in found} == {"line", "muted", "before", "bad"}
    assert all("currentColor" in (element.get("fill"), element.get("stroke")) for element in found)


def test_the_description_says_what_there_is_to_see() -> None:
    assert drawn().description == "3 places, from 30.0 dB behind the first to 12.5 dB behind the last; most: 3"


@pytest.mark.parametrize("count", [1, 2, 300])
def test_networks_of_any_length_are_drawn(count: int) -> None:
    ranges = [ActivationRange(f"t{i}", -1, 1, -9, 0.1, 0.5, 0) for i in range(count)]
    for chart in (noise_chart([None] * count, NoiseBars((None,) * count, ""), []), range_chart(ranges)):
        assert len(chart.drawing) < 30_000 and elements(chart)


def test_a_range_of_no_width_is_drawn() -> None:
    assert range_chart([ActivationRange("t", 0, 0, 0, 0, 0, 0)]).drawing


def test_one_file_is_a_front() -> None:
    assert "A</text>" in front_chart([("A", 1000, 20.0)], ["A"]).drawing


def test_a_marked_bar_has_the_number_of_its_place() -> None:
    chart = noise_chart([20.0] * 40, NoiseBars((0.01,) * 40, "made here, %"), [36])
    assert [element.text for element in elements(chart) if element.get("class") == "bad" and element.text] == ["37"]


def test_a_chart_has_a_narrow_one_beside_it_with_other_ids() -> None:
    bars = NoiseBars((0.2, 0.8), "made here, %")
    wide, narrow = noise_chart([9.0, 8.0], bars, [1]), noise_chart([9.0, 8.0], bars, [1], NARROW_WIDTH)
    assert narrow.width == NARROW_WIDTH < wide.width
    assert narrow.prefix != wide.prefix


@pytest.mark.parametrize("levels", [(0.0,), (-1.0, 0.0, 1.0), tuple(float(level) for level in range(-100, 101))])
def test_grids_of_any_number_of_levels_are_drawn_within_their_frame(levels: tuple[float, ...]) -> None:
    chart = weight_chart(WeightGrid("conv", 8, levels, (1 / len(levels),) * len(levels)), 0)
    assert {element.get("class") for element in elements(chart)} >= {"after", "line"}
    heights = [float(height) for height in re.findall(r"V(-?[\d.]+)", chart.drawing)]
    assert all(0 <= height <= chart.height for height in heights)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-3, 47, [0, 10, 20, 30, 40]), (0, 0.012, [0, 0.005, 0.01])],
)
def test_numbers_at_an_axis_are_round_and_few(low: float, high: float, ticks: list[float]) -> None:
    assert AxisSpan(low, high).ticks(5) == pytest.approx(ticks)


def test_a_point_that_is_no_number_is_a_gap() -> None:
    panel = Panel((0, 0, 10, 10), AxisSpan(0, 10), AxisSpan(0, 10))
    panel.line([(0, 0), (1, 1), (2, math.nan), (3, 3), (4, 4)], "before")
    assert panel.drawing.count("M") == 2 and panel.drawing.count("L") == 2
