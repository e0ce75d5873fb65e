"""Layers and places of a report, from plans, errors and blame."""

from __future__ import annotations

import pytest

from dfmpc_onnx.api.page_layers import places_of, with_blame, with_steps
from dfmpc_onnx.evaluation.diagnosis.schema import Diagnosis, Suspect
from dfmpc_onnx.evaluation.layer_errors import LayerErrors
from dfmpc_onnx.pipeline.weight_plan import PlannedWidths, PlanRow, PlanTable, WeightPlan
from dfmpc_onnx.report.html.schema import PageLayer, Place, WidthStep


def layer(name: str, bits: str = "4", planned: float | None = 0.01) -> PageLayer:
    return PageLayer(name, "Conv", 100, bits, 4, "high", "integers", planned=planned)


def planned(width: int | str) -> PlannedWidths:
    row = PlanRow(
        layers=("a", "b"),
        shape=(10, 10),
        channels=10,
        widths=("ternary", 4, 5, "float"),
        losses=(0.2, 0.01, 0.003, 0.0),
        damages=(0.2, 0.01, 0.003, 0.0),
        sizes=(25, 50, 63, 400),
    )
    table = PlanTable((row,), 0, 0, 0.0, 0.0, 21, True, 800, "probe", "images")
    return PlannedWidths(table, WeightPlan((width,), 0.01, 50, 4.0))  # type: ignore[arg-type]  # a width of the row


def test_one_step_less_and_one_more_are_from_the_table_of_the_plan() -> None:
    (found,) = with_steps([layer("b")], planned(4).rows)
    assert found.less == WidthStep("ternary", 0.2, -25)
    assert found.more == WidthStep("5", 0.003, 13)
    assert found.alike == ("a", "b")


@pytest.mark.parametrize(("width", "less", "more"), [("ternary", None, "4"), (5, "4", None)])
def test_at_the_ends_there_is_no_step(width: int | str, less: str | None, more: str | None) -> None:
    (found,) = with_steps([layer("a")], planned(width).rows)
    assert (found.less and found.less.bits, found.more and found.more.bits) == (less, more)


def test_without_a_plan_there_are_no_steps() -> None:
    (found,) = with_steps([layer("a")], ())
    assert found.less is found.more is None
    (other,) = with_steps([layer("c")], planned(4).rows)
    assert other.less is other.more is None and other.alike == ()


def test_without_errors_the_layers_are_the_places_with_their_planned_loss() -> None:
    (place,) = places_of([layer("a", planned=0.02)], None)
    assert place.effect == 0.02 and place.added is None


def test_blame_is_the_larger_of_weights_and_rounding_as_a_share_of_the_damage() -> None:
    suspects = (
        Suspect("weights", "t", "a", gain=0.3),
        Suspect("activation", "t", "a", gain=0.1),
        Suspect("weights", "u", "b", gain=-0.2),
    )
    found = Diagnosis(0.4, 4.0, LayerErrors((), 1, "images", 1), (), (), suspects, blamed=True)
    places = [Place("a", "Conv", tensor="t"), Place("b", "Conv", tensor="u"), Place("c", "Add", tensor="v")]
    assert [place.effect for place in with_blame(places, found)] == [pytest.approx(0.75), 0.0, None]
