"""The BatchNormalization of a pair: what it was for the low layer alone, and new values for the layer's channels."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.query import constant, input_constant
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.pipeline.facts import FloatStatistics, Pair


def norm_of(pair: Pair, low: gs.Node, statistics: FloatStatistics) -> BatchNormParameters:
    """The float network's normalization of a low layer's channels, as seen without the layer's bias.

    That of a layer with a bias has the bias taken off its mean.
    """
    whole = statistics.norms[pair.batch_norm or ""]
    weight = np.asarray(constant(low.inputs[1]))
    norm = whole.channels(pair.offset, len(weight))
    bias = input_constant(low, 2)
    return norm if bias is None else dataclasses.replace(norm, mean=norm.mean - np.asarray(bias, np.float64))


def write_channels(batch_norm: gs.Node, index: int, first: int, values: npt.NDArray[np.float64]) -> None:
    """Give a run of channels of one of a BatchNormalization's parameters new values."""
    whole = np.array(input_constant(batch_norm, index), np.float32)
    largest = float(np.finfo(np.float32).max)  # statistics of the largest activations lie beyond it
    whole[first : first + len(values)] = np.clip(values, -largest, largest)
    batch_norm.inputs[index].values = whole
