"""How far a run has come: which of how many steps, from what passes and the layers within them tell."""

from __future__ import annotations

from collections.abc import Callable

ProgressReport = Callable[[int, int, str], None]  # done, total, what is at work now


def no_report(done: int, total: int, name: str) -> None:
    """Nobody wants to know."""


class Progress:
    """Counts steps, and reports each as it begins: how many are done, of how many, and its name.

    A pass is a step; one that treats layer by layer is as many more as there are layers. The total is an estimate
    that follows what is found out: it is never below what is done, and `done` never falls.
    """

    def __init__(self, report: ProgressReport | None = None) -> None:
        self._report = report or no_report
        self._done = 0
        self._left = 0  # steps that are still expected
        self._name, self._layers, self._layer = "", 0, 0

    def expect(self, steps: int) -> None:
        """So many steps more will come."""
        self._left += steps

    def begin(self, name: str, layers: int = 0) -> None:
        """A step begins. layers: how many it will treat one by one, which are expected already."""
        self._skip_layers()
        self._name, self._layers, self._layer = name, layers, 0
        self._step(name)

    def layer(self, name: str) -> None:
        """The step comes to a layer."""
        self._layer += 1
        of = f"layer {self._layer} of {max(self._layers, self._layer)}"
        self._step(f"{self._name}, {of}: {name}", expected=self._layer <= self._layers)

    def note(self, text: str) -> None:
        """What the step is at, where nobody knows how long it will take."""
        self._report(self._done, self._done + self._left, text)

    def end(self) -> None:
        """All is done."""
        self._left = 0
        self._report(self._done, self._done, "")

    def _step(self, name: str, *, expected: bool = True) -> None:
        self._report(self._done, max(self._done + self._left, self._done + 1), name)
        self._done += 1
        if expected:
            self._left = max(self._left - 1, 0)

    def _skip_layers(self) -> None:
        """Layers that a step did not come to, such as those that share a weight, count as done."""
        missed = max(self._layers - self._layer, 0)
        self._done, self._left = self._done + missed, max(self._left - missed, 0)
        self._layers = self._layer = 0
