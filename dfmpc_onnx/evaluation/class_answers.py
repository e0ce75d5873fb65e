"""The answers of two classifiers, row by row: of how many the class is the same, and how far the scores are apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.changed_answers import ScoreSums

SUM_TO_1 = 1e-2  # probabilities in low precision
LEAST_PROBABILITY = 1e-7


class ClassAnswers:
    """What one output comes to as a vector of class scores for each row, or as one label for each row.

    rows: how many there were; agreeing: of how many the answer is the same. classes: of scores, 0 of labels.
    answers: of both networks, row by row.
    """

    def __init__(self) -> None:
        self.classes = 0
        self.answers: tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.int64]]] = ([], [])
        self._sums: ScoreSums | None = None
        self._probabilities = False
        self._usable = True

    @property
    def usable(self) -> bool:
        """Whether every value that came was a table of scores, or a column of labels."""
        return self._usable and bool(self.answers[0])

    @property
    def tangent(self) -> float | None:
        """As of `ScoreSums`; None of labels."""
        return None if self._sums is None else self._sums.tangent

    def check_labels(self, y: npt.NDArray[np.int64], label: str) -> None:
        """Raise ModelError where labels are of more classes than there are scores. label: of the network."""
        if 0 < self.classes <= int(y.max()):
            raise ModelError(
                f"{label}: labels run to {int(y.max())}, and the model has {self.classes} classes; give images of its "
                "own classes, or leave the labels out"
            )

    def joined(self) -> list[npt.NDArray[np.int64]]:
        """The answers of both networks, ``[rows]`` each."""
        return [np.concatenate(part) for part in self.answers]

    def same(self) -> npt.NDArray[np.bool_]:
        """Of each row whether the answer is the same."""
        want, got = self.joined()
        same: npt.NDArray[np.bool_] = want == got
        return same

    def add(self, want: npt.NDArray[np.generic], got: npt.NDArray[np.generic]) -> None:
        """The same rows of both networks, of one shape."""
        if not self._usable:
            return
        tables = [_table(out) for out in (want, got)]
        if tables[0] is None or tables[1] is None or (self.answers[0] and self.classes != _classes(tables[0])):
            self._usable = False
            return
        self.classes = _classes(tables[0])
        for part, table in zip(self.answers, tables, strict=True):
            assert table is not None
            part.append(table.argmax(axis=1).astype(np.int64) if self.classes else table.astype(np.int64))
        if self.classes:
            self._measure(tables[0].astype(np.float64), tables[1].astype(np.float64))

    def _measure(self, want: Float, got: Float) -> None:
        if self._sums is None:
            self._sums = ScoreSums(self.classes)
            self._probabilities = bool((want >= 0).all() and np.allclose(want.sum(axis=1), 1, atol=SUM_TO_1))
        if self._probabilities:  # scores in front of the Softmax, but for a constant of each row
            want, got = (np.log(np.maximum(table, LEAST_PROBABILITY)) for table in (want, got))
        with np.errstate(invalid="ignore", over="ignore"):
            self._sums.add(want, got)


def _table(out: npt.NDArray[np.generic]) -> npt.NDArray[np.generic] | None:
    """Scores ``[rows, classes]`` or labels ``[rows]``; None where an output is neither."""
    if any(size != 1 for size in out.shape[2:]) or not out.ndim:
        return None
    if out.dtype.kind in "iu" and out.size == len(out):
        return out.reshape(-1)
    if out.dtype.kind == "f" and out.ndim >= 2 and out.shape[1] >= 2:
        return out.reshape(out.shape[:2])
    return None


def _classes(table: npt.NDArray[np.generic]) -> int:
    return table.shape[1] if table.ndim == 2 else 0
