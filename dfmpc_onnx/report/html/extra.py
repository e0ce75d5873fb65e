"""What the HTML report needs beyond the package: asked for before anything long begins."""

from __future__ import annotations

import importlib.util

from dfmpc_onnx.errors import OptionError

NEEDED = ("jinja2", "matplotlib")


def require_report_extra() -> None:
    """Raise OptionError where what draws and writes the HTML report is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionError(f"the HTML report needs {' and '.join(missing)}; pip install 'dfmpc-onnx[report]'")
