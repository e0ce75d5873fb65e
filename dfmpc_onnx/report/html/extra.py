"""What the HTML report needs beyond the package: asked for before anything long begins."""

from __future__ import annotations

import importlib

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.extras import EXTRAS, install_command

OF_REPORT = "report"


def require_report_extra() -> None:
    """Raise OptionError where what writes the HTML report is not installed, or broken."""
    missing = []
    for name in EXTRAS[OF_REPORT]:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise OptionError(f"the HTML report needs {' and '.join(missing)}; {install_command(OF_REPORT)}")
