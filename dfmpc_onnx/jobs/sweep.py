"""Settings of a sweep, and which of them `quantize` would refuse whatever the model is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from dfmpc_onnx.api.option_check import check_options
from dfmpc_onnx.errors import OptionError, UserError
from dfmpc_onnx.jobs.given_options import REPORT, SEPARATOR, option_name, option_value

MOST_SWEPT = 10_000  # settings of one sweep
Setting = Mapping[str, Any]  # a value of each option that is swept


def settings_of(sweep: Sequence[str]) -> Iterator[Setting]:
    """All settings of a sweep, ``recipe=int8,mixed`` each; one without options where there is no sweep.

    Raises OptionError.
    """
    axes: dict[str, list[Any]] = {}
    for text in sweep:
        word, sign, values = text.partition("=")
        if not sign or not values.strip():
            raise OptionError(f"sweep '{text}': not understood; give OPTION=VALUE,VALUE such as recipe=int8,mixed")
        try:
            name = option_name(word)
            if name in axes:
                raise OptionError(f"{word} is swept already; put all its values in one")
            parts = [part for part in values.split(SEPARATOR if SEPARATOR in values else ",") if part.strip()]
            axes[name] = [option_value(name, part) for part in parts]
        except OptionError as error:
            raise OptionError(f"sweep '{text}': {error}") from None
    size = 1
    for of_axis in axes.values():
        size *= len(of_axis)
    if size > MOST_SWEPT:
        raise OptionError(f"sweep: {size} settings are more than {MOST_SWEPT}; leave some values out")
    for chosen in itertools.product(*axes.values()):
        yield dict(zip(axes, chosen, strict=True))


def as_typed(setting: Setting) -> str:
    """A setting as a message names it."""
    return "--sweep " + ", ".join(
        f"{name.replace('_', '-')}={SEPARATOR.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in setting.items()
    )


class OptionCheck:
    """What `quantize` would refuse before it reads a model; each set of options is looked at once."""

    def __init__(self) -> None:
        self._seen: dict[bytes, UserError | None] = {}

    def refusal(self, options: Mapping[str, Any]) -> UserError | None:
        """What `quantize` would raise for options; None where it takes them."""
        key = _key(options)
        if key not in self._seen:
            self._seen[key] = _refusal(options)
        return self._seen[key]

    def blamed(self, options: Mapping[str, Any], settings: Sequence[Setting]) -> tuple[Setting, UserError] | None:
        """What is refused by itself and under every setting that has it, and what `quantize` says of it.

        Options without those that are swept, for which an empty setting stands, or one value of the sweep. None where
        nothing is refused, or combinations alone are.
        """
        refused = [self.refusal({**options, **setting}) is not None for setting in settings]
        if not any(refused):
            return None
        fixed = {name: value for name, value in options.items() if name not in settings[0]}
        values = ({name: value} for setting in itertools.compress(settings, refused) for name, value in setting.items())
        parts: dict[bytes, Setting] = {_key(part): part for part in ({}, *values)}
        for part in parts.values():
            error = self.refusal({**fixed, **part})
            having = (no for no, setting in zip(refused, settings, strict=True) if part.items() <= setting.items())
            if error is not None and all(having):
                return part, error
        return None


def _key(options: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(options, order="sorted")


def _refusal(options: Mapping[str, Any]) -> UserError | None:
    try:
        check_options(**{name: value for name, value in options.items() if name != REPORT})
    except UserError as error:
        return error
    return None
