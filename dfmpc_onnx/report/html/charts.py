"""The charts of the report. None of them holds a name from a model: layers and tensors go by their numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from dfmpc_onnx.evaluation.activation_ranges import ActivationRange
from dfmpc_onnx.evaluation.weight_grids import MOST_LEVELS_DRAWN, WeightGrid
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.report.html.drawing import AxisSpan, Chart, Panel, boxes

CHART_WIDTH, NARROW_WIDTH, SMALL_WIDTH = 720, 340, 300  # pixels; narrow: for phones
PIXELS_A_TICK = 30  # that a number under an axis takes
TICKS_OF_SMALL = 6
RANGES_SHOWN = 2.5  # of a tensor's range, up to which values beyond it are drawn
CLIPPED_MUCH = 1e-3  # share of values beyond a range that is marked
BROAD_LEVELS = 10  # up to which levels are drawn broad
ROOM_OF_AXES = 0.06  # of what is drawn, that an axis reaches beyond it
ROOM_OF_POINTS = 0.12  # likewise, where points have letters
PLACE_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**6)  # between the numbers of places


@dataclasses.dataclass(frozen=True)
class NoiseBars:
    """What stands below the curve of SQNR. shares: of each place, None where it is not known; what: the axis' label."""

    shares: tuple[float | None, ...]
    what: str


def noise_chart(
    decibels: Sequence[float | None], bars: NoiseBars, named: Sequence[int], width: int = CHART_WIDTH
) -> Chart:
    """SQNR at each place, in the order of the network, and below a bar each. named: the indices of those to mark."""
    both = any(share is not None for share in bars.shares)
    height = 330 if both else 220
    places = _along(len(decibels))
    values = [math.nan if value is None else value for value in decibels]
    known = [value for value in values if not math.isnan(value)]
    above, *below = boxes(width, height, (1.5, 1.0) if both else (1.0,))
    upper = Panel(above, places, _around(known, ROOM_OF_AXES))
    points = list(enumerate(values, 1))
    upper.axis_up("SQNR, dB", grid=True)
    upper.axis_across(ACROSS_PLACES, _numbers_along(len(values), width), numbers=not both)
    upper.line(points, "before")
    upper.dots(points, "before")
    upper.dots([points[place] for place in named], "bad", 3)
    ends = f"from {known[0]:.1f} dB behind the first to {known[-1]:.1f} dB behind the last" if known else ""
    return Chart(
        _prefix("noise", width),
        "\n".join([upper.drawing, *(_bars_below(box, places, bars, named, width) for box in below)]),
        width,
        height,
        "Signal over noise along the network, and what each place costs or adds",
        f"{len(values)} places, {ends}; most: {', '.join(str(place + 1) for place in named) or 'none'}",
    )


ACROSS_PLACES = "number of the place, from input to output"


def _bars_below(
    box: tuple[float, float, float, float], places: AxisSpan, bars: NoiseBars, named: Sequence[int], width: int
) -> str:
    """A bar for each place, those that are named in another colour and with their numbers."""
    shares = [100 * max(share or 0.0, 0.0) for share in bars.shares]
    panel = Panel(box, places, AxisSpan(0.0, 1.2 * max(shares) or 1.0))
    panel.axis_up(bars.what, grid=True)
    panel.axis_across(ACROSS_PLACES, _numbers_along(len(shares), width))
    numbered = list(enumerate(shares))
    panel.bars([(place + 1, share) for place, share in numbered if place not in named and share > 0], "before", 0.8)
    panel.bars([(place + 1, shares[place]) for place in named], "bad", 0.8)
    for place in named:
        panel.text(place + 1, shares[place], str(place + 1), "bad", lift=2)
    return panel.drawing


def _prefix(name: str, width: int) -> str:
    """Of the ids of a chart, of which there may be a narrow one beside the wide one."""
    return name if width == CHART_WIDTH else f"{name}-{width}"


def _along(count: int) -> AxisSpan:
    """An axis of so many places."""
    return AxisSpan(0.2, count + 0.8)


def _numbers_along(count: int, width: int) -> list[float]:
    """Whole numbers along a network."""
    step = next(step for step in PLACE_STEPS if count / step <= width / PIXELS_A_TICK)
    others = range(2 * step if step == 2 else step, count + 1, step)  # 2 would stand too near to 1
    return [float(number) for number in ([1] if step > 1 else []) + list(others)]


