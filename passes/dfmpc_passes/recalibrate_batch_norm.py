"""Give the BatchNormalization behind a layer with few bits the mean and deviation of the quantized output."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import msgspec
import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.query import constant, input_constant, nodes_by_name
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.moments import ChannelMoments
from dfmpc_onnx.numerics.recalibration import READINGS, recalibrate
from dfmpc_onnx.pipeline.facts import Codes, FloatStatistics, Layers, Originals, Pair, Pairs, Recalibrated
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.pair_norms import norm_of, write_channels


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
    s^^2 = sum_i (sum_k W^_ik^2) Var[A_i] + epsilon. Of a BatchNormalization that reads the layer through a Concat
    its channels alone are changed; where several read it, each takes up the change by itself.

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
        norms: dict[Pair, BatchNormParameters] = {}
        rewrites, refusals = [], []
        for pair, name in workspace.get(Pairs).with_batch_norm():
            if pair.low not in originals:
                continue
            node = nodes[pair.low]
            norm = norm_of(pair, node, statistics)
            moments = statistics.tensors.get(node.inputs[0].name)
            if moments is None and self.options.reading in READINGS_WITH_MOMENTS:
                why = statistics.unknown.get(node.inputs[0].name, "the moments of its input are not known")
                refusals.append(Refusal(name, why, "moments-unknown"))
                norms[pair] = norm
                continue
            quantized = np.asarray(constant(node.inputs[1]), np.float32)
            fresh = self._fresh(originals[pair.low], quantized, norm, moments)
            kept = fresh.std < self.options.dead * norm.std
            mean, std = np.where(kept, norm.mean, fresh.mean), np.where(kept, norm.std, fresh.std)
            norms[pair] = dataclasses.replace(norm, mean=mean, std=std)
            _write(nodes[name], norms[pair], node, pair.offset)
            ratio = float(np.median(std / norm.std))
            rewrites.append(_row(name, pair, len(mean), statistics, ratio, int(kept.sum())))
        workspace.put(Recalibrated(norms))
        return PassResult(self.name, tuple(rewrites), tuple(refusals))

    def _fresh(
        self,
        weight: np.ndarray,
        quantized: np.ndarray,
        norm: BatchNormParameters,
        moments: ChannelMoments | None,
    ) -> BatchNormParameters:
        rows = (len(weight), weight.shape[1], -1)
        channels = weight.shape[1] if moments is None else len(moments.mean)
        mean = np.zeros(channels) if moments is None else moments.mean
        variance = np.ones(channels) if moments is None else moments.variance
        return recalibrate(self.options.reading, weight.reshape(rows), quantized.reshape(rows), norm, mean, variance)


READINGS_WITH_MOMENTS = READINGS - {"unchanged", "norm_ratio"}


def _write(batch_norm: gs.Node, norm: BatchNormParameters, node: gs.Node, first: int) -> None:
    bias = input_constant(node, 2)
    mean = norm.mean if bias is None else norm.mean + np.asarray(bias, np.float64)
    write_channels(batch_norm, 3, first, mean)
    write_channels(batch_norm, 4, first, norm.variance)


def _row(name: str, pair: Pair, count: int, statistics: FloatStatistics, ratio: float, kept: int) -> Rewrite:
    part = count < len(statistics.norms[name].mean)
    run = f", channels {pair.offset} to {pair.offset + count - 1}, of {shown(pair.low)}" if part else ""
    return Rewrite(name, f"re-calibrated{run}", {"median_std_ratio": round(ratio, 4), "channels_kept": kept})
