"""Recipes: which passes run, in which order, with which options; frozen data, and as TOML that loads again.

summary = "one line"
weights = "2/6"
activations = "none"

[[passes]]
use = "compensate"
lambda1 = 0.5

recipe_file.py says how such a text is read, and what one may hold that extends another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from dfmpc_onnx.pipeline.settings import WeightBits, parse_activations
from dfmpc_onnx.pipeline.target_rules import Activations

DEFAULT_RECIPE = "mixed"


class Step(msgspec.Struct, frozen=True):
    """One pass of a recipe: its name in the catalogue, and the options that the recipe sets.

    position: ``file:line`` of its table, for messages. fallback: the passes that run in its place where it cannot go
    on. lines: ``file:line`` of each option. unrecorded: options that a file's metadata leaves out.
    """

    use: str
    options: dict[str, object]
    position: str
    fallback: tuple[Step, ...] = ()
    lines: dict[str, str] = {}
    unrecorded: tuple[str, ...] = ()

    def position_of(self, key: str) -> str:
        """``file:line`` of an option; that of the table where it is not known."""
        return self.lines.get(key, self.position)


class Recipe(msgspec.Struct, frozen=True):
    """A named pipeline with the weights and activations that it uses unless the user says otherwise.

    notes: what its author should know, such as a pass that has another name now.
    """

    name: str
    summary: str
    weights: str
    activations: str
    steps: tuple[Step, ...]
    reduce_range: bool = False
    notes: tuple[str, ...] = ()

    @property
    def weight_bits(self) -> WeightBits:
        return WeightBits.parse(self.weights)

    @property
    def activation_bits(self) -> Activations:
        return parse_activations(self.activations)


def to_record(step: Step) -> object:
    """A step as JSON in a file's metadata: its name, or a mapping of the name to its options and fallback."""
    stated = {key: value for key, value in step.options.items() if key not in step.unrecorded}
    options = {**stated, **({"fallback": [to_record(s) for s in step.fallback]} if step.fallback else {})}
    return {step.use: options} if options else step.use


def recorded_steps(text: str) -> tuple[Step, ...]:
    """The steps that the metadata entry ``passes`` of a file states; ValueError where it is no such list."""
    items = msgspec.json.decode(text, type=list[str | dict[str, dict[str, object]]])
    return tuple(_step_of_record(item) for item in items)


def _step_of_record(item: str | Mapping[str, Mapping[str, object]]) -> Step:
    ((use, stated),) = item.items() if isinstance(item, Mapping) else ((item, {}),)
    options = dict(stated)
    fallback = msgspec.convert(options.pop("fallback", []), list[str | dict[str, dict[str, object]]])
    return Step(use, options, "metadata", tuple(_step_of_record(part) for part in fallback))


def as_toml(recipe: Recipe) -> str:
    """The recipe in full as TOML: what it extends is worked in."""
    head = [f"summary = {toml_value(recipe.summary)}", f"weights = {toml_value(recipe.weights)}"]
    head.append(f"activations = {toml_value(recipe.activations)}")
    if recipe.reduce_range:
        head.append("reduce_range = true")
    return "\n".join([*head, *(line for step in recipe.steps for line in ("", *_table(step)))]) + "\n"


def _table(step: Step) -> Iterator[str]:
    yield "[[passes]]"
    yield f"use = {toml_value(step.use)}"
    for key, value in step.options.items():
        yield f"{_key(key)} = {toml_value(value)}"
    if step.fallback:
        yield "fallback = ["
        for part in step.fallback:
            yield f"    {toml_value(_inline(part))},"
        yield "]"


def _inline(step: Step) -> dict[str, object]:
    below = {"fallback": [_inline(part) for part in step.fallback]} if step.fallback else {}
    return {"use": step.use, **step.options, **below}


def toml_value(value: object) -> str:
    """A value that came out of TOML, as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{"".join(c if c.isprintable() and c not in _QUOTED else _escape(c) for c in value)}"'
    if isinstance(value, list):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {toml_value(item)}' for key, item in value.items())} }}"
    return str(value)  # numbers and dates read as they print


_QUOTED = '"\\'


def _escape(character: str) -> str:
    """What would end a string or steer a terminal, as TOML writes it."""
    return f"\\{character}" if character in _QUOTED else f"\\U{ord(character):08x}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else toml_value(name)
