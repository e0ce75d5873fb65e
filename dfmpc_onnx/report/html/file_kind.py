"""How HTML files are known again before one is written over."""

from __future__ import annotations

import pathlib

from dfmpc_onnx.model.write import FileKind

LOOKED_AT = 1024  # bytes of the beginning


def _is_html(path: pathlib.Path) -> bool:
    """Whether a file is empty or begins as an HTML page."""
    try:
        with path.open("rb") as stream:
            start = stream.read(LOOKED_AT).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    except OSError:
        return False
    return not start or start.startswith((b"<!doctype html", b"<html"))


HTML_FILE = FileKind("HTML file", _is_html)
