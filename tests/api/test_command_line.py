"""The command line that a report names."""

from __future__ import annotations

from dfmpc_onnx.api.command_line import command_line, typed


def test_the_command_line_is_known_within_the_block_alone() -> None:
    with typed(["quantize", "my model.onnx", "-o", "out.onnx"]):
        assert command_line() == "dfmpc-onnx quantize 'my model.onnx' -o out.onnx"
    assert command_line() == ""
