"""The directive ``notebook``: the cells of a Jupyter notebook with the outputs that it holds, as a page."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def cell_lines(cells: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown of cells; the title, which the page has, is left out. They begin with a section."""
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield from (line for line in text.splitlines() if not line.startswith("# "))
        else:
            yield from ("```python", *text.splitlines(), "```")
            for output in cell["outputs"]:
                yield from ("```text", *"".join(output["text"]).splitlines(), "```")
        yield ""


class Notebook(SphinxDirective):
    """``{notebook} PATH``, beside the page."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        path, absolute = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        cells = json.loads(pathlib.Path(absolute).read_text(encoding="utf-8"))["cells"]
        return self.parse_text_to_nodes("\n".join(cell_lines(cells)), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("notebook", Notebook)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
