"""The commands by name, wherever they are defined: what the pages in docs/commands/ ask sphinx-click for."""

from __future__ import annotations

import click

from dfmpc_onnx.cli import main


def __getattr__(name: str) -> click.Command:
    if name in main.commands:
        return main.commands[name]
    raise AttributeError(f"no command is called {name}")
