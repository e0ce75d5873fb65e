"""What the Tab key offers."""

from __future__ import annotations

import pytest

from tests.commands import program


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("quan", "quantize"),
        ("quantize --recipe cl", "closed-form"),
        ("quantize --recipe IN", "int8"),
        ("quantize --target ten", "tensorrt"),
        ("plan --preprocess im", "imagenet"),
        ("verify --provider C", "CPU"),
        ("passes comp", "compensate"),
        ("recipes per", "per-channel"),
        ("quantize --max-la", "--max-latency"),
    ],
)
def test_names_that_the_package_knows_are_offered(words: str, offered: str) -> None:
    count = len(words.split())
    result = program(_DFMPC_ONNX_COMPLETE="bash_complete", COMP_WORDS=f"dfmpc-onnx {words}", COMP_CWORD=str(count))
    assert offered in [line.partition(",")[2] for line in result.stdout.splitlines()], result
