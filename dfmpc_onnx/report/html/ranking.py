"""Which places cost most: by their effect on the output, and by the error that is made at them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from dfmpc_onnx.report.html.schema import Place, ReportPage

MOST_WORST = 8  # places that are listed
PLACES_NAMED = 4  # of them, that a sentence names and charts mark
LEAST_OF_WEIGHTS = 0.3  # of all that is lost, below which more bits for weights gain little
HALF_OF_ALL = 0.5  # of the whole: the places that make so much are named
AS_BAD = 0.8  # of the worst, from which one more place is named with those that make half


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Places by one measure. order: their indices, the worst first; named: those that make half of the whole, and those
    that are nearly as bad as the worst, at most PLACES_NAMED; share: what these make of the whole, 0 to 1."""

    order: tuple[int, ...]
    named: tuple[int, ...]
    share: float

    @property
    def numbers(self) -> str:
        """The named ones by their numbers: ``no. 41, 37 and 3``."""
        *most, last = [str(index + 1) for index in self.named]
        return f"no. {', '.join(most)} and {last}" if most else f"no. {last}"


def by_effect(places: Sequence[Place], *, are_parts: bool) -> Ranking:
    """By what places cost the output. are_parts: whether what they cost adds up; else each stands for itself, and only
    those at least half as bad as the worst are named."""
    ranking = _ranked(places, lambda place: place.effect)
    if are_parts or not ranking.order:
        return ranking
    worst = places[ranking.order[0]].effect or 0.0
    named = tuple(i for i in ranking.order if (places[i].effect or 0.0) >= HALF_OF_ALL * worst)[:PLACES_NAMED]
    return Ranking(ranking.order, named, worst)


def share_of_weights(page: ReportPage) -> float | None:
    """What the bits of all weights were measured to add, as a share of all that is lost; None where that is not known.

    Both are the same measure (`numerics.output_loss`), and errors make up for each other by chance, so it may pass 1.
    """
    if page.effect_by != "plan" or page.diagnosis is None or page.diagnosis.damage <= 0:
        return None
    return sum(place.effect or 0.0 for place in page.places) / page.diagnosis.damage


def weights_matter(page: ReportPage) -> bool:
    """Whether the bits of weights make a good part of what is lost, as far as that is known."""
    share = share_of_weights(page)
    return share is None or share >= LEAST_OF_WEIGHTS


def by_own_error(places: Sequence[Place]) -> Ranking:
    """By the error that is made at each."""
    return _ranked(places, lambda place: place.added)


def _ranked(places: Sequence[Place], measure: Callable[[Place], float | None]) -> Ranking:
    values = [max(measure(place) or 0.0, 0.0) for place in places]
    whole = sum(values)
    order = [index for index in sorted(range(len(values)), key=lambda index: -values[index]) if values[index] > 0]
    named: list[int] = []
    share = 0.0
    for index in order[:PLACES_NAMED]:
        if share >= HALF_OF_ALL and values[index] < AS_BAD * values[order[0]]:
            break
        named.append(index)
        share += values[index] / whole
    return Ranking(tuple(order[:MOST_WORST]), tuple(named), share)
