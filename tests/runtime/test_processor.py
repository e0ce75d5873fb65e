"""Which machine this is, as a report names it."""

from __future__ import annotations

import pathlib
import platform
from collections.abc import Iterator

import pytest

from dfmpc_onnx.runtime import processor


@pytest.fixture(autouse=True)
def looked_up_anew() -> Iterator[None]:
    processor.processor_name.cache_clear()
    yield
    processor.processor_name.cache_clear()


def test_the_processor_is_named_by_its_maker(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nprocessor\t: 1\nmodel name\t: Other\n")
    monkeypatch.setattr(processor, "CPU_FACTS", facts)
    assert processor.processor_name() == "Some CPU @ 2 GHz"
    assert processor.machine_name().startswith("Some CPU @ 2 GHz, ")


def test_elsewhere_it_is_named_by_its_architecture(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(processor, "CPU_FACTS", tmp_path / "none")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert processor.processor_name() == "riscv64"
