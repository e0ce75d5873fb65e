"""``python -m dfmpc_onnx`` is the command line."""

from dfmpc_onnx.cli import main

main(prog_name="dfmpc-onnx")
