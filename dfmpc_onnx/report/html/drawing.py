"""Charts as SVG that stands within a page: its colours are those of the page, light or dark.

Each mark names its colour as a class of the page's style, and draws with `currentColor`. Text stays text, so that it is
read out, found and printed like the rest. What is alike is one path, so a chart of hundreds of places stays small.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

Colour = Literal["paper", "ink", "muted", "line", "before", "after", "bad"]  # classes and variables of the style
LEFT, RIGHT, TOP, BOTTOM, GAP_OF_PANELS = 46, 8, 8, 36, 14  # pixels around and between panels
TICK, TEXT_SIZE, LINE_HEIGHT = 4, 11, 14  # pixels
TICKS_UP = 5  # numbers at an axis that goes up, about
ROUND_STEPS = (1.0, 2.0, 5.0, 10.0)


class Chart(msgspec.Struct, frozen=True):
    """A figure in a page. prefix: of its ids. drawing: the inside of an svg element; width, height: in pixels.

    title: what it shows; description: what there is to see, for who does not see it.
    """

    prefix: str
    drawing: str
    width: int
    height: int
    title: str
    description: str


@dataclasses.dataclass(frozen=True)
class AxisSpan:
    """What an axis reaches from and to."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """How far along a value lies, 0 to 1."""
        return (value - self.low) / ((self.high - self.low) or 1.0)

    def ticks(self, most: float) -> list[float]:
        """Round numbers within, `most` of them at about."""
        width = (self.high - self.low) or 1.0
        power = 10.0 ** math.floor(math.log10(width / most))
        step = next(power * by for by in ROUND_STEPS if width / (power * by) <= most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


class Panel:
    """A pair of axes, and what is drawn between them. box: left, top, right and bottom in pixels."""

    def __init__(self, box: tuple[float, float, float, float], across: AxisSpan, up: AxisSpan) -> None:
        self._left, self._top, self._right, self._bottom = box
        self._across, self._up = across, up
        self._marks: list[str] = []

    def x(self, value: float) -> float:
        return self._left + self._across.at(value) * (self._right - self._left)

    def y(self, value: float) -> float:
        return self._bottom - self._up.at(value) * (self._bottom - self._top)

    @property
    def drawing(self) -> str:
        return "\n".join(self._marks)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: float = 1.6) -> None:
        """Straight from point to point; a point that is not a number is a gap."""
        steps, pen = [], "M"
        for x, y in points:
            if math.isnan(y):
                pen = "M"
                continue
            steps.append(f"{pen}{_short(self.x(x))} {_short(self.y(y))}")
            pen = "L"
        self._path("".join(steps), colour, f'fill="none" stroke="currentColor" stroke-width="{width:g}"')

    def dots(self, points: Iterable[tuple[float, float]], colour: Colour, radius: float = 1.5) -> None:
        """A dot at each point: a line of no length with round ends."""
        steps = [f"M{_short(self.x(x))} {_short(self.y(y))}h0" for x, y in points if not math.isnan(y)]
        look = f'fill="none" stroke="currentColor" stroke-width="{2 * radius:g}" stroke-linecap="round"'
        self._path("".join(steps), colour, look)

    def ring(self, x: float, y: float, colour: Colour, radius: float) -> None:
        """A circle that covers what is behind it."""
        self._marks.append(
            f'<circle class="{colour}" cx="{_short(self.x(x))}" cy="{_short(self.y(y))}" r="{radius:g}" '
            'style="fill:var(--paper)" stroke="currentColor" stroke-width="1.6"/>'
        )

    def bars(self, bars: Iterable[tuple[float, float]], colour: Colour, width: float) -> None:
        """Bars up from 0. width: in units of the axis."""
        bottom, half = _short(self.y(0)), width / 2
        steps = [
            f"M{_short(self.x(x - half))} {bottom}V{_short(self.y(y))}H{_short(self.x(x + half))}V{bottom}Z"
            for x, y in bars
        ]
        self._path("".join(steps), colour, 'fill="currentColor"')

    def columns(self, spans: Iterable[tuple[float, float, float]], colour: Colour, width: float) -> None:
        """Lines upright: where each stands, from where it goes up and to where. width: in pixels."""
        steps = [f"M{_short(self.x(x))} {_short(self.y(low))}V{_short(self.y(high))}" for x, low, high in spans]
        self._path("".join(steps), colour, f'fill="none" stroke="currentColor" stroke-width="{width:g}"')

    def stairs(self, edges: Sequence[float], heights: Sequence[float], colour: Colour, *, filled: bool) -> None:
        """A histogram as one outline."""
        steps = [f"M{_short(self.x(edges[0]))} {_short(self.y(0))}"]
        steps += [f"V{_short(self.y(h))}H{_short(self.x(edge))}" for h, edge in zip(heights, edges[1:], strict=True)]
        steps.append(f"V{_short(self.y(0))}")
        outline = 'fill="none" stroke="currentColor" stroke-width="1.4"'
        self._path("".join(steps), colour, 'fill="currentColor" fill-opacity="0.4"' if filled else outline)

    def band(self, low: float, high: float, colour: Colour) -> None:
        """What lies between two heights."""
        top, tall, wide = self.y(high), self.y(low) - self.y(high), self._right - self._left
        self._marks.append(
            f'<rect class="{colour}" x="{_short(self._left)}" y="{_short(top)}" width="{_short(wide)}" '
            f'height="{_short(tall)}" fill="currentColor" fill-opacity="0.45"/>'
        )

    def limits(self, values: Iterable[float], colour: Colour) -> None:
        """Dotted lines from bottom to top."""
        steps = "".join(f"M{_short(self.x(value))} {_short(self._top)}V{_short(self._bottom)}" for value in values)
        self._path(steps, colour, 'fill="none" stroke="currentColor" stroke-width="0.8" stroke-dasharray="1 2"')

    def text(self, x: float, y: float, text: str, colour: Colour, *, lift: float = 0.0, bold: bool = False) -> None:
        """Words about a point. lift: pixels above it."""
        weight = ' font-weight="700"' if bold else ""
        self._words(self.x(x), self.y(y) - lift, text, colour, f'text-anchor="middle"{weight}')

    def axis_up(self, label: str, *, grid: bool = False) -> None:
        """The axis at the left with its numbers. grid: whether each has a line across."""
        for value in self._up.ticks(TICKS_UP):
            y = self.y(value)
            self._words(self._left - TICK - 3, y + TEXT_SIZE / 3, f"{value:g}", "muted", 'text-anchor="end"')
        ticks = [_short(self.y(value)) for value in self._up.ticks(TICKS_UP)]
        end = self._right if grid else self._left
        self._path("".join(f"M{_short(self._left - TICK)} {y}H{_short(end)}" for y in ticks), "line", _HAIR)
        self._path(f"M{_short(self._left)} {_short(self._top)}V{_short(self._bottom)}", "line", _HAIR)
        middle = (self._top + self._bottom) / 2
        turned = f'text-anchor="middle" transform="rotate(-90 {TEXT_SIZE} {_short(middle)})"'
        self._words(TEXT_SIZE, middle, label, "muted", turned)

    def axis_across(self, label: str, ticks: Sequence[float], *, grid: bool = False, numbers: bool = True) -> None:
        """The axis at the bottom. numbers: whether it has numbers and a label, or ticks alone."""
        start = self._top if grid else self._bottom
        marks = "".join(f"M{_short(self.x(x))} {_short(start)}V{_short(self._bottom + TICK)}" for x in ticks)
        self._path(marks, "line", _HAIR)
        self._path(f"M{_short(self._left)} {_short(self._bottom)}H{_short(self._right)}", "line", _HAIR)
        if not numbers:
            return
        below = self._bottom + TICK + TEXT_SIZE
        for x in ticks:
            self._words(self.x(x), below, f"{x:g}", "muted", 'text-anchor="middle"')
        self._words((self._left + self._right) / 2, below + LINE_HEIGHT, label, "muted", 'text-anchor="middle"')

    def _path(self, steps: str, colour: Colour, look: str) -> None:
        if steps:
            self._marks.append(f'<path class="{colour}" d="{steps}" {look}/>')

    def _words(self, x: float, y: float, text: str, colour: Colour, look: str) -> None:
        shown = html.escape(text)
        self._marks.append(
            f'<text class="{colour}" x="{_short(x)}" y="{_short(y)}" fill="currentColor" {look}>{shown}</text>'
        )


_HAIR = 'fill="none" stroke="currentColor" stroke-width="0.7"'


def boxes(width: int, height: int, heights: Sequence[float] = (1.0,)) -> list[tuple[float, float, float, float]]:
    """Where panels stand, one above the other over one axis. heights: of each, as shares."""
    room = height - TOP - BOTTOM - GAP_OF_PANELS * (len(heights) - 1)
    found, top = [], float(TOP)
    for share in heights:
        bottom = top + room * share / sum(heights)
        found.append((float(LEFT), top, float(width - RIGHT), bottom))
        top = bottom + GAP_OF_PANELS
    return found


def _short(value: float) -> str:
    """A number of pixels, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")
