"""Which networks an experiment runs on."""

from __future__ import annotations

import pytest

from tools.experiments import measure


def test_a_network_that_is_not_there_is_named_beside_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = measure.networks()["own"]
    monkeypatch.setattr(measure, "networks", lambda: {"own": own})
    assert list(measure.asked(["resnet20", "own"])) == [own]
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("resnet20: skipped")
