"""Tables of rich of one line a row: on a narrow terminal names lose their middle, and nothing else is cut."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dfmpc_onnx.errors import printable

GAP = 2  # blanks between columns
LEAST_NAME = 12  # characters of a name that say something
LEAST_WITH_BEGINNING = 20  # that show both of its ends


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Cells that find no room are broken, never cut."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def rows_of_one_line(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    right: Sequence[str] = (),
    name: int = 0,
    more: Sequence[str] | None = None,
) -> None:
    """A table with one line a row. name: the column of names from a model, which alone may be shortened; where that is
    not enough, the last columns are left out. more: what stands whole behind each name, such as `` + 7 more``."""
    cells = [[printable(str(value)) for value in row] for row in rows]
    behind = list(more) if more is not None else [""] * len(rows)
    whole = [[*row[:name], row[name] + end, *row[name + 1 :]] for row, end in zip(cells, behind, strict=True)]
    widths = [max(map(cell_len, column)) for column in zip(columns, *whole, strict=True)]
    room = console.width - sum(widths) + widths[name] - GAP * (len(widths) - 1)
    least = min(widths[name], max(LEAST_NAME, LEAST_NAME // 2 + max(map(cell_len, behind), default=0)))
    while room < least and len(widths) > name + 2:
        room += widths.pop() + GAP
    columns, cells = columns[: len(widths)], [row[: len(widths)] for row in cells]
    widths[name] = min(widths[name], max(room, least))

    def line(row: Sequence[str]) -> str:
        padded = []
        for cell, width, column in zip(row, widths, columns, strict=True):
            blanks = " " * (width - cell_len(cell))
            padded.append(blanks + cell if column in right else cell + blanks)
        return (" " * GAP).join(padded).rstrip()

    console.print(Text(line(columns), style="bold"), soft_wrap=True)
    rooms = [widths[name] - cell_len(end) for end in behind]
    names = distinct_names([row[name] for row in cells], rooms)
    for row, within, end in zip(cells, names, behind, strict=True):
        row[name] = within + end
        console.print(Text(line(row)), soft_wrap=True)


def shortened(name: str, width: int) -> str:
    """A name within so many characters: a longer one loses its middle, since names of one network begin alike, and
    differ at their end; where there is little room, its beginning."""
    if cell_len(name) <= width:
        return name
    end = name[-(2 * (width - 2) // 3 if width >= LEAST_WITH_BEGINNING else width - 2) :]
    while cell_len(end) > width - 2:
        end = end[1:]
    if width < LEAST_WITH_BEGINNING:
        whole = next((place + 1 for place, letter in enumerate(end) if not letter.isalnum()), 0)
        return f"..{end[whole:] if whole <= len(end) // 3 else end}"
    begin = name
    while cell_len(begin) + cell_len(end) > width - 2:
        begin = begin[:-1]
    return f"{begin}..{end}"


def distinct_names(names: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Each name within so many characters of its own; those that would look alike begin where they differ."""
    alike: dict[str, list[str]] = {}
    for name, width in zip(names, widths, strict=True):
        alike.setdefault(shortened(name, width), []).append(name)
    found = []
    for name, width in zip(names, widths, strict=True):
        within = shortened(name, width)
        columns = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*alike[within], strict=False))
        same = [letters[0] for letters in columns]
        if len(same) < len(name):
            begin = max((place + 1 for place, letter in enumerate(same) if not letter.isalnum()), default=0)
            within = f"..{shortened(name[begin:], width - 2)}"
        found.append(within)
    return found


def listing(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()
) -> None:
    """A table whose first column holds names from a model, and whose last one remarks, both of any length.

    Where a terminal is too narrow for it, remarks stand below their rows, and names that are too long above them: so
    nothing is cut, and no name is broken that fits into a line.
    """
    cells = [[printable(str(value)) for value in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    if sum(widths) + GAP * (len(widths) - 1) <= console.width:
        made = table(*columns, right=right)
        for row in cells:
            made.add_row(*map(Text, row))
        console.print(made)
        return
    room = console.width - sum(widths[1:-1]) - GAP * (len(widths) - 2)
    widths[0] = min(widths[0], max(room, cell_len(columns[0])))

    def line(row: Sequence[str]) -> str:
        padded = []
        for cell, width, name in zip(row[:-1], widths, columns, strict=False):
            blanks = " " * (width - cell_len(cell))
            padded.append(blanks + cell if name in right else cell + blanks)
        return (" " * GAP).join(padded).rstrip()

    console.print(Text(line(columns), style="bold"))
    for row in cells:
        if cell_len(row[0]) > widths[0]:
            console.print(Text(row[0]))
            row[0] = ""
        console.print(Text(line(row)))
        if row[-1]:
            console.print(Padding(Text(row[-1]), (0, 0, 0, 2 * GAP), expand=False))


def prose(console: Console, text: str, indent: int = 0) -> None:
    """Sentences, broken between words where a line ends."""
    for line in printable_lines(text, console.width, indent):
        console.print(Text(line), soft_wrap=True)


def printable_lines(text: str, width: int, indent: int) -> list[str]:
    """A text in lines of so many characters; a word that is longer than a line stands whole."""
    blanks = " " * indent
    return textwrap.wrap(
        printable(text),
        max(width, indent + LEAST_NAME),
        initial_indent=blanks,
        subsequent_indent=blanks,
        break_on_hyphens=False,
    )


def definitions(console: Console, entries: Sequence[tuple[str, str, str]]) -> None:
    """A term with a remark in its line, and below it what it means, in as many lines as that takes."""
    width = max((cell_len(term) for term, _, _ in entries), default=0)
    for term, remark, meaning in entries:
        head = Text(printable(term), style="bold")
        if remark:
            head.append(f"{' ' * (width - cell_len(term) + GAP)}{printable(remark)}", style="not bold")
        console.print(head, soft_wrap=True)
        for line in meaning.splitlines():
            prose(console, line, 2 * GAP)


def megabytes(count: int) -> str:
    return in_unit(count, *unit_of([count]))


def unit_of(counts: Sequence[int]) -> tuple[str, int]:
    """The unit that numbers of bytes are shown in side by side, and how many decimals."""
    return ("MB", 3) if max(counts) >= 100_000 else ("kB", 1)


def in_unit(count: int, unit: str, decimals: int, *, up: bool = False) -> str:
    """A number of bytes in a unit. up: never less than it is."""
    amount = count / (1e6 if unit == "MB" else 1e3)
    return f"{math.ceil(amount * 10**decimals) / 10**decimals if up else amount:.{decimals}f} {unit}"


def plain(*values: object) -> list[Text]:
    return [Text(printable(str(value))) for value in values]


def figures(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Keys and values; a value that is longer than its line goes on below its beginning."""
    width = max((cell_len(key) for key, _ in rows), default=0) + GAP
    for key, value in rows:
        lines = printable_lines(value, console.width, width) or [""]
        console.print(Text(f"{key}{' ' * (width - cell_len(key))}{lines[0].lstrip()}".rstrip()), soft_wrap=True)
        for line in lines[1:]:
            console.print(Text(line), soft_wrap=True)
