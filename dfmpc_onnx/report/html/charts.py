"""The charts of the report. None of them holds a name from a model: layers and tensors go by their numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dfmpc_onnx.evaluation.activation_ranges import ActivationRange
from dfmpc_onnx.evaluation.weight_grids import MOST_LEVELS_DRAWN, WeightGrid
from dfmpc_onnx.report.html.drawing import AFTER, BAD, BEFORE, INK, LINE, MUTED, PAPER, Chart, as_chart, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHART_WIDTH, NARROW_WIDTH, SMALL_WIDTH = 720, 340, 300  # pixels; narrow: for phones
PIXELS_A_TICK = 30  # that a number under an axis takes
RANGES_SHOWN = 2.5  # of a tensor's range, up to which values beyond it are drawn
CLIPPED_MUCH = 1e-3  # share of values beyond a range that is marked
BROAD_LEVELS = 10  # up to which levels are drawn broad


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
    made, axes = figure(width, 330 if both else 220, (1.5, 1.0) if both else (1.0,))
    numbers = np.arange(1, len(decibels) + 1)
    values = np.array([np.nan if value is None else value for value in decibels])
    axes[0].plot(numbers, values, color=BEFORE, linewidth=1.6, marker="o", markersize=3)
    marked = [place for place in named if not np.isnan(values[place])]
    axes[0].plot(numbers[marked], values[marked], color=BAD, linestyle="", marker="o", markersize=6)
    axes[0].set_ylabel("SQNR, dB")
    axes[0].grid(axis="y")
    if both:
        shares = np.array([100 * max(share or 0.0, 0.0) for share in bars.shares])
        colours = [BAD if place in named else BEFORE for place in range(len(shares))]
        axes[1].bar(numbers, shares, color=colours, width=0.8)
        for place in named:
            axes[1].text(place + 1, shares[place], str(place + 1), color=BAD, ha="center", va="bottom", fontsize=10)
        axes[1].set_ylim(0, 1.2 * float(shares.max()) or 1.0)
        axes[1].set_ylabel(bars.what)
        axes[1].grid(axis="y")
    axes[-1].set_xlabel("number of the place, from input to output")
    _ticks(axes[-1], len(numbers), width)
    known = values[~np.isnan(values)]
    ends = f"from {known[0]:.1f} dB behind the first to {known[-1]:.1f} dB behind the last" if known.size else ""
    return as_chart(
        made,
        _prefix("noise", width),
        "Signal over noise along the network, and what each place costs or adds",
        f"{len(numbers)} places, {ends}; most: {', '.join(str(place + 1) for place in named) or 'none'}",
    )


def _prefix(name: str, width: int) -> str:
    """Of the ids of a chart, of which there may be a narrow one beside the wide one."""
    return name if width == CHART_WIDTH else f"{name}-{width}"


def _ticks(axes: Axes, count: int, width: int) -> None:
    """Whole numbers along a network."""
    most = width / PIXELS_A_TICK
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**6) if count / step <= most)
    others = range(2 * step if step == 2 else step, count + 1, step)  # 2 would stand too near to 1
    axes.set_xticks([*([1] if step > 1 else []), *others])
    axes.set_xlim(0.2, count + 0.8)


def weight_chart(grid: WeightGrid, number: int) -> Chart:
    """The float weights of a layer in steps of its grid, and what the grid makes of them. number: of no other chart."""
    made, (axes,) = figure(SMALL_WIDTH, 150)
    levels, shares = np.array(grid.levels), 100 * np.array(grid.shares)
    few = levels[-1] - levels[0] < MOST_LEVELS_DRAWN
    edges = np.array(grid.edges) if grid.edges else np.linspace(levels[0] - 0.5, levels[-1] + 0.5, 65)
    each = edges[1] - edges[0]
    if grid.before:
        axes.stairs(100 * np.array(grid.before) / each, edges, fill=True, color=BEFORE, alpha=0.4, linewidth=0)
    if few:
        axes.vlines(levels, 0, shares, color=AFTER, linewidth=2 if len(levels) > BROAD_LEVELS else 5)
    else:
        counts, _ = np.histogram(levels, edges, weights=shares)
        axes.stairs(counts / each, edges, color=AFTER, linewidth=1.4)
    axes.axvline(levels[0], color=MUTED, linewidth=0.8, linestyle=":")
    axes.axvline(levels[-1], color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_ylabel("% a step")
    axes.set_xlabel("steps of the grid")
    axes.set_ylim(0, None)
    beyond = "" if grid.beyond is None else f", {100 * grid.beyond:.2g} % of the float weights beyond it"
    return as_chart(
        made,
        f"w{number}",
        "Weights before and after",
        f"{len(levels)} levels from {levels[0]:g} to {levels[-1]:g} steps{beyond}",
    )


def range_chart(ranges: Sequence[ActivationRange], width: int = CHART_WIDTH, places: Sequence[float] = ()) -> Chart:
    """Of each tensor that is quantized what lies within its range, and what beyond, in units of the range. places: the
    number that each has in the network; without them tensors are counted."""
    made, (axes,) = figure(width, 230)
    numbers = np.array(places) if len(places) else np.arange(1, len(ranges) + 1)
    lows, highs = np.array([r.low for r in ranges]), np.array([r.high for r in ranges])
    span = np.where(highs > lows, highs - lows, 1)
    least = np.clip((np.array([r.least for r in ranges]) - lows) / span, 1 - RANGES_SHOWN, 1)
    largest = np.clip((np.array([r.largest for r in ranges]) - lows) / span, 0, RANGES_SHOWN)
    axes.axhspan(0, 1, color=LINE, alpha=0.45, linewidth=0)
    much = np.array([r.clipped > CLIPPED_MUCH for r in ranges], bool)
    axes.vlines(numbers[~much], least[~much], largest[~much], color=BEFORE, linewidth=3)
    axes.vlines(numbers[much], least[much], largest[much], color=BAD, linewidth=3)
    axes.set_ylabel("in units of the range")
    axes.set_xlabel(f"number of the {'place' if len(places) else 'tensor'}, from input to output")
    axes.set_ylim(min(-0.15, float(least.min()) - 0.05), max(1.15, float(largest.max()) + 0.05))
    _ticks(axes, math.ceil(numbers.max()), width)
    return as_chart(
        made,
        _prefix("ranges", width),
        "What activations use of their ranges",
        f"{len(ranges)} tensors; of {int(much.sum())} more than {100 * CLIPPED_MUCH:g} % of the values are clipped; "
        f"on average {100 * np.mean([r.used for r in ranges]):.0f} % of a range is used",
    )


def front_chart(points: Sequence[tuple[str, int, float]], front: Sequence[str]) -> Chart:
    """Files by size and SQNR. points: letter, bytes and dB of each; front: the letters of those that no other file
    beats in both."""
    made, (axes,) = figure(520, 300)
    large = max(size for _, size, _ in points) >= 100_000
    unit = 1e6 if large else 1e3
    edge = sorted((size / unit, value) for letter, size, value in points if letter in front)
    axes.plot(*zip(*edge, strict=True), color=BEFORE, linewidth=1.2, drawstyle="steps-post", zorder=1)
    for letter, size, value in points:
        on = letter in front
        axes.scatter(
            [size / unit], [value], s=240, color=PAPER, edgecolors=BEFORE if on else MUTED, linewidths=1.6, zorder=2
        )
        axes.text(size / unit, value, letter, ha="center", va="center", color=INK, zorder=3, parse_math=False)
    axes.margins(0.12)
    axes.grid()
    axes.set_xlabel("MB" if large else "kB")
    axes.set_ylabel("SQNR, dB")
    return as_chart(
        made,
        "front",
        "Size against signal over noise",
        f"{len(points)} files; no other is both smaller and nearer to the float network than {', '.join(front)}",
    )
