"""A target is one description: every rule has a source, and strangers add theirs by entry point."""

from __future__ import annotations

import importlib.metadata
import json

import msgspec
import pytest

import dfmpc_onnx
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.pipeline import targets as registry
from dfmpc_onnx.pipeline.target_rules import RULES, RuleSource, Target, sources_with, without_source
from dfmpc_onnx.pipeline.targets import TARGET_ENTRY_POINT, TARGETS, parse_target, targets
from dfmpc_onnx.report.target_text import RULE_LABELS
from tests import graphs
from tests.commands import dfmpc

CPU = TARGETS["cpu"]
NPU = msgspec.structs.replace(
    CPU, name="npu", sources=sources_with(CPU, RuleSource(("static_shapes",), "A guide")), static_shapes=True
)
SECOND_CPU = msgspec.structs.replace(CPU, name="cpu")
GUESSED = msgspec.structs.replace(CPU, name="guessed", sources=())
NO_TARGET = "npu"


@pytest.fixture
def stranger(monkeypatch):
    """Makes an entry point of another distribution known."""

    def install(value, name="npu"):
        points = importlib.metadata.EntryPoints([importlib.metadata.EntryPoint(name, value, TARGET_ENTRY_POINT)])
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda **query: points.select(**query))
        registry.targets.cache_clear()

    yield install
    monkeypatch.undo()
    registry.targets.cache_clear()


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_rule_has_one_source_and_every_target_says_where_it_was_run(target: Target) -> None:
    assert not without_source(target)
    stated = [rule for source in target.sources for rule in source.rules]
    assert sorted(stated) == sorted(RULES), "a rule with two sources, or a source of no rule"
    assert target.ran and target.takes and target.summary
    assert all(source.title and (source.url.startswith("https://") or not source.url) for source in target.sources)


def test_a_rule_of_a_target_is_read_only() -> None:
    with pytest.raises(AttributeError):
        CPU.bias = "float"


def test_every_rule_has_words() -> None:
    assert set(RULE_LABELS) == set(RULES)


def test_a_strangers_target_stands_beside_ours(stranger) -> None:
    stranger(f"{__name__}:NPU")
    assert parse_target("NPU") is NPU
    assert list(targets()) == [*TARGETS, "npu"]
    made = dfmpc_onnx.quantize(graphs.chain(), None, "per-channel", target="npu", check=False)
    assert made.report.target == "npu"
    assert "npu" in dfmpc("targets").stdout and "A guide" in dfmpc("targets", "npu").stdout


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("SECOND_CPU", "'cpu' is taken"),
        ("GUESSED", "no source for activations, activation_bits"),
        ("NO_TARGET", "is no dfmpc_onnx.Target"),
        ("MISSING", "cannot be imported (AttributeError"),
    ],
)
def test_what_cannot_be_a_target_is_named_with_its_origin(stranger, value: str, said: str) -> None:
    stranger(f"{__name__}:{value}")
    with pytest.raises(OptionError, match=r"^entry point npu of an unknown distribution: ") as refused:
        targets()
    assert said in str(refused.value)
    shown = dfmpc("targets")
    assert shown.exit_code == 2 and said.partition(" (")[0] in shown.stderr


def test_a_target_without_the_source_of_a_rule_keeps_the_other_ones() -> None:
    kept = {rule: source.title for source in NPU.sources for rule in source.rules}
    assert kept["static_shapes"] == "A guide" and set(kept) == set(RULES)
    assert len([rule for source in NPU.sources for rule in source.rules]) == len(RULES)


@pytest.mark.parametrize("name", [None, *TARGETS])
def test_targets_are_printed_in_80_columns(name: str | None) -> None:
    said = dfmpc("targets", *filter(None, [name]), COLUMNS="80")
    assert said.exit_code == 0
    assert max(len(line) for line in said.stdout.splitlines() if "https://" not in line) <= 80


def test_a_list_of_very_many_operators_is_counted_on_the_terminal_and_whole_in_json() -> None:
    said = " ".join(dfmpc("targets", "qnn", COLUMNS="80").stdout.split())
    operators = json.loads(dfmpc("targets", "qnn", "--json").stdout)["operators"]
    assert f"{len(operators)} operators, {operators[0]} to {operators[-1]}; --json names each" in said
    assert "GroupNormalization" in operators and "GroupNormalization" not in said


def test_json_holds_every_rule_of_a_target_and_of_all() -> None:
    one = json.loads(dfmpc("targets", "tensorrt", "--json").stdout)
    assert one["activation_type"] == "int8" and set(RULES) <= set(one)
    every = json.loads(dfmpc("targets", "--json").stdout)
    assert [target["name"] for target in every["targets"]] == list(targets())


def test_a_name_that_is_near_is_suggested() -> None:
    said = dfmpc("targets", "tensor")
    assert said.exit_code == 2 and "did you mean tensorrt?" in said.stderr
