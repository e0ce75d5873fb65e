"""Packages that only some commands need, and what installs them."""

from __future__ import annotations

import re
import tomllib

import pytest

from dfmpc_onnx.extras import EXTRAS, install_command
from tests.commands import ROOT


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_command_installs_what_the_package_declares(extra: str) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    names = [re.split(r"[^\w-]", requirement)[0] for requirement in declared[extra]]
    assert install_command(extra) == f"pip install {' '.join(names)}"
