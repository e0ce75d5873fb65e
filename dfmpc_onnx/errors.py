"""Every error that this package raises on purpose.

::

    DfmpcError
    +-- UserError               the caller can correct it; exit status 2, one line, no traceback
    |   +-- ModelError          the model cannot be read, or cannot be quantized
    |   |   +-- AlreadyQuantized  the model is quantized in full
    |   |   +-- TooLittleMemory   onnxruntime could not allocate what it needs
    |   |   +-- NoSuchType      an input or output is of a type that numpy does not have
    |   |   +-- CannotRun       onnxruntime loads the model, but cannot run it on what it is fed
    |   +-- OptionError         an option, a path or an image file is unusable
    |   +-- RecipeError         a recipe is unknown or malformed
    |   |   +-- PipelineError   the passes of a recipe stand in an order that cannot work
    |   +-- RuntimeUnavailable  onnxruntime, or one of its providers, is not there
    |   +-- RunTooLong          a run of a model did not end within its limit
    +-- Defect                  our own mistake; exit status 3, with where to report it
        +-- PassError           a pass failed: which one, after which others

Each message says what is wrong, where, and what to do about it, in one line that a terminal shows as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

REPORT_TO = "the project's issue tracker, with the command and the model or its inspect --json"


def printable(text: str | bytes) -> str:
    """A text that may hold parts of a model or of what a user typed, safe to show on one line of a terminal.

    Line breaks, control characters (those above 127, too) and invisible ones are replaced. Bytes are what protobuf
    gives for a name that is not UTF-8.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


# A message ends with what to do, behind a semicolon and one of these.
_ADVICE = re.compile(
    r"; (?=(?:add|choose|close|convert|copy|did you mean|export|give|install|keep|leave|lower|make|name|pip install|"
    r"plan|put|raise|remove|rename|run|save|see|store|take|to use|uninstall|use|write)\b)"
)


def what_and_tip(message: str) -> tuple[str, str]:
    """A message as what is wrong, and what to do about it; that is empty where the message gives no advice."""
    what, *tip = _ADVICE.split(message, maxsplit=1)
    return what, "".join(tip)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """`` (did you mean cpu?)`` where one of the words is near to what was typed, to put behind it; else nothing."""
    import difflib

    near = difflib.get_close_matches(word.lower(), list(words), n=1, cutoff=0.7)
    return f" (did you mean {near[0]}?)" if near else ""


class DfmpcError(Exception):
    """Root of the tree."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UserError(DfmpcError):
    """A mistake that the caller can correct."""


class ModelError(UserError):
    """The model cannot be read, or holds what cannot be quantized."""


class AlreadyQuantized(ModelError):
    """The model is quantized in full."""


class TooLittleMemory(ModelError):
    """onnxruntime could not allocate the memory that it needs."""


class NoSuchType(ModelError):
    """An input or output of the model is of a type that numpy does not have."""


class CannotRun(ModelError):
    """onnxruntime has loaded the model, or a node of it, but cannot run it on what it is fed."""


class OptionError(UserError):
    """An option, a path or an image file is unusable."""


class RecipeError(UserError):
    """A recipe is unknown or malformed."""


class PipelineError(RecipeError):
    """A pass would run before what it requires is known."""


class RuntimeUnavailable(UserError):
    """onnxruntime, or an execution provider of it, is missing."""


class RunTooLong(UserError):
    """A run of a model that may never end was stopped."""


class Defect(DfmpcError):
    """A mistake of this package."""


class PassError(Defect):
    """A pass raised; carries its name and the names of the passes that had already run."""

    def __init__(self, name: str, done: tuple[str, ...], cause: BaseException) -> None:
        self.name = name
        self.done = done
        before = ", ".join(done) or "none"
        super().__init__(f"pass {name} failed ({type(cause).__name__}: {cause}); passes already run: {before}")


def shown(name: str | bytes) -> str:
    """A name from a model, safe to show: control characters replaced, at most 120 characters."""
    clean = printable(name)
    return clean if len(clean) <= 120 else f"{clean[:80]}...{clean[-37:]}"


class Unknown(Exception):
    """What is asked of a node does not follow from what is known of it; says why."""
