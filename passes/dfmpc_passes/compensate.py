"""DF-MPC's closed form: one factor a channel between a layer with few bits and the next one."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.query import constant, nodes_by_name
from dfmpc_onnx.numerics.compensation import Products
from dfmpc_onnx.pipeline.facts import FloatStatistics, Originals, Pairs, Recalibrated
from dfmpc_onnx.pipeline.manager import Figure, Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.pair_norms import norm_of, write_channels


class CompensateOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """lambda1: weight of the offsets' error against the weights' error. lambda2: weight of c^2 (equation 23)."""

    lambda1: Annotated[float, msgspec.Meta(ge=0)] = 0.1
    lambda2: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Compensate(Pass[CompensateOptions]):
    """Before: Conv(x, W^) -> BatchNormalization(gamma, beta, m^, s^) -> Relu -> Conv
    After: Conv(x, W^) -> BatchNormalization(c gamma, c beta, m^, s^) -> Relu -> Conv

    Why: c_j = (<x^, x> + lambda1 y^ y) / (|x^|^2 + lambda1 y^^2 + lambda2) with x = gamma W_j / s and
    y = beta - gamma m / s, then max(c_j, 0), and 1 where the denominator vanishes: the minimizer of equation 23.
    c >= 0 commutes with Relu, so scaling BN is scaling the next Conv's input channel; Clip is 1-Lipschitz, so the
    upper bound of equation 19 holds with c in front of it. Each BatchNormalization that reads the low layer through a
    Concat scales the layer's channels by a c of its own: nothing but itself stands between, so x and y are made of
    its own gamma, beta, m and s.

    Requires: the float weights of the low layers and their re-calibrated BatchNormalizations.

    Refuses when: never; pairs that do not fit were refused when they were sought.

    Reference: Chen et al. 2023, equations 19, 22, 23 and 27.
    """

    name = "compensate"
    Options = CompensateOptions
    requires: ClassVar = (Pairs, Originals, FloatStatistics, Recalibrated)
    discards: ClassVar = (Originals,)

    def run(self, workspace: Workspace) -> PassResult:
        statistics = workspace.get(FloatStatistics)
        nodes = nodes_by_name(workspace.graph)
        originals = workspace.get(Originals).weights
        rewrites = []
        by_low = workspace.get(Pairs).by_low()
        products: dict[str, Products] = {}
        for pair, name in workspace.get(Pairs).with_batch_norm():
            if pair.low not in originals:
                continue
            low, batch_norm = nodes[pair.low], nodes[name]
            if pair.low not in products:
                quantized = np.asarray(constant(low.inputs[1]), np.float32)
                products[pair.low] = Products.of(originals[pair.low], quantized)
            of_low = products[pair.low]
            norm, norm_hat = norm_of(pair, low, statistics), workspace.get(Recalibrated).norms[pair]
            arguments = (norm, norm_hat, self.options.lambda1, self.options.lambda2)
            c = of_low.minimizer(*arguments)
            run = slice(pair.offset, pair.offset + len(c))
            for index in (1, 2):
                old = np.asarray(constant(batch_norm.inputs[index]), np.float64)[run]
                write_channels(batch_norm, index, pair.offset, c * old)
            figures: dict[str, Figure] = {
                "c_median": round(float(np.median(c)), 4),
                "c_zero": int((c == 0).sum()),
                "loss_at_1": round(float(of_low.loss(np.ones_like(c), *arguments).sum()), 4),
                "loss": round(float(of_low.loss(c, *arguments).sum()), 4),
            }
            action = "compensated" if pair.exact else "compensated by the upper bound (Clip between)"
            action += f" in {shown(name)}" if len(by_low[pair.low]) > 1 else ""
            rewrites.append(Rewrite(pair.low, action, figures))
        return PassResult(self.name, tuple(rewrites))
