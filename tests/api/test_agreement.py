"""Plans that are judged on images: what was asked for holds exactly."""

from __future__ import annotations

import types

import pytest

from dfmpc_onnx.api import agreement
from dfmpc_onnx.numerics.proportions import exact_interval
from dfmpc_onnx.pipeline.weight_plan import PlanRow, PlanTable

ROW = PlanRow(("conv1",), (8, 8), 8, (4, 8, "float"), (0.1, 0.01, 0.0), (0.1, 0.01, 0.0), (32, 64, 256))
TABLE = PlanTable((ROW,), 1000, 0, 0.0, 0.0, 25, True, 2000, "probe", "images")


def test_an_interval_that_only_rounds_to_what_was_asked_for_does_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = types.SimpleNamespace(agreeing=169, rows=172, agreement=100 * 169 / 172)
    assert 94.95 < 100 * exact_interval(found.agreeing, found.rows)[0] < 95
    monkeypatch.setattr(agreement, "compare", lambda *given: found)
    for name in ("Session", "as_model", "output_kinds"):
        monkeypatch.setattr(agreement, name, lambda *given, **named: ())
    judge = object.__new__(agreement.Judge)
    judge._want, judge.images = [], None  # type: ignore[assignment]
    judge._taken = types.SimpleNamespace(source=types.SimpleNamespace(model=None))  # type: ignore[assignment]
    judge._builder = types.SimpleNamespace(build_plan=lambda table, plan: None)  # type: ignore[assignment]
    _, entry, reached = judge.smallest(TABLE, 95.0, 0)
    assert not reached
    assert entry.interval is not None and entry.interval[0] == 94.9
    assert judge.smallest(TABLE, 94.9, 0)[2]
