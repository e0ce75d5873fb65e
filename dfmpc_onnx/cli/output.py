"""Results on standard output: tables, one JSON object, or the file itself."""

from __future__ import annotations

import sys

import onnx

from dfmpc_onnx.cli.console import reader_may_leave
from dfmpc_onnx.cli.shared_options import STANDARD_STREAM
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.model.source import EXTERNAL_LIMIT, size_of


def check_stream(output: str | None, json_wanted: bool) -> bool:
    """Whether the file goes to standard output; raises OptionError where that is taken, closed, or a terminal."""
    if output != STANDARD_STREAM:
        return False
    if json_wanted:
        raise OptionError("-o -: --json wants standard output, too; give a file name, or leave --json out")
    if sys.stdout is None:
        raise OptionError("-o -: standard output is closed; give a file name")
    if sys.stdout.isatty():
        raise OptionError("-o -: standard output is a terminal; give a file name, or redirect it with > or |")
    return True


def write_model(model: onnx.ModelProto) -> None:
    """A model on standard output, as it would stand in a file. Raises OptionError where it needs two files."""
    if size_of(model) >= EXTERNAL_LIMIT:
        raise OptionError("-o -: the model needs a second file for its weights; give a file name")
    write_bytes(model.SerializeToString(deterministic=True))


def write_bytes(data: bytes) -> None:
    """Bytes on standard output."""
    with reader_may_leave():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
