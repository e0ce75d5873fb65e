"""The table labels.csv beside image files: which class each of them shows."""

from __future__ import annotations

import csv
import io
import os
import pathlib

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.model.plain_files import why_unreadable

TABLE = "labels.csv"
MOST_TABLE_BYTES = 2**26  # a million rows and more
INT64 = range(-(2**63), 2**63)


def read_labels(folder: pathlib.Path, where: str) -> dict[str, int] | None:
    """The class of each image by file name; None where there is no table. Raises OptionError.

    Spreadsheets write a byte order mark, semicolons or tabs: all are read.
    """
    table = folder / TABLE
    if not os.path.lexists(table):
        return None
    reason = why_unreadable(table, MOST_TABLE_BYTES)
    if reason is not None:
        reason = "is a link to nothing" if reason == "no such file" else reason
        raise OptionError(f"{where}: {TABLE} {reason}; it must be a table of file,label")
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise OptionError(f"{where}: {TABLE} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise OptionError(f"{where}: {TABLE} is not a text file in UTF-8; save it again as such") from None
    head = text.partition("\n")[0][:1000]
    separator = next((mark for mark in ",;\t" if mark in head), ",")
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
        labels = {row["file"]: int(row["label"]) for row in rows}
        if not all(label in INT64 for label in labels.values()):
            raise ValueError
    except (KeyError, ValueError, TypeError, csv.Error):
        raise OptionError(f"{where}: {TABLE} must have the columns file and label (a whole number)") from None
    return labels
