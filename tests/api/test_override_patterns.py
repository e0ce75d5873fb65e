"""Overrides of single layers as patterns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.api.override_patterns import as_patterns
from dfmpc_onnx.pipeline.settings import LayerOverride


def bits_by(patterns: list[str], name: str) -> str | None:
    """What the last override that matches gives a layer."""
    parsed = [LayerOverride.parse(text) for text in patterns]
    return next((str(one.bits) for one in reversed(parsed) if one.matches(name)), None)


def test_the_usual_width_is_one_pattern_and_the_rest_follows() -> None:
    bits = {f"/f/{i}/conv.{j}/Conv": "8" if j else "6" for i in range(9) for j in range(3)} | {"/fc/Gemm": "5"}
    assert as_patterns(bits) == ["*=8", "/f/*/conv.0/Conv=6", "/fc/Gemm=5"]


def test_layers_that_are_to_stay_as_they_are_match_nothing() -> None:
    found = as_patterns({"a.1": "8", "a.2": "8", "a[3]": "8"}, ["a.0", "b"])
    assert [bits_by(found, name) for name in ("a.1", "a.2", "a[3]", "a.0", "b")] == ["8", "8", "8", None, None]


def test_of_no_layers_there_are_none() -> None:
    assert as_patterns({}) == []


NAMES = st.lists(st.text("ab/.[]*1", min_size=1, max_size=6), unique=True, max_size=12)


@given(NAMES, st.lists(st.sampled_from(["4", "6", "8"]), min_size=12, max_size=12), st.integers(0, 3))
def test_each_layer_gets_its_bits_and_no_other_gets_any(names: list[str], widths: list[str], kept: int) -> None:
    bits, others = dict(zip(names[kept:], widths, strict=False)), names[:kept]
    found = as_patterns(bits, others)
    assert {name: bits_by(found, name) for name in bits} == bits
    assert [bits_by(found, name) for name in others] == [None] * len(others)


@pytest.mark.parametrize("count", [70, 300])
def test_of_many_layers_there_are_few_patterns(count: int) -> None:
    bits = {f"/layer{i}/conv/Conv": "8" for i in range(count)} | {f"/layer{i}/conv2/Conv": "4" for i in range(count)}
    assert len(as_patterns(bits)) < 12
