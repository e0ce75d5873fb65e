"""Images moved by gradient until a network's BatchNormalizations see in them what they saw in training."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.learning.batch_norm_match import MeasuredLayer, SlackWidths, distance, matching_loss, slack_of
from dfmpc_onnx.learning.network import TorchNetwork
from dfmpc_onnx.learning.objectives import UNLABELLED, Objective, enhancement
from dfmpc_onnx.learning.starting_images import Starting
from dfmpc_onnx.learning.torch_import import Tensor
from dfmpc_onnx.numerics.arrays import Float32

Labels = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How images are learned. at_once: how many in a batch. learning_rate: of Adam, in units of what images vary by."""

    steps: int
    learning_rate: float
    at_once: int


@dataclasses.dataclass(frozen=True)
class Learned:
    """Images as the network takes them, and how learning went.

    losses: of each step, the mean over the batches. before, after: by layer, as `distance` gives it.
    """

    x: Float32
    losses: tuple[float, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Images, what each layer weighs for each of them, and what they are to show."""

    x: Tensor
    weights: Tensor
    labels: Tensor


class Learner:
    """Learns the images of one network, batch after batch."""

    def __init__(
        self,
        network: TorchNetwork,
        layers: Sequence[MeasuredLayer],
        scores: str | None,
        objective: Objective,
        schedule: Schedule,
        device: str,
    ) -> None:
        """network: gives the tensors of the layers and that of the scores. scores: where the objective has labels."""
        self._network, self._layers, self._scores = network, layers, scores
        self._objective, self._schedule, self._device = objective, schedule, device

    def learn(self, start: Starting, labels: Labels | None, tell: Callable[[int, float], None]) -> Learned:
        """All images. labels: the class that each is to show. tell: called before each step with its number, over all
        batches, and the latest loss.

        Raises ModelError where the network cannot be followed, or the loss is no number.
        """
        slacks = self._slacks(start.gaussian)
        weights = enhancement(len(start.x), len(self._layers), enhanced=self._objective.enhanced)
        made, losses, before, after = [], [], [], []
        for index, chosen in enumerate(self._batches(len(start.x))):
            batch = _Batch(
                _channels_inmost(self._tensor(start.x[chosen])),
                self._tensor(weights[chosen]),
                None if labels is None else torch.from_numpy(labels[chosen]).to(self._device),
            )
            batch.x.requires_grad_(True)
            begin = functools.partial(_later, tell, index * self._schedule.steps)
            before.append(self._distance(batch.x))
            losses.append(self._steps(batch, start, slacks, begin))
            after.append(self._distance(batch.x))
            made.append(batch.x.detach().cpu().contiguous().numpy())
        return Learned(np.concatenate(made), _means(losses), _means(before), _means(after))

    def batches(self, count: int) -> int:
        """In how many batches so many images are learned."""
        return -(-count // self._schedule.at_once)

    def _batches(self, count: int) -> Iterator[slice]:
        """Of about one size: a batch of one image would have other statistics than the others."""
        parts = self.batches(count)
        ends = [round(count * part / parts) for part in range(parts + 1)]
        for begin, end in itertools.pairwise(ends):
            yield slice(begin, end)

    def _tensor(self, values: Float32) -> Tensor:
        return torch.from_numpy(np.array(values, np.float32)).to(self._device)

    def _slacks(self, gaussian: Float32) -> Sequence[SlackWidths]:
        share = self._objective.slack
        if share is None:
            return [SlackWidths()] * len(self._layers)
        with torch.no_grad():
            return slack_of(self._network(self._tensor(gaussian)), self._layers, share)

    def _distance(self, x: Tensor) -> tuple[float, ...]:
        with torch.no_grad():
            return distance(self._network(x), self._layers)

    def _steps(
        self, batch: _Batch, start: Starting, slacks: Sequence[SlackWidths], begin: Callable[[int, float], None]
    ) -> list[float]:
        """Move a batch; returns the loss before each step. The rate falls to 0 as a cosine does."""
        schedule = self._schedule
        rate = schedule.learning_rate * start.deviation
        adam = torch.optim.Adam([batch.x], lr=rate)
        low, high = (None if bound is None else self._tensor(bound) for bound in (start.low, start.high))
        losses: list[float] = []
        for step in range(schedule.steps):
            begin(step, losses[-1] if losses else math.nan)
            adam.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / schedule.steps))
            adam.zero_grad()
            loss = self._loss(batch, slacks)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise ModelError(f"learned images: the loss is no number at step {step}; lower --learning-rate")
            self._move(adam, loss)
            if low is not None and high is not None:
                with torch.no_grad():
                    batch.x.clamp_(low, high)
        return losses

    def _move(self, adam: torch.optim.Adam, loss: Tensor) -> None:
        if not loss.requires_grad:  # nothing that is compared depends on the images
            return
        try:
            loss.backward()
        except RuntimeError as error:
            if "memory" in str(error).lower():
                raise self._network.out_of_memory() from None
            raise
        adam.step()

    def _loss(self, batch: _Batch, slacks: Sequence[SlackWidths]) -> Tensor:
        taps = self._network(batch.x)
        loss = matching_loss(taps, self._layers, slacks, batch.weights, each_image=self._objective.each_image)
        if batch.labels is None or self._scores is None:
            return loss
        return loss + label_loss(taps[self._scores], batch.labels)


def class_count(network: TorchNetwork, scores: str, x: Float32, device: str) -> int:
    """How many classes a network tells apart: the entries of a tensor for each image. Raises ModelError.

    x: a batch. Nothing but one vector of at least two scores an image can be labelled.
    """
    with torch.no_grad():
        shape = tuple(network(torch.from_numpy(np.array(x, np.float32)).to(device))[scores].shape)
    if len(shape) < 2 or shape[0] != len(x) or shape[1] < 2 or math.prod(shape[2:]) != 1:
        raise ModelError(
            f"learned images: '{shown(scores)}' of shape {list(shape)} holds no scores of classes, a vector for each "
            f"image; {UNLABELLED}"
        )
    return int(shape[1])


def label_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy between the classes that images are to show and the network's answers, averaged over them.

    scores: ``[n, classes, ...]`` in front of a Softmax, of one place an image. labels: int64 ``[n]``.
    """
    return F.cross_entropy(scores.reshape(len(labels), -1), labels)


def _channels_inmost(x: Tensor) -> Tensor:
    """A batch of maps with its channels side by side in memory, as Convs and sums over maps take least time."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _later(tell: Callable[[int, float], None], first: int, step: int, loss: float) -> None:
    """A step of a batch whose first one is `first`."""
    tell(first + step, loss)


def _means(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(float(np.mean(column)) for column in zip(*rows, strict=True))
