"""What learned images are asked for, by the papers that asked for it. No PyTorch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import OptionError, did_you_mean
from dfmpc_onnx.numerics.arrays import Float32

UNLABELLED = "give --learn zeroq or dsg"  # where a network has no classes
SLACK_SHARE = 0.9  # epsilon of Zhang et al. 2021: their default, and the best of those that they compare


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimized over the images.

    source: the paper. each_image: statistics image by image, not over a batch. slack: the share of the gaps of
    Gaussian images below which a gap costs nothing; None for no slack. enhanced: whether one layer counts double for
    each image, another for each. labels: whether each image is to show a class, by cross-entropy.
    """

    name: str
    source: str
    each_image: bool = False
    slack: float | None = None
    enhanced: bool = False
    labels: bool = False


OBJECTIVES: Mapping[str, Objective] = {
    entry.name: entry
    for entry in (
        Objective("zeroq", "Cai et al. 2020, ZeroQ"),
        Objective("dsg", "Zhang et al. 2021, DSG", each_image=True, slack=SLACK_SHARE, enhanced=True),
        Objective(
            "dsg-labelled",
            "the authors' code of DSG, which asks for labels, too",
            each_image=True,
            slack=SLACK_SHARE,
            enhanced=True,
            labels=True,
        ),
        Objective("labelled", "Lee et al. 2021, data-free mixed precision", labels=True),
    )
}


def find_objective(name: str) -> Objective:
    """An objective by name, in any case; raises OptionError."""
    found = OBJECTIVES.get(name.strip().lower())
    if found is None:
        near = did_you_mean(name, OBJECTIVES)
        raise OptionError(f"learn '{name}': no such objective{near}; give {', '.join(OBJECTIVES)}")
    return found


def enhancement(images: int, layers: int, *, enhanced: bool) -> Float32:
    """``[images, layers]``: what a layer weighs for an image. All ones, plus the identity where it is enhanced.

    Zhang et al. 2021 (DSG), Layerwise Sample Enhancement: ``X = I + 1 1^T`` of as many images as layers, and the loss
    is the sum of ``X`` times the layers' losses over the number of images. Image j of more takes layer j modulo their
    number. The authors' code doubles what a layer is off by before it is squared, which weighs 4.
    """
    weights = np.ones((images, layers), np.float32)
    if enhanced and layers:
        weights[np.arange(images), np.arange(images) % layers] += 1
    return weights


def balanced_labels(count: int, classes: int, seed: int) -> npt.NDArray[np.int64]:
    """A class for each image: all classes in a shuffled order, again from the start where images are more."""
    generator = np.random.default_rng(seed)
    rounds = [generator.permutation(classes) for _ in range(-(-count // classes))]
    return np.concatenate(rounds)[:count].astype(np.int64)
