"""Packages that only some commands need, and how to install what is missing."""

from __future__ import annotations

from collections.abc import Mapping

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "report": ("jinja2", "matplotlib"),
    "images": ("pillow",),
    "dask": ("distributed",),
    "learned": ("torch",),
}


def install_command(extra: str) -> str:
    """What installs an extra wherever dfmpc-onnx itself came from: an index, a clone, a wheel."""
    return f"pip install {' '.join(EXTRAS[extra])}"
