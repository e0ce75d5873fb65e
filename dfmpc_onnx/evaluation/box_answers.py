"""The boxes that a detector finds, and how many of them another network finds again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.graph.output_branches import ScoreChannels
from dfmpc_onnx.numerics.boxes import Boxes, confident_boxes, found_again


class BoxAnswers:
    """What an output comes to whose channels are four of a box and scores of classes, by the graph.

    found: how many boxes of the reference the other network found again, of how many (`count`).
    """

    def __init__(self, scores: ScoreChannels) -> None:
        self.found = self.count = 0
        self._channels = scores

    def add(self, want: npt.NDArray[np.generic], got: npt.NDArray[np.generic]) -> None:
        """The same images of both networks, ``[n, channels, places]`` or ``[n, places, channels]``."""
        if want.shape != got.shape or want.ndim != 3 or not {want.dtype.kind, got.dtype.kind} <= {"f"}:
            return
        for a, b in zip(want, got, strict=True):
            both = [self._boxes(out) for out in (a, b)]
            self.count += len(both[0].classes)
            self.found += found_again(*both)

    def _boxes(self, out: npt.NDArray[np.generic]) -> Boxes:
        table = out.astype(np.float64) if self._channels.axis == 2 else out.T.astype(np.float64)
        scores = self._channels.scores
        with np.errstate(invalid="ignore"):
            return confident_boxes(table[:, ~scores], np.nan_to_num(table[:, scores]))

    @classmethod
    def of(cls, scores: ScoreChannels | None) -> BoxAnswers | None:
        """None where the channels beside the scores are no box."""
        usable = scores is not None and int((~scores.scores).sum()) == 4 and scores.axis in (1, 2)
        return cls(scores) if usable and scores is not None else None
