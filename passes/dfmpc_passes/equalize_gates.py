"""Give the channels that a gate reads the same reach, so that one scale fits them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.affine import apply_behind, takes_affine
from dfmpc_onnx.graph.edit import Namer, insert
from dfmpc_onnx.graph.operators import batch_norm_parameters, is_clip, op_of
from dfmpc_onnx.graph.query import consumers, describe, is_output, producer
from dfmpc_onnx.graph.scaled_channels import Absorber, absorbers
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.equalization import gate_codes
from dfmpc_onnx.numerics.ranges import DEVIATIONS, LEVELS
from dfmpc_onnx.pipeline.facts import Normalized
from dfmpc_onnx.pipeline.manager import Figure, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.statistics.gated_ranges import own_gates

NO_NORM = Reason("moments-unknown", "no BatchNormalization says how far the channels of its argument reach")


class EqualizeGatesOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """remains: the largest share of the noise of rounding that may remain for a gate to be equalized."""

    remains: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5


@dataclasses.dataclass(frozen=True)
class _Gate:
    """``u g(u)``. source: what gives u, and takes factors; product: the node that gives the result."""

    source: gs.Node
    u: gs.Tensor
    product: gs.Node


class EqualizeGates(Pass[EqualizeGatesOptions]):
    """Before: BN(gamma, beta) -> u; u Sigmoid(u) -> Conv(y, V)
    After: BN(s gamma, s beta) -> v; v Sigmoid(v / s) -> Conv(y, V / s), s one a channel

    Why: with v = s u, v g(v / s) = s u g(u): what stands behind the gate is s times as large, which the input channels
    of the layers behind take back. s = max(r) / r with r = |beta| + 8 |gamma|, so that all channels use the whole
    scale, of u as of what the gate gives. 1 / s is a whole number of 255ths, so that the product with it is one of
    integers, and exact. It goes through squeeze-and-excitation: the factor of a map stays, and the layer that reads its
    averages takes it back as well.

    Requires: a normalized graph.

    Refuses when: others read the argument, or what is behind the gate cannot take the factor back, as a sum; a weight
    that takes it is shared; no BatchNormalization stands in front: on procedural images alone channels reach otherwise
    than on photographs. Left as they are: gates whose channels reach so alike that more than `remains` of the noise
    would remain, and hard gates, where the further product gains nothing. With activations in float, or for a target
    without integer kernels between layers, nothing is done.

    Reference: docs/method.md, section 7; Nagel et al. 2019, section 4.1 (equalization through a Relu).
    """

    name = "equalize_gates"
    Options = EqualizeGatesOptions
    requires: ClassVar = (Normalized,)

    def run(self, workspace: Workspace) -> PassResult:
        if workspace.settings.activations == "none" or not workspace.settings.target.between:
            return PassResult(self.name, notes=("nothing between layers computes in integers",))
        graph, names = workspace.graph, Namer(workspace.graph)
        shared = workspace.get(Normalized).shared
        rewrites, refusals = [], []
        for gate in _gates(graph):
            behind = _obstacle(graph, gate, shared) or absorbers(graph, gate.product.outputs[0], shared)
            if isinstance(behind, str):
                refusals.append(Refusal(gate.product.name, behind, "gate-not-equalized"))
                continue
            norm = batch_norm_parameters(gate.source) if op_of(gate.source) == "BatchNormalization" else None
            if norm is None:
                refusals.append(Refusal.of(gate.product.name, NO_NORM))
                continue
            codes = gate_codes(np.abs(norm.beta) + DEVIATIONS * np.sqrt(norm.output_variance))
            left = float(np.mean(np.square(codes / LEVELS)))
            if left <= self.options.remains:
                _equalize(graph, gate, behind, codes / LEVELS, names)
                spread = round(LEVELS / float(codes.min()), 2)
                figures: dict[str, Figure] = {"spread": spread, "noise_left": round(left, 3)}
                rewrites.append(Rewrite(gate.product.name, "channels of its argument equalized", figures))
        return PassResult(self.name, tuple(rewrites), tuple(refusals))


def _gates(graph: gs.Graph) -> list[_Gate]:
    """The products of a tensor with a smooth function of it alone, behind a node that takes factors."""
    found = []
    for u, product in own_gates(graph):
        source, hard = producer(u), any(is_clip(node) for t in product.inputs if (node := producer(t)) is not None)
        if source is not None and takes_affine(source) and not hard:
            found.append(_Gate(source, u, product))
    return found


def _obstacle(graph: gs.Graph, gate: _Gate, shared: Container[str]) -> str | None:
    """Why a gate's argument stays as it is; None where it can be scaled."""
    others = [node for node in consumers(gate.u) if node is not gate.product]
    if is_output(graph, gate.u) or len(others) > 1:
        return f"{'the output of the model' if is_output(graph, gate.u) else describe(others[-1])} reads what it reads"
    if gate.source.name in shared:
        return f"{describe(gate.source)} in front of it shares its weight"
    return "the dimensions of its argument are not known" if gate.u.shape is None else None


def _equalize(graph: gs.Graph, gate: _Gate, behind: Sequence[Absorber], back: Float, names: Namer) -> None:
    """Multiply the argument's channels by 1 / back, and take that back in front of the gate and behind the product."""
    apply_behind(gate.source, 1 / back, np.zeros(1), names)
    for absorber in behind:
        absorber.multiply(back, names)
    u, reader = gate.u, next(node for node in consumers(gate.u) if node is not gate.product)
    shape = (-1, *(1,) * (len(u.shape) - 2))
    argument = gs.Variable(names("equal"), u.dtype, u.shape)  # short: names are stored several times
    factor = gs.Constant(names(f"{argument.name}.back"), back.astype(np.float32).reshape(shape))
    reader.inputs = [argument if t is u else t for t in reader.inputs]
    insert(graph, before={id(reader): [gs.Node("Mul", names(f"{argument.name}.Mul"), {}, [u, factor], [argument])]})
