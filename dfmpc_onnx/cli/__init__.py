"""The command line."""

from dfmpc_onnx.cli.commands import main

__all__ = ["main"]
