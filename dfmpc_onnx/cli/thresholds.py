"""Thresholds of `verify` and `quantize`: numbers that are numbers, and what a comparison is held against."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dfmpc_onnx.errors import OptionError, shown

if TYPE_CHECKING:
    from dfmpc_onnx.report.schema import ProviderFidelity, Verification


class FiniteRange(click.FloatRange):
    """A float within a range: neither NaN, below which nothing lies, nor infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return float(number)


class Percent(FiniteRange):
    """Per cent, from 0 to 100. A share, such as 0.99, is a mistake: as per cent nearly everything would pass it."""

    def __init__(self) -> None:
        super().__init__(0, 100)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if 0 < number < 1:
            self.fail(f"{value} is below one per cent; give {100 * number:g} for that share.", param, ctx)
        return number


PERCENT = Percent()
NOT_NEGATIVE = FiniteRange(min=0)
DECIBELS = FiniteRange(-200, 200)  # no comparison gives more or less


def below_thresholds(
    found: Verification,
    min_agreement: float | None,
    min_sqnr: float | None,
    max_steps: float | None,
    own_images: bool,
) -> list[str]:
    """What is below a threshold, a line each. Raises OptionError where a threshold has nothing to be held against."""
    _check(found, min_agreement, min_sqnr, max_steps, own_images)
    return [line for row in found.providers for line in _below(row, min_agreement, min_sqnr, max_steps)]


def _check(
    found: Verification,
    min_agreement: float | None,
    min_sqnr: float | None,
    max_steps: float | None,
    own_images: bool,
) -> None:
    from dfmpc_onnx.inputs.unknown_inputs import what_to_give

    first = found.providers[0].fidelity
    if first.not_known and (min_sqnr is not None or min_agreement is not None):
        give = what_to_give(found.preprocess_choice.unknown, may_give_images=not own_images)
        option = "min-agreement" if min_sqnr is None else "min-sqnr"
        raise OptionError(f"{option}: {first.not_known}, so what the quantized model loses is not known; give {give}")
    if min_agreement is not None and first.agreement is None:
        raise OptionError(
            "min-agreement: no output holds class scores, so no agreement can be counted; give --min-sqnr in its place"
        )
    if min_agreement is not None and all(
        row.verdict is None or row.verdict.interval is None for row in found.providers
    ):
        raise OptionError("min-agreement: on generated inputs labels are not counted; give --images")
    if max_steps is not None and all(row.use is None for row in found.providers):
        raise OptionError(
            "max-steps: it holds a provider against the CPU provider, and there is no other here; give --provider, "
            "such as CUDA"
        )


def _agreement(row: ProviderFidelity) -> tuple[float, str]:
    """Per cent, and where from: counted on the user's images; of others nothing is, so where the interval begins."""
    if row.verdict is not None and row.verdict.basis == "generated":
        low, high = row.verdict.interval or (0.0, 0.0)
        return low, f"95 % interval {low:g} to {high:g} %, nothing is counted on generated inputs"
    found = row.fidelity
    return 100 * found.agreeing / max(found.rows, 1), f"{found.agreeing} of {found.rows}"


def _below(
    row: ProviderFidelity, min_agreement: float | None, min_sqnr: float | None, max_steps: float | None
) -> Iterator[str]:
    """Comparisons are written so that a figure that is NaN fails."""
    from dfmpc_onnx.report.text import short_provider

    found, provider = row.fidelity, short_provider(row.provider)
    if min_agreement is not None:
        reached, counted = _agreement(row)
        if not reached >= min_agreement:
            yield f"{provider}: agreement {reached:.7g} % ({counted}) is below --min-agreement {min_agreement:g}"
    if min_sqnr is not None and not found.sqnr_db >= min_sqnr:
        of = f" of output '{shown(found.worst.name)}'" if found.worst is not None else ""
        yield f"{provider}: SQNR {found.sqnr_db} dB{of} is below --min-sqnr {min_sqnr:g}"
    if max_steps is not None and row.use is not None and not row.use.steps <= max_steps:
        yield f"{provider}: {row.use.steps} steps from the CPU provider are more than --max-steps {max_steps:g}"