def _around(values: Iterable[float], room: float) -> AxisSpan:
    """An axis that holds these values, and a share more at either end."""
    known = list(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    more = room * (high - low) or max(abs(high) * room, room)
    return AxisSpan(low - more, high + more)


def weight_chart(grid: WeightGrid, number: int) -> Chart:
    """The float weights of a layer in steps of its grid, and what the grid makes of them. number: of no other chart."""
    levels, shares = np.array(grid.levels), 100 * np.array(grid.shares)
    few = levels[-1] - levels[0] < MOST_LEVELS_DRAWN
    edges = np.array(grid.edges) if grid.edges else np.linspace(levels[0] - 0.5, levels[-1] + 0.5, 65)
    each = float(edges[1] - edges[0])
    before = 100 * np.array(grid.before) / each
    after = shares if few else np.histogram(levels, edges, weights=shares)[0] / each
    height = 150
    (box,) = boxes(SMALL_WIDTH, height)
    across = AxisSpan(float(edges[0]), float(edges[-1]))
    panel = Panel(box, across, AxisSpan(0.0, (1 + ROOM_OF_AXES) * max([*before, *after], default=1.0) or 1.0))
    panel.axis_up("% a step")
    panel.axis_across("steps of the grid", across.ticks(TICKS_OF_SMALL))
    if len(before):
        panel.stairs(edges.tolist(), before.tolist(), "before", filled=True)
    if few:
        spans = [(level, 0.0, share) for level, share in zip(levels.tolist(), shares.tolist(), strict=True)]
        panel.columns(spans, "after", 2 if len(levels) > BROAD_LEVELS else 5)
    else:
        panel.stairs(edges.tolist(), after.tolist(), "after", filled=False)
    panel.limits((float(levels[0]), float(levels[-1])), "muted")
    beyond = "" if grid.beyond is None else f", {100 * grid.beyond:.2g} % of the float weights beyond it"
    return Chart(
        f"w{number}",
        panel.drawing,
        SMALL_WIDTH,
        height,
        "Weights before and after",
        f"{len(levels)} levels from {levels[0]:g} to {levels[-1]:g} steps{beyond}",
    )


def range_chart(ranges: Sequence[ActivationRange], width: int = CHART_WIDTH, places: Sequence[float] = ()) -> Chart:
    """Of each tensor that is quantized what lies within its range, and what beyond, in units of the range. places: the
    number that each has in the network; without them tensors are counted."""
    numbers = np.array(places) if len(places) else np.arange(1, len(ranges) + 1)
    least, largest = _in_units(ranges)
    much = [r.clipped > CLIPPED_MUCH for r in ranges]
    height = 230
    (box,) = boxes(width, height)
    up = AxisSpan(min(-0.15, float(least.min()) - 0.05), max(1.15, float(largest.max()) + 0.05))
    count = math.ceil(numbers.max())
    panel = Panel(box, _along(count), up)
    panel.band(0, 1, "line")
    panel.axis_up("in units of the range")
    what = "place" if len(places) else "tensor"
    panel.axis_across(f"number of the {what}, from input to output", _numbers_along(count, width))
    spans = list(zip(numbers.tolist(), least.tolist(), largest.tolist(), strict=True))
    panel.columns([span for span, clipped in zip(spans, much, strict=True) if not clipped], "before", 3)
    panel.columns([span for span, clipped in zip(spans, much, strict=True) if clipped], "bad", 3)
    return Chart(
        _prefix("ranges", width),
        panel.drawing,
        width,
        height,
        "What activations use of their ranges",
        f"{len(ranges)} tensors; of {sum(much)} more than {100 * CLIPPED_MUCH:g} % of the values are clipped; "
        f"on average {100 * np.mean([r.used for r in ranges]):.0f} % of a range is used",
    )


def _in_units(ranges: Sequence[ActivationRange]) -> tuple[Float, Float]:
    """The least and the largest value of each tensor in units of its range, as far as they are drawn."""
    lows, highs = np.array([r.low for r in ranges]), np.array([r.high for r in ranges])
    span = np.where(highs > lows, highs - lows, 1)
    least = np.clip((np.array([r.least for r in ranges]) - lows) / span, 1 - RANGES_SHOWN, 1)
    largest = np.clip((np.array([r.largest for r in ranges]) - lows) / span, 0, RANGES_SHOWN)
    return least, largest


def front_chart(points: Sequence[tuple[str, int, float]], front: Sequence[str]) -> Chart:
    """Files by size and SQNR. points: letter, bytes and dB of each; front: the letters of those that no other file
    beats in both."""
    width, height = 520, 300
    large = max(size for _, size, _ in points) >= 100_000
    unit = 1e6 if large else 1e3
    placed = [(letter, size / unit, value) for letter, size, value in points]
    across = _around([x for _, x, _ in placed], ROOM_OF_POINTS)
    (box,) = boxes(width, height)
    panel = Panel(box, across, _around([y for *_, y in placed], ROOM_OF_POINTS))
    panel.axis_up("SQNR, dB", grid=True)
    panel.axis_across("MB" if large else "kB", across.ticks(TICKS_OF_SMALL), grid=True)
    edge = sorted((x, y) for letter, x, y in placed if letter in front)
    steps = [edge[0]]
    for (_, before), (x, y) in pairwise(edge):
        steps += [(x, before), (x, y)]
    panel.line(steps, "before", 1.2)
    for letter, x, y in placed:
        panel.ring(x, y, "before" if letter in front else "muted", 9)
        panel.text(x, y, letter, "ink", lift=-4)
    return Chart(
        "front",
        panel.drawing,
        width,
        height,
        "Size against signal over noise",
        f"{len(points)} files; no other is both smaller and nearer to the float network than {', '.join(front)}",
    )
