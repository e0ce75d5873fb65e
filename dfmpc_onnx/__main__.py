"""``python -m dfmpc_onnx`` is the command line."""

try:
    from dfmpc_onnx.cli import main
except KeyboardInterrupt:  # before there is anything to clean up, and no place yet that would say so in one line
    raise SystemExit(130) from None

main(prog_name="dfmpc-onnx")
