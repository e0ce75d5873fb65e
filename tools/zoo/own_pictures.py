"""Pictures of what a model is for: text, faces, or lines that a text detector has found in the text."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.evaluation.fidelity import outputs
from dfmpc_onnx.inputs.files import read_images
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.runtime.session import Session
from tools.zoo.detection import detections

Bytes = npt.NDArray[np.uint8]
FOLDERS = ("text", "faces")
LINES = "lines"
TILE = (1, 3, 320, 320)
BEST = 6  # boxes of a tile, the surest first, that lines are cut from
MOST_LINES = 120
LOWEST = 8  # pixels of a line that can be read
GREY = 127  # beside a line, as where readers are trained


@dataclasses.dataclass(frozen=True)
class OwnPictures:
    """What tools/data/fetch_pictures.py has put into a folder. detector, preprocess: a float text detector, if there
    is."""

    folder: pathlib.Path
    detector: pathlib.Path | None = None
    preprocess: str = "imagenet"

    def missing(self) -> list[str]:
        """The folders that are not there."""
        return [name for name in FOLDERS if not (self.folder / name).is_dir()]

    def inputs(self, kind: str, shape: tuple[int, ...], preprocess: Preprocess) -> npt.NDArray[np.float32] | None:
        """Pictures as a network takes them. kind: text, faces or lines; None for lines where nothing finds any."""
        if kind != LINES:
            return read_images(self.folder / kind, shape, preprocess).x
        height, width = shape[2:]
        lines = [line for tile, boxes in self.found for line in cut(tile, boxes, height, width)]
        if not lines:
            return None
        kept = np.stack(lines[:: -(-len(lines) // MOST_LINES)])
        return np.ascontiguousarray(preprocess(kept).transpose(0, 3, 1, 2))

    @functools.cached_property
    def found(self) -> list[tuple[Bytes, npt.NDArray[np.float64]]]:
        """Every tile of text, ``[height, width, 3]``, with the boxes on it that the detector is surest of."""
        if self.detector is None:
            return []
        raw = read_images(self.folder / "text", TILE, Preprocess.parse("raw")).x
        tiles = raw.transpose(0, 2, 3, 1).astype(np.uint8)
        x = np.ascontiguousarray(Preprocess.parse(self.preprocess)(tiles).transpose(0, 3, 1, 2))
        boxes = detections("text", outputs(Session(self.detector), x))
        return [(tile, found.corners[:BEST]) for tile, found in zip(tiles, boxes, strict=True)]


def cut(tile: Bytes, boxes: npt.NDArray[np.float64], height: int, width: int) -> list[Bytes]:
    """The lines within boxes, ``[height, width, 3]`` each.

    A box is half its height larger on every side, since a detector marks the core of the letters. A line keeps its
    proportions: of one that is longer than the width its beginning is taken, and beside a shorter one there is grey.
    """
    from PIL import Image

    lines = []
    for left, top, right, bottom in boxes.astype(int):
        margin = (bottom - top) // 2
        part = tile[max(top - margin, 0) : bottom + margin, max(left - margin, 0) : right + margin]
        if part.shape[0] < LOWEST or part.shape[1] < part.shape[0]:
            continue
        part = part[:, : max(part.shape[0] * width // height, 1)]
        across = min(round(part.shape[1] * height / part.shape[0]), width)
        line = np.full((height, width, 3), GREY, np.uint8)
        line[:, :across] = np.asarray(Image.fromarray(part).resize((across, height), Image.Resampling.BILINEAR))
        lines.append(line)
    return lines
