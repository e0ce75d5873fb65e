"""What cases are drawn by: grammars by their names, and the corpus of what once failed."""

from __future__ import annotations

from collections.abc import Callable

from tools.fuzz import corpus
from tools.fuzz.architectures import drawn_architecture
from tools.fuzz.trial import Case, drawn, files

GRAPHS, ARCHITECTURES, CORPUS = "graphs", "architectures", "corpus"
GRAMMARS = (GRAPHS, ARCHITECTURES)
Draw = Callable[[int, int], Case]


def drawer(grammar: str) -> Draw:
    """What makes the case of a grammar from a seed and a number."""
    if grammar == ARCHITECTURES:
        return drawn_architecture
    if grammar == CORPUS:
        names = corpus.names()
        return lambda seed, number: corpus.read(names[number])
    sources = files()
    return lambda seed, number: drawn(seed, number, sources)
