"""Which places are named: those that make half of the whole, by effect and by own error."""

from __future__ import annotations

from dfmpc_onnx.report.html.ranking import PLACES_NAMED, by_effect, by_own_error
from dfmpc_onnx.report.html.schema import Place


def places(effects: list[float | None], added: list[float | None]) -> list[Place]:
    return [Place(f"p{i}", "Conv", effect=e, added=a) for i, (e, a) in enumerate(zip(effects, added, strict=True))]


def test_those_that_make_half_are_named_the_worst_first() -> None:
    found = by_own_error(places([None] * 4, [0.1, 0.4, 0.3, 0.2]))
    assert found.order == (1, 2, 3, 0)
    assert found.named == (1, 2) and found.numbers == "no. 2 and 3"
    assert abs(found.share - 0.7) < 1e-9


def test_many_that_are_alike_are_cut_off() -> None:
    found = by_own_error(places([None] * 40, [1 / 40] * 40))
    assert len(found.named) == PLACES_NAMED and found.numbers == "no. 1, 2, 3 and 4"


def test_shares_of_blame_do_not_add_up() -> None:
    found = by_effect(places([0.9, 0.8, 0.1, None], [None] * 4), are_parts=False)
    assert found.named == (0, 1) and found.share == 0.9


def test_what_was_not_measured_is_in_no_ranking() -> None:
    assert by_effect(places([None, None], [0.5, 0.5]), are_parts=True).order == ()
    assert by_effect(places([-0.1, 0.0], [0.5, 0.5]), are_parts=False).named == ()
