"""Make a BatchNormalization behind an activation part of the layers on both sides of it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer, remove, replace_reads
from dfmpc_onnx.graph.operators import batch_norm_parameters, flattens_each, op_of, pools
from dfmpc_onnx.graph.query import consumers, has_input, input_constant, is_output, only_consumer, producer
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.ranges import skewed_channels
from dfmpc_onnx.pipeline.facts import Codes, FoldedBatchNorms, Layer, Layers, Ranges
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.grid_rules import GridRules

CHOOSES = frozenset({"Relu", "MaxPool", "GlobalMaxPool"})  # f(a x) = a f(x) for a > 0, and no value is new
WIDEST_RANGE = 2.0  # times the range behind the BatchNormalization: a bit of 8


class FoldBatchNormForward(Pass[NoOptions]):
    """Before: Conv(x, scale * codes, b) -> Relu -> BatchNormalization(gamma, beta, m, s) -> Conv(y, V, d)
    After: Conv(x, (scale f) * codes, f b) -> Relu -> Conv(y, V, d + V t), f = gamma / s, t = beta - f m

    Why: f Relu(x) = Relu(f x) for f > 0, so the scale goes to the layer in front, where each channel has one of its own
    and the codes stay; the shift is a constant that the next layer's bias takes. Channels reach alike then, as behind
    BatchNormalization, so that one scale of activations serves them all: in front of it they reach as differently as f
    says. Where zeros are padded in front of the next layer the shift stays, in a BatchNormalization of factor 1 or -1,
    and both sides get ranges of one width, so that a code is only moved.

    Requires: the layers and their codes, BatchNormalizations behind layers folded.

    Refuses when: the target has no scale a channel; no layer with a Relu stands alone in front, with at most MaxPool
    between; 0 lies so far from what a channel gives that a range from 0 would cost more than a bit.

    Reference: docs/method.md, section 6; Nagel et al. 2019, section 4.1 (scales through a Relu).
    """

    name = "fold_batch_norm_forward"
    requires: ClassVar = (Layers, Codes, FoldedBatchNorms)
    provides: ClassVar = (Codes,)

    def run(self, workspace: Workspace) -> PassResult:
        graph = workspace.graph
        if not GridRules.of(workspace.settings.target).leaves_free("Conv"):
            return PassResult(self.name, notes=("the target has no scale a channel",))
        layers = workspace.get(Layers).by_name()
        known = workspace.find(Ranges)
        ranges = dict(known.tensors) if known is not None else {}
        names = Namer(graph)
        dead, rewrites, refusals = [], [], []
        for node in graph.nodes:
            norm = batch_norm_parameters(node) if op_of(node) == "BatchNormalization" else None
            if norm is None:
                continue  # another one is no affine map
            chain = _chain(graph, node, layers)
            if isinstance(chain, str):
                refusals.append(Refusal(node.name, chain, "scale-cannot-move"))
                continue
            if reason := _scale(workspace, node, norm, chain, layers, ranges, names):
                refusals.append(Refusal(node.name, reason, "scale-cannot-move"))
                continue
            readers = _readers(graph, node, layers)
            if isinstance(readers, str):
                rewrites.append(Rewrite(node.name, f"scale moved to {chain[0].name}", {"shift_stays": readers}))
                continue
            shift = _parameters(node).beta
            for reader in readers:
                _shift(reader, layers[reader.name], shift, names)
            source = node.inputs[0]
            replace_reads(node.outputs[0], source)
            dead.append(node)
            rewrites.append(Rewrite(node.name, f"folded into {', '.join(n.name for n in (chain[0], *readers))}"))
            _spread(graph, source, ranges)
        remove(graph, dead)
        if known is not None:
            workspace.put(Ranges(ranges))
        return PassResult(self.name, tuple(rewrites), tuple(refusals))


def _parameters(node: gs.Node) -> BatchNormParameters:
    norm = batch_norm_parameters(node)
    assert norm is not None  # run has looked
    return norm


def _chain(graph: gs.Graph, norm: gs.Node, layers: dict[str, Layer]) -> list[gs.Node] | str:
    """The layer in front of a BatchNormalization and what stands between, or why there is none to take its scale."""
    found: list[gs.Node] = []
    tensor = norm.inputs[0]
    while (node := producer(tensor)) is not None:
        reader = only_consumer(graph, tensor)
        if isinstance(reader, str):
            return reader
        found.insert(0, node)
        if node.name in layers:
            break
        if op_of(node) not in CHOOSES:
            return f"{op_of(node)} stands in front of it"
        tensor = node.inputs[0]
    else:
        return "no layer stands in front of it"
    if len(found) == 1 or op_of(found[1]) != "Relu":
        return f"no Relu stands behind {found[0].op} in front of it"
    layer, weight, bias = layers[found[0].name], input_constant(found[0], 1), input_constant(found[0], 2)
    plain = all(float(found[0].attrs.get(key, 1.0)) == 1.0 for key in ("alpha", "beta"))
    if layer.op not in ("Conv", "Gemm") or not plain or weight is None or weight.dtype != np.float32:
        return f"{found[0].op} in front of it does not take a scale for each output"
    if has_input(found[0], 2) and (bias is None or bias.size not in (1, layer.channels)):
        return f"the bias of {found[0].op} in front of it is not one constant a channel"
    if layer.channels != len(_parameters(norm).gamma):
        return f"{found[0].op} in front of it has another number of channels"
    return found


def _scale(
    workspace: Workspace,
    node: gs.Node,
    norm: BatchNormParameters,
    chain: list[gs.Node],
    layers: dict[str, Layer],
    ranges: dict[str, tuple[float, float]],
    names: Namer,
) -> str | None:
    """Move |f| into the layer in front; returns why not. What stays is x (+1 or -1) + t, with ranges for both sides."""
    factor = np.abs(norm.factor).astype(np.float32)
    sign = np.where(norm.factor < 0, -1.0, 1.0)
    shift = norm.beta - norm.factor * norm.mean
    _, far = skewed_channels(norm.mean, norm.std, norm.gamma, norm.beta)
    top = float(np.max(np.abs(far - shift)))
    behind = ranges.get(node.outputs[0].name)
    if behind is not None and top > WIDEST_RANGE * (behind[1] - behind[0]):
        return "0 lies so far from what its channels give that a range from 0 would cost more than a bit"
    layer = layers[chain[0].name]
    shape = tuple(-1 if i == layer.axis else 1 for i in range(len(layer.shape)))
    if (quantized := workspace.codes().get(layer.name)) is not None:
        scaled = quantized.scaled(factor.reshape(shape))
        if not np.isfinite(scaled.scale).all():
            return "its scale is too large for float32"
        workspace.set_weight(chain[0], scaled)
    else:
        weight = np.asarray(input_constant(chain[0], 1), np.float32) * factor.reshape(shape)
        chain[0].inputs[1] = gs.Constant(names(f"{layer.name}.weight"), weight)
    bias = input_constant(chain[0], 2)
    if bias is not None:
        moved = (np.asarray(bias, np.float64).reshape(-1) * factor).astype(np.float32)
        chain[0].inputs[2] = gs.Constant(names(f"{layer.name}.bias"), moved)
    ones, zeros = np.ones(len(factor), np.float32), np.zeros(len(factor), np.float32)
    values = (sign.astype(np.float32), shift.astype(np.float32), zeros, ones)
    node.inputs = [node.inputs[0], *(gs.Constant(names(f"{node.name}.{i}"), v) for i, v in enumerate(values))]
    node.attrs["epsilon"] = 0.0
    # One width on both sides of what is left: what one scale has rounded, the other then need not.
    width = top if behind is None else max(top, behind[1] - behind[0])
    ranges.update({t.name: (0.0, width) for n in chain for t in n.outputs if t.name in ranges})
    if behind is not None:
        ranges[node.outputs[0].name] = (behind[0], behind[0] + width)
    return None


def _readers(graph: gs.Graph, node: gs.Node, layers: dict[str, Layer]) -> list[gs.Node] | str:
    """The layers whose biases can take the shift, or why it has to stay."""
    norm = _parameters(node)
    if (norm.gamma < 0).any():
        return "a gamma is negative"
    found: list[gs.Node] = []
    stack = [node.outputs[0]]
    while stack:
        tensor = stack.pop()
        if is_output(graph, tensor):
            return "the model's output reads it"
        for reader in consumers(tensor):
            if reader.name in layers:
                if reader.inputs[0] is not tensor or not _takes_shift(reader, layers[reader.name], len(norm.gamma)):
                    return f"{reader.op} that reads it pads, or has no bias that could take it"
                found.append(reader)
            elif _passes_shift(reader):
                stack.extend(reader.outputs)
            else:
                return f"{op_of(reader)} reads it"
    return found


def _takes_shift(node: gs.Node, layer: Layer, channels: int) -> bool:
    weight, bias = input_constant(node, 1), input_constant(node, 2)
    if weight is None or weight.ndim < 2 or weight.dtype != np.float32 or (has_input(node, 2) and bias is None):
        return False
    if layer.op == "Conv":
        automatic = node.attrs.get("auto_pad", "NOTSET")
        unpadded = automatic == "VALID" or (automatic == "NOTSET" and not any(node.attrs.get("pads", ())))
        return unpadded and layer.shape[1] * layer.groups == channels
    plain = all(float(node.attrs.get(key, 1.0)) == 1.0 for key in ("alpha", "beta"))
    flat = producer(node.inputs[0])
    length = layer.shape[1 - layer.axis]
    fits = length == channels if flat is None or op_of(flat) != "Flatten" else length % channels == 0
    return layer.op == "Gemm" and plain and fits and (bias is None or bias.size == layer.channels)


def _passes_shift(node: gs.Node) -> bool:
    """Whether f(x + t) = f(x) + t, with one t a channel."""
    if len(node.outputs) > 1:
        return False
    padded = any(node.attrs.get("pads", ())) or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    counts_padding = op_of(node) == "AveragePool" and padded and bool(node.attrs.get("count_include_pad", 0))
    return (pools(node) and not counts_padding) or (op_of(node) == "Flatten" and flattens_each(node))


def _shift(node: gs.Node, layer: Layer, shift: Float, names: Namer) -> None:
    """Add to a layer's bias what its weight makes of the shift."""
    weight = np.asarray(input_constant(node, 1), np.float64)
    if layer.op == "Conv":
        taps = weight.reshape(layer.groups, weight.shape[0] // layer.groups, weight.shape[1], -1).sum(axis=3)
        added = np.einsum("goi,gi->go", taps, shift.reshape(layer.groups, -1)).reshape(-1)
    else:
        rows = weight if layer.axis == 0 else weight.T
        added = rows @ np.repeat(shift, rows.shape[1] // len(shift))
    bias = input_constant(node, 2)
    total = added if bias is None else np.asarray(bias, np.float64).reshape(-1) + added
    tensor = gs.Constant(names(f"{node.name}.bias"), total.astype(np.float32))
    node.inputs = [*node.inputs[:2], tensor]


def _spread(graph: gs.Graph, source: gs.Tensor, ranges: dict[str, tuple[float, float]]) -> None:
    """Give what only moves or pools the tensor now its range, in place of that of the shifted one."""
    stack = [source]
    while stack:
        tensor = stack.pop()
        for node in consumers(tensor):
            if _passes_shift(node):
                ranges.update({t.name: ranges[tensor.name] for t in node.outputs if tensor.name in ranges})
                stack.extend(node.outputs)
