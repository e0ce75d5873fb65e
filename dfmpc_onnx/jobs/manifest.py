"""A list of models with options of their own, as CSV or TOML; every mistake is named with its line and column.

path,preprocess,max-size          [options]               # for all models of this file
nets/a.onnx,imagenet,25%          recipe = "int8"
nets/b.onnx,127.5/127.5,
                                  [[model]]
                                  path = "nets/a.onnx"    # a file, a folder or a pattern, from this file's folder
                                  name = "first"          # of its files and its row
                                  max-size = "25%"        # any option of `quantize`
"""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.jobs.given_options import option_name, option_value, plain_options, with_places
from dfmpc_onnx.model.plain_files import why_unreadable

PATH, NAME, TABLE_OF_MODEL, TABLE_FOR_ALL = "path", "name", "model", "options"
LARGEST_MANIFEST = 64 * 2**20  # bytes


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of a manifest. path: as given; name: empty where none is. where: file, line and column of the path, for
    messages; places: those of options."""

    where: str
    path: str
    name: str
    options: Mapping[str, Any]
    places: Mapping[str, str]


def read_manifest(path: pathlib.Path) -> list[Entry]:
    """The rows of a .csv or .toml file; paths in it are taken from its folder. Raises OptionError."""
    where = shown(str(path))
    reason = why_unreadable(path, LARGEST_MANIFEST)
    if reason is not None:
        raise OptionError(f"{where}: {reason}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(f"{where}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise OptionError(f"{where}: cannot be read ({error.strerror})") from None
    read = _toml if path.suffix.lower() == ".toml" else _csv
    entries = list(read(text, where))
    if not entries:
        raise OptionError(f"{where}: names no model; give each a row with its path")
    return [dataclasses.replace(e, options=with_places(e.options, path.parent)) for e in entries]


def _csv(text: str, where: str) -> Iterator[Entry]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise OptionError(f"{where}:{reader.line_num}: is no CSV ({error})") from None
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if not columns:
            columns = _columns(cells, f"{where}:{reader.line_num}")
        else:
            yield _csv_row(columns, cells, f"{where}:{reader.line_num}")


def _columns(cells: list[str], where: str) -> list[str]:
    """The columns of a CSV file by the names that options have here."""
    columns: list[str] = []
    for number, cell in enumerate(cells, 1):
        word = cell.strip().lower()
        column = word if word in (PATH, NAME) else _at(f"{where}:{number}", option_name, cell.strip())
        if column in columns:
            raise OptionError(f"{where}:{number}: column '{cell.strip()}' is there twice; leave one of them out")
        columns.append(column)
    if PATH not in columns:
        raise OptionError(f"{where}:1: no column 'path'; name one so in the first line")
    return columns


def _csv_row(columns: list[str], cells: list[str], where: str) -> Entry:
    if len(cells) > len(columns):
        raise OptionError(
            f"{where}:{len(columns) + 1}: {len(cells)} cells under {len(columns)} columns; put a cell with a comma in "
            "quotes"
        )
    given = {c: (n, cell.strip()) for n, (c, cell) in enumerate(zip(columns, cells, strict=False), 1) if cell.strip()}
    if PATH not in given:
        raise OptionError(f"{where}:{columns.index(PATH) + 1}: names no path")
    options = {
        column: _at(f"{where}:{number}", option_value, column, text)
        for column, (number, text) in given.items()
        if column not in (PATH, NAME)
    }
    places = {column: f"{where}:{number}" for column, (number, _) in given.items()}
    return Entry(places[PATH], given[PATH][1], given.get(NAME, (0, ""))[1], options, places)


def _toml(text: str, where: str) -> Iterator[Entry]:
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        place = f"{where}:{line[1]}:{line[2]}" if line else where
        raise OptionError(f"{place}: is no TOML ({str(error).partition(' (at')[0]})") from None
    places = _Places(text, where)
    for key in found:
        if key not in (TABLE_OF_MODEL, TABLE_FOR_ALL):
            raise OptionError(f"{places.key(key, 1)}: '{key}' is not known here; write [[model]] and [options]")
    for_all = found.get(TABLE_FOR_ALL, {})
    models = found.get(TABLE_OF_MODEL, [])
    if not isinstance(for_all, dict) or not isinstance(models, list) or not all(isinstance(m, dict) for m in models):
        raise OptionError(f"{where}: write [options] for all models, and a table [[model]] for each")
    start = places.table(f"[{TABLE_FOR_ALL}]", 1)
    usual = Entry("", "", "", *_toml_options(for_all, places, start))
    for nth, model in enumerate(models, 1):
        yield _toml_entry(model, usual, places, places.table(f"[[{TABLE_OF_MODEL}]]", nth))


def _toml_entry(model: dict[str, Any], usual: Entry, places: _Places, start: int) -> Entry:
    path, name = model.pop(PATH, None), model.pop(NAME, "")
    if not isinstance(path, str) or not path:
        raise OptionError(f'{places.key(PATH, start)}: names no path; write path = "net.onnx"')
    if not isinstance(name, str):
        raise OptionError(f"{places.key(NAME, start)}: name is no text; put it in quotes")
    where = places.key(PATH, start)
    options, of_options = _toml_options(model, places, start)
    return Entry(where, path, name, {**usual.options, **options}, {**usual.places, **of_options})


def _toml_options(given: dict[str, Any], places: _Places, start: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The options of a table, and where each stands."""
    options: dict[str, Any] = {}
    of_options: dict[str, str] = {}
    for word, value in given.items():
        where = places.key(word, start)
        name = _at(where, option_name, word)
        if isinstance(value, str):
            value = _at(where, option_value, name, value)
        options |= _at(where, plain_options, {name: value})
        of_options[name] = where
    return options, of_options


def _at(where: str, call: Any, *given: Any) -> Any:
    """What a call returns; where it refuses, the place stands in front of what it says."""
    try:
        return call(*given)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None


class _Places:
    """Where tables and keys of a TOML text stand."""

    def __init__(self, text: str, where: str) -> None:
        self._lines, self._where = text.splitlines(), where
        self._headers: dict[str, list[int]] = {}
        for number, line in enumerate(self._lines, 1):
            header = re.match(r"\s*(\[+)\s*([\w-]+)\s*(\]+)", line)
            if header is not None:
                self._headers.setdefault("".join(header.groups()), []).append(number)

    def table(self, header: str, nth: int) -> int:
        """The line of the nth table with a header; 1 where it is written in another way."""
        lines = self._headers.get(header, [])
        return lines[nth - 1] if len(lines) >= nth else 1

    def key(self, word: str, start: int) -> str:
        """File, line and column of a key in the table that begins at a line; of the table where it is not found."""
        pattern = re.compile(rf"(?:^|[\s{{,\[])([\"']?{re.escape(word)}[\"']?)\s*[=\].]")
        for number, line in enumerate(self._lines[start - 1 :], start):
            if number > start and line.lstrip().startswith("["):
                break
            found = pattern.search(line)
            if found is not None:
                return f"{self._where}:{number}:{found.start(1) + 1}"
        return f"{self._where}:{start}:1"
