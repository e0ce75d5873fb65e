"""Write hard gates so that they are computed in integers: a sum, a bound and a product."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.affine import apply_behind, is_moderate, takes_affine
from dfmpc_onnx.graph.edit import Namer, insert, remove
from dfmpc_onnx.graph.operators import clip_bounds, op_of
from dfmpc_onnx.graph.query import constant, consumers, describe, is_output, only_consumer, producer
from dfmpc_onnx.pipeline.facts import Normalized
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace

ZERO = np.zeros(1)
OLDEST_CLIP = 11  # whose bounds are inputs


@dataclasses.dataclass(frozen=True)
class _Gate:
    """``factor clip(u + shift, 0, top)`` as nodes compute it, times u where `product`.

    nodes: those that compute it, the last of which gives the result.
    """

    u: gs.Tensor
    nodes: tuple[gs.Node, ...]
    shift: float
    top: float
    factor: float
    product: bool


class IntegerGates(Pass[NoOptions]):
    """Before: Conv(x, W, b) -> u; u HardSigmoid(a u + c); also as HardSwish, and as u Clip(u + 3, 0, 6) / 6
    After: Conv(x, r W, r b) -> v; v Clip(v + c / r, 0, 1 / r), r = sqrt(a)

    Why: a u clip(u + c / a, 0, 1 / a) = v clip(v + c / r, 0, 1 / r) with v = r u: the same network. Runtimes have no
    integer kernel for HardSigmoid and HardSwish, but for a sum whose bounds are those of its codes, and for a product.
    Where the gate is read by other than its own argument, as in squeeze-and-excitation, the layer in front takes all of
    it: HardSigmoid(Conv(x, W, b)) = Clip(Conv(x, a W, a b + c), 0, 1), and the bounds are those of its codes.

    Requires: a normalized graph.

    Refuses when: no Conv, Gemm or BatchNormalization stands in front that could take the factor; others read what the
    gate reads. With activations in float, or for a target without integer kernels between layers, nothing is done.

    Reference: docs/method.md, section 7; Howard et al. 2019, section 5.2 (ReLU6 for the sake of fixed point).
    """

    name = "integer_gates"
    requires: ClassVar = (Normalized,)

    def run(self, workspace: Workspace) -> PassResult:
        if workspace.settings.activations == "none" or not workspace.settings.target.between:
            return PassResult(self.name, notes=("nothing between layers computes in integers",))
        graph, names = workspace.graph, Namer(workspace.graph)
        if graph.opset < OLDEST_CLIP:
            return PassResult(self.name, notes=(f"Clip has its bounds as inputs from opset {OLDEST_CLIP} on",))
        rewrites, refusals = [], []
        shared = workspace.get(Normalized).shared
        factors: dict[str, set[float]] = {}  # of the gates behind layers of one weight, by its name
        for node in graph.nodes:
            gate = _gate_at(graph, node) if node.outputs else None
            if gate is not None and (name := _weight_behind(gate, shared)) is not None:
                factors.setdefault(name, set()).add(gate.factor)
        for node in list(graph.nodes):
            gate = _gate_at(graph, node) if node.outputs else None
            if gate is None:
                continue
            source, name = producer(gate.u), _weight_behind(gate, shared)
            if name is not None and len(factors.get(name, ())) > 1:
                gate = _without_number_behind(gate)
            if (reason := _obstacle(graph, gate)) is not None or source is None:
                refusals.append(Refusal(gate.nodes[0].name, reason or "", "gate-cannot-move"))
                continue
            site = gate.nodes[0].name
            (_write_product if gate.product else _write_bound)(graph, source, gate, names)
            rewrites.append(Rewrite(site, "gate written for integers", {"factor": round(gate.factor, 6)}))
        return PassResult(self.name, tuple(rewrites), tuple(refusals))


def _weight_behind(gate: _Gate, shared: Mapping[str, str]) -> str | None:
    """The weight that the layer in front of a gate shares with others; None where it shares none."""
    source = producer(gate.u)
    return None if source is None else shared.get(source.name)


def _without_number_behind(gate: _Gate) -> _Gate:
    """A gate whose product alone it takes, so that layers of one weight get one factor and keep one set of codes."""
    number = _number(gate.nodes[-1]) if gate.product and len(gate.nodes) > 1 else None
    if number is None:
        return gate
    number = 1 / number if op_of(gate.nodes[-1]) == "Div" else number
    return dataclasses.replace(gate, nodes=gate.nodes[:-1], factor=gate.factor / number)


def _gate_at(graph: gs.Graph, node: gs.Node) -> _Gate | None:
    """The gate that begins at a node: where its argument is a tensor alone; None where none does."""
    if op_of(node) == "HardSwish":
        return _Gate(node.inputs[0], (node,), 3.0, 6.0, 1 / 6, True)
    if op_of(node) == "HardSigmoid":
        alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
        if not alpha > 0:
            return None
        return _with_product(graph, _Gate(node.inputs[0], (node,), beta / alpha, 1 / alpha, alpha, False))
    if op_of(node) == "Clip":
        return _from_clip(graph, node)
    return None


def _from_clip(graph: gs.Graph, clip: gs.Node) -> _Gate | None:
    """``Clip(u + 3, 0, 6) / 6``, and ``Clip(v, 0, 6) / 6`` where the layer in front has taken the 3."""
    try:
        low, high = clip_bounds(clip)
    except Unknown:
        return None
    if low != 0.0 or not 0 < high < math.inf:
        return None
    sum_ = producer(clip.inputs[0])
    shift = _number(sum_) if sum_ is not None and op_of(sum_) == "Add" else None
    if sum_ is not None and shift is not None and only_consumer(graph, sum_.outputs[0]) is clip:
        u = next(t for t in sum_.inputs if constant(t) is None)
        gate = _with_product(graph, _with_factor(graph, _Gate(u, (sum_, clip), shift, high, 1.0, False)))
    else:
        gate = _with_factor(graph, _Gate(clip.inputs[0], (clip,), 0.0, high, 1.0, False))
    return None if gate.factor == 1.0 and gate.shift == 0.0 else gate


def _with_factor(graph: gs.Graph, gate: _Gate) -> _Gate:
    """With the number that alone multiplies or divides the result."""
    following = only_consumer(graph, gate.nodes[-1].outputs[0])
    if isinstance(following, str) or op_of(following) not in ("Mul", "Div"):
        return gate
    value = _number(following)
    if value is None or not is_moderate(np.array([value])) or value < 0:
        return gate
    if op_of(following) == "Div":
        if constant(following.inputs[1]) is None:
            return gate
        value = 1 / value
    return dataclasses.replace(gate, nodes=(*gate.nodes, following), factor=gate.factor * value)


def _with_product(graph: gs.Graph, gate: _Gate) -> _Gate:
    """With the product with its own argument, and the number behind that."""
    following = only_consumer(graph, gate.nodes[-1].outputs[0])
    if isinstance(following, str) or op_of(following) != "Mul" or not any(t is gate.u for t in following.inputs):
        return gate
    return _with_factor(graph, dataclasses.replace(gate, nodes=(*gate.nodes, following), product=True))


def _number(node: gs.Node) -> float | None:
    """The one number that a node of two inputs adds or multiplies; None where there is none."""
    values = [constant(t) for t in node.inputs if constant(t) is not None]
    if len(node.inputs) != 2 or len(values) != 1 or values[0] is None:
        return None
    value = values[0]
    plain = value.size == 1 and value.dtype == np.float32 and value.ndim <= 4 and np.isfinite(value).all()
    return float(value.reshape(-1)[0]) if plain else None


def _obstacle(graph: gs.Graph, gate: _Gate) -> str | None:
    """Why a gate stays as it is; None where it can be written otherwise."""
    source = producer(gate.u)
    if source is None or not takes_affine(source):
        return f"{'an input' if source is None else describe(source)} in front of it takes no factor"
    own = {id(node) for node in gate.nodes}
    others = [node for node in consumers(gate.u) if id(node) not in own]
    if is_output(graph, gate.u) or others:
        return f"{describe(others[0]) if others else 'the output of the model'} reads what it reads"
    if not is_moderate(np.array([gate.factor])):
        return f"its factor is {gate.factor:.3g}"
    return None


def _write_product(graph: gs.Graph, source: gs.Node, gate: _Gate, names: Namer) -> None:
    """``v clip(v + r shift, 0, r top)`` with ``v = r u`` and ``r = sqrt(factor)``."""
    root = math.sqrt(gate.factor)
    apply_behind(source, np.array([root]), ZERO, names)
    stem, u, made = gate.nodes[0].name, gate.u, gate.nodes[-1].outputs[0]
    dtype, shape = u.dtype, u.shape
    moved = gs.Variable(names(f"{stem}.sum"), dtype, shape)
    gated = gs.Variable(names(f"{stem}.gate"), dtype, shape)
    nodes = [
        gs.Node("Add", names(f"{stem}.Add"), {}, [u, _scalar(names(f"{stem}.shift"), root * gate.shift)], [moved]),
        _clip(stem, root * gate.top, moved, gated, names),
    ]
    before = {id(gate.nodes[-1]): [*nodes, gs.Node("Mul", names(f"{stem}.Mul"), {}, [u, gated], [])]}
    insert(graph, before=before)
    product = before[id(gate.nodes[-1])][-1]
    remove(graph, gate.nodes)
    product.outputs = [made]


def _write_bound(graph: gs.Graph, source: gs.Node, gate: _Gate, names: Namer) -> None:
    """``Clip(v, 0, factor top)`` with ``v = factor (u + shift)`` from the layer in front."""
    factor = np.array([gate.factor])
    apply_behind(source, factor, factor * gate.shift, names)
    made = gate.nodes[-1].outputs[0]
    clip = _clip(gate.nodes[0].name, gate.factor * gate.top, gate.u, None, names)
    insert(graph, before={id(gate.nodes[-1]): [clip]})
    remove(graph, gate.nodes)
    clip.outputs = [made]


def _clip(stem: str, top: float, read: gs.Tensor, made: gs.Tensor | None, names: Namer) -> gs.Node:
    bounds = [_scalar(names(f"{stem}.low"), 0.0), _scalar(names(f"{stem}.top"), top)]
    return gs.Node("Clip", names(f"{stem}.Clip"), {}, [read, *bounds], [] if made is None else [made])


def _scalar(name: str, value: float) -> gs.Constant:
    return gs.Constant(name, np.array(value, np.float32))
