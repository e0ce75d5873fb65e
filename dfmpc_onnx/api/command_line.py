"""The command line that a call comes from, and options by which a file is planned again."""

from __future__ import annotations

import contextlib
import contextvars
import shlex
from collections.abc import Iterator, Mapping, Sequence

import msgspec

PROGRAM_NAME = "dfmpc-onnx"
_TYPED: contextvars.ContextVar[str] = contextvars.ContextVar("typed", default="")


@contextlib.contextmanager
def typed(words: Sequence[str]) -> Iterator[None]:
    """Within the block the command line is known. words: what stands behind the name of the program."""
    token = _TYPED.set(shlex.join([PROGRAM_NAME, *words]))
    try:
        yield
    finally:
        _TYPED.reset(token)


def command_line() -> str:
    """As a shell takes it; "" where a script calls."""
    return _TYPED.get()


def plan_options(stated: Mapping[str, str], shapes: Mapping[str, Sequence[int]]) -> str:
    """The options of `plan` that give the bits of a file again, as a shell takes them. stated: what it says of its
    making (`provenance`); shapes: of inputs, as the user gave them."""
    options = ["--recipe", stated.get("recipe", "mixed")]
    for name, usual in (("activations", "8"), ("target", "cpu"), ("seed", "0")):
        if stated.get(name, usual) != usual:
            options += [f"--{name}", stated[name]]
    if stated.get("preprocess_choice", "").startswith("given:"):
        options += ["--preprocess", stated.get("preprocess", "auto")]
    for name, shape in shapes.items():
        options += ["--input-shape", f"{name}:{'x'.join(map(str, shape))}" if name else "x".join(map(str, shape))]
    ranges = msgspec.json.decode(stated.get("input_ranges", "{}"), type=dict[str, tuple[float, float]])
    for name, (low, high) in ranges.items():
        options += ["--input-range", f"{name}={low:g}:{high:g}"]
    for override in msgspec.json.decode(stated.get("layers", "[]"), type=list[str]):
        options += ["--layer", override]
    if "images_sha256" in stated:
        options += ["--images", "IMAGES"]
    return shlex.join(options)
