"""What sections are made of. Texts may hold names from a model: templates escape them, and nothing here is markup."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dfmpc_onnx.report.html.drawing import Chart


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table. bar: length of a bar beside the text, 0 to 1; None for none. bad: whether it stands out."""

    text: str
    bar: float | None = None
    bad: bool = False


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table. right: whether it holds numbers; name: names from a model; long: sentences; minor:
    whether narrow windows leave it out."""

    heading: str
    right: bool = False
    name: bool = False
    long: bool = False
    minor: bool = False


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Sentences. quiet: whether they only explain."""

    text: str
    quiet: bool = False
    kind: str = "paragraph"


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list. Each entry has a beginning in bold, which may be empty, and the rest."""

    entries: Sequence[tuple[str, str]]
    kind: str = "bullets"


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a reader asks, the answer in sentences, and the commands that it names; the commands may be none."""

    entries: Sequence[tuple[str, str, Sequence[str]]]
    kind: str = "answers"


@dataclasses.dataclass(frozen=True)
class Figures:
    """Large figures side by side: a value, what it is, and a remark."""

    entries: Sequence[tuple[str, str, str]]
    kind: str = "figures"


@dataclasses.dataclass(frozen=True)
class KeyValues:
    """Keys and values."""

    entries: Sequence[tuple[str, str]]
    kind: str = "pairs"


@dataclasses.dataclass(frozen=True)
class Rows:
    """A table with a caption; its first column names the row."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    kind: str = "rows"


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A chart over the whole width, and as it is where the window is narrow."""

    chart: Chart
    narrow: Chart | None = None
    kind: str = "drawn"


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Small charts side by side, each under a heading of its own, with a line below."""

    entries: Sequence[tuple[str, Chart, str]]
    kind: str = "gallery"


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures: the data address of each, and what stands for it where it is not seen."""

    entries: Sequence[tuple[str, str]]
    kind: str = "pictures"


Block = Paragraph | Bullets | Answers | Figures | KeyValues | Rows | Drawn | Gallery | Pictures


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page under a heading, reached by its anchor."""

    anchor: str
    heading: str
    blocks: Sequence[Block]

    @property
    def is_brief(self) -> bool:
        """Whether a sentence or two are all there is to say, which need little room."""
        return len(self.blocks) == 1 and isinstance(self.blocks[0], Paragraph)


def cells(*values: object) -> list[Cell]:
    """Plain texts as a row."""
    return [value if isinstance(value, Cell) else Cell(str(value)) for value in values]
