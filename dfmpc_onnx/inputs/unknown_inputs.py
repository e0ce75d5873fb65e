"""What to say of inputs whose scale nothing tells: what is not known, why, and what to give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from dfmpc_onnx.errors import shown
from dfmpc_onnx.inputs.files import holds_pixels
from dfmpc_onnx.inputs.normalization import PreprocessChoice, UnknownInput
from dfmpc_onnx.inputs.spec import InputSpecs

MOST_NAMED = 8  # inputs of which each is named with its option
PREPROCESS_KNOWN = ("given", "file", "images", "covariances", "head")  # how a preprocess came about that is no guess


def told_by_images(inputs: InputSpecs, choice: PreprocessChoice, images: str) -> PreprocessChoice:
    """The choice where the user gives images, which tell what an input holds: nothing is unknown then.

    But for pixels under a preprocess that is a guess: at which scale the network takes them they do not say. Raises
    OptionError where the images cannot be read.
    """
    if not choice.unknown or len(inputs) != 1:
        return choice
    if choice.by not in PREPROCESS_KNOWN and holds_pixels(images):
        return choice
    return msgspec.structs.replace(choice, unknown=(), warning=None)


def unknown_inputs_warning(choice: PreprocessChoice, so: str, may_give_images: bool) -> str:
    """One line: what is not known, why, what follows (`so`), and what to give."""
    return f"{'; '.join(_what(choice))}; {so}: give {what_to_give(choice.unknown, may_give_images)}"


def not_known(unknown: Sequence[UnknownInput]) -> str:
    """The verdict where inputs were made up: what was measured on them says nothing of real ones."""
    names = [f"'{shown(entry.name)}'" for entry in unknown]
    return f"nothing tells the scale of {_listed(names)}" if names else ""


def what_to_give(unknown: Sequence[UnknownInput], may_give_images: bool) -> str:
    """The options that tell the scale of all these inputs. may_give_images: whether images would be read."""
    ranges = [f"--input-range '{shown(entry.name)}=LOW:HIGH'" for entry in unknown]
    pictures = [place for place, entry in enumerate(unknown) if entry.preprocess_tells]
    others = [text for place, text in enumerate(ranges) if place not in pictures]
    ways = [_listed(["--preprocess", *others], " and ")] if pictures else []
    if len(unknown) == 1 or not pictures:
        ways.append(_listed(ranges, " and "))
    images = may_give_images and all(entry.images_tell for entry in unknown)
    return " or ".join(ways + (["--images"] if images else []))


def _what(choice: PreprocessChoice) -> Iterator[str]:
    left = choice.unknown
    if choice.by == "assumed":
        begin = f"preprocess {choice.name} assumed ({choice.reason.replace(' assumed', '', 1)}"
        yield begin.replace(": ", "): ", 1)
        left = tuple(entry for entry in left if not entry.preprocess_tells)
    names: dict[str, list[str]] = {}
    for entry in left:
        names.setdefault(entry.why, []).append(f"'{shown(entry.name)}'")
    for why, alike in names.items():
        yield f"the scale of input{'s' if len(alike) > 1 else ''} {_listed(alike)} is not known: {why}"


def _listed(items: Sequence[str], between: str = ", ") -> str:
    more = len(items) - MOST_NAMED
    return between.join(items[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
