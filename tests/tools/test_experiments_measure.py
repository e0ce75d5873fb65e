"""Which networks an experiment runs on."""

from __future__ import annotations

import pytest

from tools.experiments.measure import asked


def test_a_network_that_is_not_there_is_named_beside_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DFMPC_DATA", raising=False)
    assert [network.label for network in asked(["resnet20", "own"])] == ["ResNet-20 (models/)"]
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("resnet20: skipped")
