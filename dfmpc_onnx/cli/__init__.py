"""The command line."""

try:
    from dfmpc_onnx.cli.commands import main
except KeyboardInterrupt:  # before there is anything to clean up, and no place yet that would say so in one line
    raise SystemExit(130) from None

__all__ = ["main"]
