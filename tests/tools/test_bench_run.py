import json

import pytest

from tools.bench import run
from tools.bench.run import Cost, Row

SLOW, FAST = Cost(4.0, 200_000_000, 1000, 20.0), Cost(1.0, 100_000_000, 1010, 19.5)


def test_the_ratio_is_the_median_of_the_pairs():
    """Two runs beside each other share what else the machine does; the first and the last do not."""
    here = (Cost(1.0, 1, 1, None), Cost(20.0, 1, 1, None), Cost(3.0, 1, 1, None))
    there = (Cost(2.0, 1, 1, None), Cost(40.0, 1, 1, None), Cost(4.0, 1, 1, None))
    assert Row("net", here, there).ratio == pytest.approx(0.5)


def test_the_table_holds_medians_and_ratios():
    text = run.table([Row("net", (FAST,), (SLOW,)), Row("other", (Cost(1.0, 1, 1, None),), (Cost(1.0, 1, 1, None),))])
    _, _, first, second = text.splitlines()
    assert first == "| net | 1.0 | 0.25 | 100 | 0.50 | 1010 | 1.010 | 19.5 | 20.0 |"
    assert second == "| other | 1.0 | 1.00 | 0 | 1.00 | 1 | 1.000 |  |  |"


def test_networks_are_converted_in_pairs_and_written_down(monkeypatch, tmp_path, capsys):
    asked = []

    def convert(tree, model, recipe):
        asked.append((tree == run.ROOT, model.stem, recipe))
        return FAST if tree == run.ROOT else SLOW

    monkeypatch.delenv("DFMPC_DATA", raising=False)
    monkeypatch.setattr(run, "convert", convert)
    monkeypatch.setattr(run, "_git", lambda *arguments: "abc1234")
    run.main(["--against", "HEAD", "--only", "resnet20", "--runs", "2", "--folder", str(tmp_path)])
    assert asked == [(True, "resnet20_cifar10", "mixed"), (False, "resnet20_cifar10", "mixed")] * 2
    found = json.loads((tmp_path / "abc1234.json").read_text())
    assert found["against"] == "abc1234" and found["rows"][0]["ratio"] == 0.25
    assert len(found["rows"][0]["here"]) == 2
    assert "| resnet20_cifar10 | 1.0 | 0.25 |" in capsys.readouterr().out


def test_a_network_is_converted_by_the_command_line():
    cost = run.convert(run.ROOT, run.ROOT / "models" / "plain_cifar10.onnx", "paper")
    assert cost.seconds > 0.1 and cost.peak > 10_000_000
    assert 0 < cost.size < (run.ROOT / "models" / "plain_cifar10.onnx").stat().st_size and cost.sqnr is not None
