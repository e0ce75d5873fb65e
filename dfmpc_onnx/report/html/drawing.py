"""Figures of matplotlib as SVG that stands within a page: its colours are those of the page, light or dark.

What is drawn uses the names in `PAPER` and so on as colours; each is a colour that nothing else has, and becomes a
variable of the page's style. Text stays text, so that it is read out, found and printed like the rest.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, MUTED, LINE, BEFORE, AFTER, BAD = (f"#0102{number:02x}" for number in range(1, 8))
THEME_VARIABLES = {
    PAPER: "paper", INK: "ink", MUTED: "muted", LINE: "line", BEFORE: "before", AFTER: "after", BAD: "bad"
}  # fmt: skip
LEFT, RIGHT, TOP, BOTTOM, GAP_OF_AXES = 46, 8, 8, 36, 14  # pixels
POINTS_TO_AN_INCH = 72  # so that a point is a pixel of the page
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dfmpc-onnx",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
_PARAMETERS = threading.Lock()  # matplotlib keeps its parameters for the whole process


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


@contextlib.contextmanager
def own_parameters() -> Iterator[None]:
    """Within the block matplotlib draws as reports do; afterwards as before. One thread at a time."""
    import matplotlib

    with _PARAMETERS, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def figure(width: int, height: int, heights: tuple[float, ...] = (1.0,)) -> tuple[Figure, list[Axes]]:
    """A figure of so many pixels and its axes, one above the other over one x axis; heights: of each, as shares.

    Margins are fixed: to find them out, matplotlib would draw everything twice.
    """
    from matplotlib.figure import Figure

    made = Figure(figsize=(width / POINTS_TO_AN_INCH, height / POINTS_TO_AN_INCH), dpi=POINTS_TO_AN_INCH)
    room = (height - TOP - BOTTOM - GAP_OF_AXES * (len(heights) - 1)) / height
    axes: list[Axes] = []
    top = 1 - TOP / height
    for share in heights:
        tall = room * share / sum(heights)
        box = (LEFT / width, top - tall, 1 - (LEFT + RIGHT) / width, tall)
        axes.append(made.add_axes(box, sharex=axes[0] if axes else None))
        top -= tall + GAP_OF_AXES / height
    for upper in axes[:-1]:
        upper.tick_params(labelbottom=False)
    return made, axes


def as_chart(made: Figure, prefix: str, title: str, description: str) -> Chart:
    """A figure as it stands in a page. prefix: of its ids, of which no two in a page may be the same."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()  # straight to the canvas: savefig would draw everything twice
    FigureCanvasSVG(made).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    width, height = (round(side * POINTS_TO_AN_INCH) for side in made.get_size_inches())
    return Chart(prefix, _within_page(buffer.getvalue(), prefix), width, height, title, description)


def _within_page(svg: str, prefix: str) -> str:
    """The inside of a file of matplotlib's, with colours of the page, short numbers and ids of its own."""
    inside = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    inside = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style[^>]*>.*?</style>", "", inside, flags=re.DOTALL)
    linked = set(re.findall(r'(?:href="#|url\(#)([^")]+)', inside))
    inside = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in linked else "", inside)
    inside = re.sub(r'(xlink:)?href="#', f'href="#{prefix}-', inside).replace("url(#", f"url(#{prefix}-")
    inside = re.sub(r"<[^>]*>", lambda tag: _shorter(tag[0]), inside)
    return re.sub(r"\s*\n\s*", "\n", inside).strip()


def _shorter(tag: str) -> str:
    tag = re.sub(r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), tag)
    tag = re.sub(r"font: [^;\"]*?([\d.]+)px[^;\"]*", r"font-size: \1px", tag)
    for colour, name in THEME_VARIABLES.items():
        tag = tag.replace(colour, f"var(--{name})")
    return re.sub(r"\s+", " ", tag)
