"""The boxes that a detector finds, and how many of them another network finds again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.graph.output_branches import ScoreChannels
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.boxes import confident_boxes, crossed_corners, found_again

# Of centre, width and height taken as corners far more places cross, since most boxes are smaller than their distance
# from the image's edge; of corners almost none.
CROSSED_OF_CENTRES = 0.1


class BoxAnswers:
    """What an output comes to whose channels are four of a box and scores of classes, by the graph.

    Whether these four are corners is decided once, by all places of the reference; until all have come, both ways are
    counted.
    """

    def __init__(self, scores: ScoreChannels) -> None:
        self._tallies = {False: [0, 0], True: [0, 0]}  # found, of how many; where the four are centre and size
        self._crossed = self._places = 0
        self._channels = scores

    @property
    def result(self) -> tuple[int, int]:
        """How many boxes of the reference the other network found again, of how many."""
        found, count = self._tallies[self._crossed > CROSSED_OF_CENTRES * self._places]
        return found, count

    def add(self, want: npt.NDArray[np.generic], got: npt.NDArray[np.generic]) -> None:
        """The same images of both networks, ``[n, channels, places]`` or ``[n, places, channels]``."""
        if want.shape != got.shape or want.ndim != 3 or not {want.dtype.kind, got.dtype.kind} <= {"f"}:
            return
        if want.shape[self._channels.axis] != len(self._channels.scores):
            return  # the shapes that the graph states are not what comes out
        for a, b in zip(want, got, strict=True):
            both = [self._parts(out) for out in (a, b)]
            self._crossed += crossed_corners(both[0][0])
            self._places += len(both[0][0])
            for centred, tally in self._tallies.items():
                with np.errstate(invalid="ignore"):
                    first, second = (confident_boxes(*parts, centred=centred) for parts in both)
                    tally[0] += found_again(first, second)
                tally[1] += len(first.classes)

    def _parts(self, out: npt.NDArray[np.generic]) -> tuple[Float, Float]:
        """Places and scores of one image."""
        table = out.astype(np.float64) if self._channels.axis == 2 else out.T.astype(np.float64)
        scores = self._channels.scores
        return table[:, ~scores], np.nan_to_num(table[:, scores])

    @classmethod
    def of(cls, scores: ScoreChannels | None) -> BoxAnswers | None:
        """None where the channels beside the scores are no box."""
        usable = scores is not None and int((~scores.scores).sum()) == 4 and scores.axis in (1, 2)
        return cls(scores) if usable and scores is not None else None
