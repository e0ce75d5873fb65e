"""How Sphinx builds these pages: `python -m sphinx -W -b html docs build/docs`."""

from __future__ import annotations

import importlib.metadata
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The pages describe this checkout, whatever is installed.
sys.path[:0] = [str(ROOT), str(ROOT / "passes"), str(ROOT / "docs" / "_extensions")]

project = "dfmpc-onnx"
author = "the dfmpc-onnx contributors"
copyright = "the dfmpc-onnx contributors"
release = version = importlib.metadata.version("dfmpc-onnx")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinxcontrib.mermaid",
    "catalogue",
    "help_texts",
    "notebook",
    "parameters",
]
exclude_patterns = ["tables", "_extensions"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
myst_fence_as_directive = ["mermaid"]

smartquotes = False  # two hyphens begin an option
default_role = "code"  # docstrings quote code as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
toc_object_entries = False
maximum_signature_line_length = 80
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"dfmpc-onnx {release}"
html_static_path: list[str] = []
