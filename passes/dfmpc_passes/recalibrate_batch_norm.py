"""Give the BatchNormalization behind each low layer the mean and deviation of the quantized layer's output."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec
import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.facts import ChannelMoments, Codes, FloatStatistics, Layers, Originals, Pairs, Recalibrated
from dfmpc_onnx.graph import constant, input_constant, nodes_by_name
from dfmpc_onnx.manager import Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.numerics.compensation import BatchNormParameters
from dfmpc_onnx.numerics.recalibration import READINGS, recalibrate
from dfmpc_onnx.workspace import Workspace


class RecalibrateOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """reading: how the mean and deviation of the quantized layer are found; see dfmpc_onnx.numerics.recalibration.

    dead: where the new deviation falls below this share of the old one the channel keeps its old statistics.
    """

    reading: Literal["unchanged", "norm_ratio", "analytic", "analytic_ratio", "projection"] = "analytic"
    dead: float = 0.02


class RecalibrateBatchNorm(Pass[RecalibrateOptions]):
    """Before: Conv(x, W^) -> BatchNormalization(gamma, beta, m, s^2)
    After: Conv(x, W^) -> BatchNormalization(gamma, beta, m^, s^^2)

    Why: m and s were measured on W x; the quantized layer computes W^ x. The paper says that m^ and s^ are
    re-calibrated and leaves open how, so the readings are an option. Analytic: m^ = sum_i (sum_k W^_ik) E[A_i],
    s^^2 = sum_i (sum_k W^_ik^2) Var[A_i] + epsilon.

    Requires: codes of the low layers, their float weights, and the float network's moments.

    Refuses when: the moments of a layer's input are not known; its BatchNormalization keeps its statistics.
    A channel whose new deviation nearly vanishes keeps them too.

    Reference: Chen et al. 2023, section 3.3 (the symbols); docs/method.md, section 1 (the readings).
    """

    name = "recalibrate_batch_norm"
    Options = RecalibrateOptions
    requires: ClassVar = (Codes, Originals, Pairs, Layers, FloatStatistics)
    provides: ClassVar = (Recalibrated,)

    def run(self, workspace: Workspace) -> PassResult:
        statistics = workspace.get(FloatStatistics)
        nodes = nodes_by_name(workspace.graph)
        originals = workspace.get(Originals).weights
        norms: dict[str, BatchNormParameters] = {}
        rewrites, refusals = [], []
        for pair, name in workspace.get(Pairs).normalized():
            if pair.low not in originals:
                continue
            node = nodes[pair.low]
            norm = without_bias(statistics.norms[name], node)
            moments = statistics.tensors.get(node.inputs[0].name)
            if moments is None and self.options.reading in READINGS_WITH_MOMENTS:
                why = statistics.unknown.get(node.inputs[0].name, "the moments of its input are not known")
                refusals.append(Refusal(name, why))
                norms[pair.low] = norm
                continue
            quantized = np.asarray(constant(node.inputs[1]), np.float32)
            fresh = self._fresh(originals[pair.low], quantized, norm, moments, node, nodes[name])
            kept = fresh.std < self.options.dead * norm.std
            mean, std = np.where(kept, norm.mean, fresh.mean), np.where(kept, norm.std, fresh.std)
            norms[pair.low] = BatchNormParameters(norm.gamma, norm.beta, mean, std)
            _write(nodes[name], norms[pair.low], node)
            ratio = float(np.median(std / norm.std))
            rewrites.append(_row(name, ratio, int(kept.sum())))
        workspace.put(Recalibrated(norms))
        return PassResult(self.name, tuple(rewrites), tuple(refusals))

    def _fresh(
        self,
        weight: np.ndarray,
        quantized: np.ndarray,
        norm: BatchNormParameters,
        moments: ChannelMoments | None,
        node: gs.Node,
        batch_norm: gs.Node,
    ) -> BatchNormParameters:
        rows = (len(weight), weight.shape[1], -1)
        channels = weight.shape[1] if moments is None else len(moments.mean)
        mean = np.zeros(channels) if moments is None else moments.mean
        variance = np.ones(channels) if moments is None else moments.variance
        epsilon = float(batch_norm.attrs.get("epsilon", 1e-5))
        return recalibrate(
            self.options.reading, weight.reshape(rows), quantized.reshape(rows), norm, mean, variance, epsilon
        )


READINGS_WITH_MOMENTS = READINGS - {"unchanged", "norm_ratio"}


def without_bias(norm: BatchNormParameters, node: gs.Node) -> BatchNormParameters:
    """The normalization as seen by a layer without its bias: the bias is taken off the mean."""
    bias = input_constant(node, 2)
    if bias is None:
        return norm
    return BatchNormParameters(norm.gamma, norm.beta, norm.mean - np.asarray(bias, np.float64), norm.std)


def _write(batch_norm: gs.Node, norm: BatchNormParameters, node: gs.Node) -> None:
    bias = input_constant(node, 2)
    mean = norm.mean if bias is None else norm.mean + np.asarray(bias, np.float64)
    epsilon = float(batch_norm.attrs.get("epsilon", 1e-5))
    batch_norm.inputs[3].values = mean.astype(np.float32)
    batch_norm.inputs[4].values = np.maximum(np.square(norm.std) - epsilon, 0.0).astype(np.float32)


def _row(name: str, ratio: float, kept: int) -> Rewrite:
    return Rewrite(name, "re-calibrated", {"median_std_ratio": round(ratio, 4), "channels_kept": kept})
