"""An HTML page as its elements, and a network whose names are meant to do harm in one."""

from __future__ import annotations

import dataclasses
import html.parser

import onnx

from tests import graphs

VOID = {"meta", "img", "br", "link", "wbr"}
HARMFUL = {
    "conv1": "<script>window.harm=1</script>",
    "conv2": '"><img src=x onerror="window.harm=2">',
    "conv3": "{{ 7 * 7 }} $x_{1}$ </svg></style>",
    "gemm1": "a\x1b[31m\u202eb\nc&amp;d",
}


@dataclasses.dataclass
class Element:
    """An element, what it holds, and all text in it."""

    tag: str
    attributes: dict[str, str | None]
    parts: list[Element | str] = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)

    @property
    def children(self) -> list[Element]:
        return [part for part in self.parts if isinstance(part, Element)]

    def all(self, tag: str) -> list[Element]:
        found = [self] if self.tag == tag else []
        return found + [element for child in self.children for element in child.all(tag)]

    def every(self) -> list[Element]:
        return [self] + [element for child in self.children for element in child.every()]


class Page(html.parser.HTMLParser):
    """Reads a page and notes what is closed that was not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("document", {})
        self.mistakes: list[str] = []
        self._open = [self.root]
        self.feed(text)
        self.mistakes += [f"<{element.tag}> stays open" for element in self._open[1:]]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self._open[-1].parts.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].parts.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self._open[-1].tag == tag:
            self._open.pop()
        else:
            self.mistakes.append(f"</{tag}> within <{self._open[-1].tag}>")

    def handle_data(self, data: str) -> None:
        self._open[-1].parts.append(data)


def harmful_model() -> onnx.ModelProto:
    """A small network whose layers have names of `HARMFUL`."""
    model = graphs.chain()
    for node in model.graph.node:
        node.name = HARMFUL.get(node.name, node.name)
    return model
