"""What a layer reads of a joint field, set right by what the BatchNormalization behind it measured in training."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.channels import channel_readings
from dfmpc_onnx.graph.conv import planar, taps_seen, within_map
from dfmpc_onnx.graph.operators import batch_norm_parameters, op_of
from dfmpc_onnx.graph.query import input_constant
from dfmpc_onnx.numerics import gaussian_process as gp
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.least_squares import GivenMoments, PatchMoments
from dfmpc_onnx.statistics.gaussian_field import Field

SAMPLES = 10**6  # a derived covariance has no sampling noise


def patch_moments(graph: gs.Graph, node: gs.Node, x: Field, weight: npt.NDArray[np.float32]) -> PatchMoments:
    """Second moments of the patches that a layer reads, corrected by the BatchNormalization behind it."""
    groups = int(node.attrs.get("group", 1)) if op_of(node) == "Conv" else 1
    kernel, _, dilations = planar(node)
    per_group = x.channels // groups
    measured, seen = (
        _norm_measurement(graph, node),
        taps_seen(node, x.size) if op_of(node) == "Conv" else np.ones((1, 1), bool),
    )
    found = []
    for group in range(groups):
        own = np.arange(group * per_group, (group + 1) * per_group)
        both = np.concatenate([own, own + x.channels])
        covariance = gp.patch_covariance(x.lags[:, :, both[:, None], both], kernel, dilations)
        mean = np.repeat(x.mean[both], kernel[0] * kernel[1])
        if not seen.all():
            reads_map = np.tile(seen.reshape(-1), len(both))
            covariance, mean = covariance * np.outer(reads_map, reads_map), mean * reads_map
        if measured is not None:
            outputs = slice(group * len(weight) // groups, (group + 1) * len(weight) // groups)
            rows = weight[outputs].reshape(-1, len(mean) // 2).astype(np.float64)
            if len(rows) < per_group * seen.sum():  # more outputs than inputs cannot all be met
                padded = np.concatenate([rows, np.zeros_like(rows)], axis=1)
                covariance, mean = gp.condition_on_measurements(
                    covariance, mean, padded, *(v[outputs] for v in measured)
                )
        found.append((covariance, mean))
    k = len(found[0][1]) // 2
    covariances, means = np.stack([c for c, _ in found]), np.stack([m for _, m in found])
    second = gp.nearest_covariance(covariances) + means[:, :, None] * means[:, None, :]
    return GivenMoments(
        second[:, k:, k:],
        means[:, :k],
        means[:, k:],
        np.zeros(groups),
        SAMPLES,
        second[:, :k, k:],
        second[:, :k, :k],
    )


def anchor_mean(graph: gs.Graph, node: gs.Node, x: Field, weight: npt.NDArray[np.float32]) -> Field:
    """A layer's input with the mean that its BatchNormalization saw behind it: what rounding shifts hangs on it."""
    measured = _norm_measurement(graph, node)
    groups = int(node.attrs.get("group", 1)) if op_of(node) == "Conv" else 1
    if measured is None or groups != 1 or len(weight) >= x.channels:
        return x
    rows = within_map(node, weight, x.size).sum(axis=(2, 3), dtype=np.float64)
    padded = np.concatenate([rows, np.zeros_like(rows)], axis=1)
    _, mean = gp.condition_on_measurements(x.lags[0, 0].astype(np.float64), x.mean, padded, *measured)
    return dataclasses.replace(x, mean=mean)


def _norm_measurement(graph: gs.Graph, node: gs.Node) -> tuple[Float, Float] | None:
    """Mean and deviation of a Conv's outputs without its bias, as a BatchNormalization behind it has them.

    Where several read it, through Concats, they have measured the same; the first is taken.
    """
    readings = channel_readings(graph, node.outputs[0]) if op_of(node) == "Conv" else ""
    if isinstance(readings, str) or any(op_of(reading.node) != "BatchNormalization" for reading in readings):
        return None
    whole = batch_norm_parameters(readings[0].node)
    if whole is None:
        return None
    norm = whole.channels(readings[0].offset, len(node.inputs[1].values))
    bias = input_constant(node, 2)
    return (norm.mean if bias is None else norm.mean - np.asarray(bias, np.float64)), norm.std
