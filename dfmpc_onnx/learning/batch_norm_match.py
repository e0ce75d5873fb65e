"""How far a batch of images is from what the BatchNormalizations of a network measured in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs
import torch

from dfmpc_onnx.graph.operators import batch_norm_parameters, op_of
from dfmpc_onnx.learning.moments import moments
from dfmpc_onnx.learning.torch_import import Tensor


@dataclasses.dataclass(frozen=True)
class MeasuredLayer:
    """A BatchNormalization and what it measured of its input: mean and deviation float32 ``[channels]``."""

    name: str
    tensor: str
    mean: Tensor
    std: Tensor
    epsilon: float

    def of(self, x: Tensor, *, each_image: bool) -> tuple[Tensor, Tensor]:
        """Mean and deviation of ``[n, channels, ...]``: ``[channels]``, or ``[n, channels]`` image by image."""
        axes = tuple(range(2, x.dim())) if each_image else (0, *range(2, x.dim()))
        if not axes:  # vectors image by image, of one value each
            return x, torch.zeros_like(x)
        mean, variance = moments(x, axes)
        return mean, torch.sqrt(variance + self.epsilon)

    def has_deviations(self, x: Tensor, *, each_image: bool) -> bool:
        """Whether more than one value stands behind a deviation."""
        return bool(x.numel() > x.shape[1] * (x.shape[0] if each_image else 1))


@dataclasses.dataclass(frozen=True)
class SlackWidths:
    """How far mean and deviation of a layer may be off without a penalty."""

    mean: float = 0.0
    std: float = 0.0


def measured_layers(graph: gs.Graph, device: str) -> tuple[MeasuredLayer, ...]:
    """The BatchNormalizations of a graph that hold what they measured, in the order of the graph."""
    found = []
    for node in graph.nodes:
        if op_of(node) != "BatchNormalization" or isinstance(node.inputs[0], gs.Constant):
            continue
        held = batch_norm_parameters(node)
        if held is not None:
            mean, std = (torch.from_numpy(v.astype(np.float32)).to(device) for v in (held.mean, held.std))
            found.append(MeasuredLayer(node.name, node.inputs[0].name, mean, std, held.epsilon))
    return tuple(found)


def penalty(found: Tensor, wanted: Tensor, slack: float) -> Tensor:
    """``sum max(|found - wanted| - slack, 0)^2`` over the channels, the last dimension: nothing within the slack.

    Zhang et al. 2021 (DSG), Slack Distribution Alignment: of a layer the sum of this for means, with slack ``delta``,
    and for deviations, with slack ``gamma``. Without slack it is the distance of Cai et al. 2020 (ZeroQ).
    """
    return torch.clamp((found - wanted).abs() - slack, min=0.0).square().sum(dim=-1)


def matching_loss(
    taps: Mapping[str, Tensor],
    layers: Sequence[MeasuredLayer],
    slacks: Sequence[SlackWidths],
    weights: Tensor,
    *,
    each_image: bool,
) -> Tensor:
    """The distance of a batch from all layers: squares of what mean and deviation are off by, summed over channels.

    taps: the layers' inputs by name. weights: ``[n, layers]``, of a layer for an image; used image by image alone,
    where the result is the mean over the images.
    """
    total = torch.zeros((), device=weights.device)
    for index, (layer, slack) in enumerate(zip(layers, slacks, strict=True)):
        x = taps[layer.tensor]
        mean, std = layer.of(x, each_image=each_image)
        off = penalty(mean, layer.mean, slack.mean)
        if layer.has_deviations(x, each_image=each_image):
            off = off + penalty(std, layer.std, slack.std)
        total = total + ((weights[:, index] * off).mean() if each_image else off)
    return total


def slack_of(taps: Mapping[str, Tensor], layers: Sequence[MeasuredLayer], share: float) -> tuple[SlackWidths, ...]:
    """By layer, what a share of the gaps between Gaussian images and the layer do not exceed, image by image.

    Zhang et al. 2021 (DSG), Slack Distribution Alignment: ``delta`` and ``gamma`` of a layer are the percentile epsilon
    of ``|mean - mu|`` and ``|std - sigma|`` that images of independent Gaussian pixels give. taps: of such images.
    """
    found = []
    for layer in layers:
        mean, std = layer.of(taps[layer.tensor], each_image=True)
        gaps = ((mean - layer.mean).abs(), (std - layer.std).abs())
        found.append(SlackWidths(*(float(np.quantile(gap.detach().cpu().numpy(), share)) for gap in gaps)))
    return tuple(found)


def distance(taps: Mapping[str, Tensor], layers: Sequence[MeasuredLayer]) -> tuple[float, ...]:
    """By layer, how far mean and deviation of a batch are off, in deviations of the layer, averaged over channels."""
    found = []
    for layer in layers:
        x = taps[layer.tensor].detach()
        mean, std = layer.of(x, each_image=False)
        off = (mean - layer.mean).abs() + (std - layer.std).abs()
        found.append(float((off / layer.std).mean()))
    return tuple(found)
