"""What passes learn about a graph and leave for the passes behind them: one frozen type a fact.

Facts name nodes and tensors by their names, never by reference, so that they stay true when a pass replaces the
graph object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.graph.half_precision import HalfPrecision
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.few_levels import FewLevels
from dfmpc_onnx.numerics.moments import ChannelMoments
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.settings import BitWidth

Position = Literal["first", "inner", "last"]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A node with a weight.

    name: the node's. weight: the initializer's name. shape: the weight's, () where it is computed. axis: that of the
    output channels in the weight.
    batch_norm: the BatchNormalization behind it, if it is the only reader of the output.
    refused: why its weight cannot be quantized; None where it can.
    """

    name: str
    op: str
    weight: str
    shape: tuple[int, ...]
    axis: int
    groups: int = 1
    batch_norm: str | None = None
    position: Position = "inner"
    refused: Reason | None = None

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.op == "Conv" and self.shape[1:2] == (1,)

    @property
    def channels(self) -> int | None:
        """Output channels; None where the weight is computed, or has no such dimension."""
        return self.shape[self.axis] if self.axis < len(self.shape) else None

    @property
    def size(self) -> int:
        """Number of weights."""
        count = 1
        for dim in self.shape:
            count *= dim
        return count


@dataclasses.dataclass(frozen=True)
class Normalized:
    """The graph is in the one form that the other passes expect. half: None where the file holds float32 alone.

    shared: by the name of a node that reads its weight with others, that weight's name in the model.
    """

    opset: int
    half: HalfPrecision | None = None
    shared: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Every node with a weight, in graph order.

    nested: those within control flow or functions of the model's own, where no pass reaches: all refused, with names
    that no node of the graph has.
    """

    all: tuple[Layer, ...]
    nested: tuple[Layer, ...] = ()

    def by_name(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.all}

    @property
    def with_nested(self) -> tuple[Layer, ...]:
        """What a user is shown: all, and the nested ones behind them."""
        return self.all + self.nested

    @property
    def quantizable(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.all if layer.refused is None)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A low-bit layer, a BatchNormalization and activation behind it, and the layer that compensates.

    A layer whose output several BatchNormalizations read, through Concats (DenseNet), has a pair with each.
    batch_norm: None where it was folded into the layer, whose statistics are then known from images alone.
    offset: the first of the BatchNormalization's channels that are the low layer's.
    """

    low: str
    batch_norm: str | None
    activation: str | None
    high: str
    exact: bool
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The pairs to compensate, and for every other layer the reason why it is not the low half of one."""

    pairs: tuple[Pair, ...]
    refused: Mapping[str, Reason]

    def by_low(self) -> dict[str, tuple[Pair, ...]]:
        """The pairs of each low layer: one, or one for each BatchNormalization that reads it."""
        found: dict[str, tuple[Pair, ...]] = {}
        for pair in self.pairs:
            found[pair.low] = (*found.get(pair.low, ()), pair)
        return found

    def with_batch_norm(self) -> tuple[tuple[Pair, str], ...]:
        """The pairs with a BatchNormalization, and its name."""
        return tuple((pair, pair.batch_norm) for pair in self.pairs if pair.batch_norm is not None)


@dataclasses.dataclass(frozen=True)
class FloatStatistics:
    """Of the float network: moments of its tensors by name, and the parameters of its BatchNormalizations.

    unknown: the tensors whose moments could not be derived, each with the reason.
    """

    tensors: Mapping[str, ChannelMoments]
    norms: Mapping[str, BatchNormParameters]
    unknown: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class LayerBits:
    """code: of the refusal, where `why` is one."""

    bits: BitWidth | Literal["float"]
    role: Literal["low", "high", "8-bit", "float", "auto"]
    why: str
    code: str | None = None


@dataclasses.dataclass(frozen=True)
class BitPlan:
    """The width of every layer by name."""

    layers: Mapping[str, LayerBits]


@dataclasses.dataclass(frozen=True)
class WidthLoss:
    """What one width does to a layer. loss: the share of what the next layer reads that rounding costs; damage: the
    share of the output that suffers most, both 0 to 1. blocks: whether codes are then blocks of a codebook."""

    bits: BitWidth
    loss: float
    damage: float
    blocks: bool = False


@dataclasses.dataclass(frozen=True)
class LayerSensitivity:
    """What quantizing one layer, or all that share its weight, does to the outputs, the rest being float.

    layers: names, the first the one that stands for them. gain: damage over loss, the same for all widths. widths: in
    rising order of bits, ternary first.
    """

    layers: tuple[str, ...]
    gain: float
    widths: tuple[WidthLoss, ...]


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """The table from which bits are chosen: one row for each weight whose width is free, in graph order.

    estimator: how it was made. inputs: on what, in words. floor: the damage that all other layers, whose width is not
    free, do by the same estimate.
    """

    rows: tuple[LayerSensitivity, ...]
    estimator: str
    inputs: str
    floor: float = 0.0


@dataclasses.dataclass(frozen=True)
class Codes:
    """The quantized weights by layer name. In the graph stand their dequantized values."""

    weights: Mapping[str, QuantizedWeight]


@dataclasses.dataclass(frozen=True)
class Originals:
    """The float weights of the low-bit layers by layer name, kept until they have been compensated."""

    weights: Mapping[str, npt.NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class Recalibrated:
    """What each pair's BatchNormalization has been given: the quantized layer's mean and deviation, without its bias.

    Of a BatchNormalization that reads others too, the channels of the low layer.
    """

    norms: Mapping[Pair, BatchNormParameters]


@dataclasses.dataclass(frozen=True)
class Ranges:
    """Lowest and highest value of tensors by name."""

    tensors: Mapping[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class MeasuredRanges:
    """The 0.01 and 99.99 percentile of tensors of the float network on the images it was run on, by name.

    reach: of the outputs of layers behind which no BatchNormalization stands, how far moments and weights let them go.
    grids: of what the quantized network's layers read with few bits, the grids that lose least.
    """

    tensors: Mapping[str, tuple[float, float]]
    reach: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    grids: Mapping[str, FewLevels] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class FewBitGrids:
    """The grids of the tensors, by name, that layers may read with fewer than 8 bits."""

    tensors: Mapping[str, FewLevels]


@dataclasses.dataclass(frozen=True)
class FloatActivations:
    """Tensors by name that stay in float although they have a range, each with the reason.

    Where widths are mixed they get 16 bits in place of float, and so do those around `FloatLayers`.
    """

    tensors: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class ActivationNoise:
    """The share of the variance of the output that suffers most which rounding activations to 8 bits costs, as measured
    on a few images; 0 where none is rounded, or it is not known."""

    share: float


@dataclasses.dataclass(frozen=True)
class FloatLayers:
    """The layers, by name, that read floats although they could compute in integers, each with the reason."""

    layers: Mapping[str, Reason]


@dataclasses.dataclass(frozen=True)
class FoldedBatchNorms:
    """BatchNormalizations behind a layer have become part of its scales and bias."""

    count: int


@dataclasses.dataclass(frozen=True)
class FinalOpset:
    """The opset is the one that the file will have."""

    opset: int


@dataclasses.dataclass(frozen=True)
class Placement:
    """The layers that compute in integers: between quantized activations. bits: of each quantized activation."""

    integer: frozenset[str]
    bits: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Halved:
    """The nodes, by name, that compute in float16."""

    nodes: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Packed:
    """Bytes of each layer's codes in the file and bits a weight, by layer name; the oldest onnxruntime for them."""

    bytes: Mapping[str, int]
    bits: Mapping[str, float]
    oldest_runtime: str
