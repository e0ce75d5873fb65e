"""What once failed is tried again, every case of it; and new cases find their way there."""

from __future__ import annotations

import pytest

from dfmpc_onnx import memory
from tests.graphs import ALL
from tools.fuzz import corpus
from tools.fuzz.trial import GOOD, Case, tried

CASE = Case("chain", "", ALL["chain"]().SerializeToString(), {"recipe": "int8", "layers": ("a=4",)}, 3.0, {}, (0,))


@pytest.mark.parametrize("name", corpus.names())
def test_what_once_failed_is_quantized_and_agrees_or_is_refused(name, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 6 << 30)  # of a case: tests run side by side
    with memory.limit_memory():
        found = tried(corpus.read(name))
    assert found.outcome in GOOD, f"{found.place}: {found.detail}"


def test_every_case_is_small_and_says_why_it_is_there():
    assert len(corpus.names()) >= 18
    for path in corpus.FOLDER.glob("*.onnx"):
        assert path.stat().st_size <= corpus.LARGEST
        assert '"why": "' in path.with_suffix(".json").read_text(encoding="utf-8")


def test_a_case_comes_back_as_it_was_kept(tmp_path):
    beside = {"images.npz": b"numbers", "model.onnx.data": b"weights"}
    case = Case(CASE.kind, "mine", CASE.model, {**CASE.options, "images": "images.npz"}, None, beside, (0, 2))
    corpus.keep(case, "mine", "why", tmp_path)
    assert corpus.names(tmp_path) == ["mine"]
    assert corpus.read("mine", tmp_path) == case


def test_names_are_taken_once_and_large_models_not_at_all(tmp_path):
    corpus.keep(CASE, "mine", "why", tmp_path)
    with pytest.raises(ValueError, match="is there already"):
        corpus.keep(CASE, "mine", "why", tmp_path)
    large = Case("", "", b"0" * (corpus.LARGEST + 1), {}, None)
    with pytest.raises(ValueError, match="build the fault smaller"):
        corpus.keep(large, "large", "why", tmp_path)
    assert corpus.names(tmp_path) == ["mine"]


def test_a_field_that_nobody_reads_is_an_error(tmp_path):
    corpus.keep(CASE, "mine", "why", tmp_path)
    path = tmp_path / "mine.json"
    path.write_text(path.read_text().replace('"kind"', '"kinds"'))
    with pytest.raises(ValueError, match=r"mine.json: kinds: not known"):
        corpus.read("mine", tmp_path)
