"""Put QuantizeLinear and DequantizeLinear around the layers that shall compute in integers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.decoding import fits_int8, integer_scale
from dfmpc_onnx.facts import Codes, Folded, Layer, Layers, Placement, Raised, Ranges
from dfmpc_onnx.graph import Namer, consumers, has_input, input_constant, insert, is_output, nodes_by_name, producer
from dfmpc_onnx.manager import NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.numerics.ranges import unsigned_qparams
from dfmpc_onnx.targets import Placer
from dfmpc_onnx.workspace import Workspace

BIAS_LIMIT = 2**30  # leaves as much again for the sum of products in an int32 accumulator


class InsertQDQ(Pass[NoOptions]):
    """Before: x -> Conv -> Relu -> y
    After: x -> QuantizeLinear -> DequantizeLinear -> Conv -> Relu -> QuantizeLinear -> DequantizeLinear -> y

    Why: q = clip(round(x / s) + z, 0, 255) with s, z from the range. Runtimes fuse DequantizeLinear, layer and
    QuantizeLinear to one integer kernel. The bias becomes int32 with the scale s_x s_w, which every version fuses.

    Requires: ranges, codes, BatchNormalization folded (it would block the fusion), the final opset.

    Refuses when: the range of a layer's input or output is not known: its weight stays integer in the file and is
    decoded to float at load; so in an opset below 13. A channel whose bias int32 cannot hold at the scale of its
    products has products that are nothing beside its bias: its weights are rounded to a coarser scale. Where one
    scale serves all channels the layer computes in float instead, since onnxruntime would quantize a float bias by
    itself, and overflow. So does a layer whose codes less their zero points INT8 cannot hold, which only 8-bit codes
    with a zero point can come to.

    Reference: Jacob et al. 2018, section 2; the ONNX QDQ format.
    """

    name = "insert_qdq"
    requires: ClassVar = (Ranges, Codes, Layers, Folded, Raised)
    provides: ClassVar = (Placement, Codes)

    def run(self, workspace: Workspace) -> PassResult:
        if workspace.settings.activations == "none":
            workspace.put(Placement(frozenset()))
            return PassResult(self.name, notes=("activations stay in float",))
        graph = workspace.graph
        if graph.opset < 13:
            workspace.put(Placement(frozenset()))
            why = f"opset {graph.opset} has no DequantizeLinear with an axis; activations stay in float"
            return PassResult(self.name, refusals=(Refusal("model", why),), warnings=(why,))
        codes = dict(workspace.get(Codes).weights)
        ranges = workspace.get(Ranges).tensors
        layers = {layer.name: layer for layer in workspace.get(Layers).all if layer.name in codes}
        sites = Placer(graph, layers, ranges).place()
        names = Namer(graph)
        parameters = {name: unsigned_qparams(*ranges[like]) for name, like in sites.tensors.items()}
        coarser = _make_room_for_biases(graph, layers, sites.layers, codes, parameters)
        workspace.put(Codes(codes))
        unfit = frozenset(name for name in sites.layers if not fits_int8(codes[name]))
        biases, float_biases = _quantize_biases(graph, layers, sites.layers - unfit, codes, parameters, names)
        integer = sites.layers - unfit - set(float_biases)
        _insert(graph, parameters, names)
        insert(graph, before=biases)
        guarded = _guard_float_layers(graph, workspace.get(Layers), integer, names)
        workspace.put(Placement(integer))
        rewrites = tuple(
            Rewrite(name, "quantized to uint8", {"scale": float(scale), "zero_point": int(zero)})
            for name, (scale, zero) in parameters.items()
        )
        rewrites += tuple(Rewrite(name, f"{n} channels rounded coarser for their bias") for name, n in coarser.items())
        refusals = [Refusal(name, reason) for name, reason in sites.refused.items()]
        refusals += [
            Refusal(name, "its bias does not fit int32 at the scale of its products; integer weights, float arithmetic")
            for name in float_biases
        ]
        refusals += [
            Refusal(name, "its codes less their zero points do not fit INT8; integer weights, float arithmetic")
            for name in sorted(unfit)
        ]
        notes = tuple(f"{name} stays float behind a Max of one input" for name in guarded)
        return PassResult(self.name, rewrites, tuple(refusals), notes)


def _insert(graph: gs.Graph, parameters: dict[str, tuple[np.float32, np.uint8]], names: Namer) -> None:
    """QuantizeLinear and DequantizeLinear behind each tensor; every reader then reads the dequantized value."""
    after: dict[int, list[gs.Node]] = {}
    first: list[gs.Node] = []
    tensors = graph.tensors()
    for name, (scale, zero) in parameters.items():
        tensor = tensors[name]
        readers = consumers(tensor)
        source = tensor.inputs[0] if tensor.inputs else None
        constants = [
            gs.Constant(names(f"{name}.scale"), np.array(scale, np.float32)),
            gs.Constant(names(f"{name}.zp"), np.array(zero, np.uint8)),
        ]
        if is_output(graph, tensor) and source is not None:
            # The model's output keeps its name: it is now the dequantized tensor. (An input passed out stays as it is.)
            raw = gs.Variable(names(f"{name}.float"), tensor.dtype, tensor.shape)
            source.outputs = [raw if t is tensor else t for t in source.outputs]
            decoded = tensor
        else:
            raw, decoded = tensor, gs.Variable(names(f"{name}.dq"), np.float32, tensor.shape)
        quantized = gs.Variable(names(f"{name}.q"), np.uint8, tensor.shape)
        for node in readers:
            node.inputs = [decoded if t is tensor else t for t in node.inputs]
        nodes = [
            gs.Node("QuantizeLinear", names(f"{name}.QuantizeLinear"), {}, [raw, *constants], [quantized]),
            gs.Node("DequantizeLinear", names(f"{name}.DequantizeLinear"), {}, [quantized, *constants], [decoded]),
        ]
        if source is None:
            first.extend(nodes)
        else:
            after.setdefault(id(source), []).extend(nodes)
    insert(graph, after=after, first=first)


def _guard_float_layers(graph: gs.Graph, layers: Layers, integer: frozenset[str], names: Namer) -> list[str]:
    """Keep float layers float: onnxruntime quantizes the float weight of a layer between QDQ nodes by itself.

    It looks for a DequantizeLinear right in front of the layer (WeightBiasQuantization, seen in 1.31). A Max of
    one input changes no value and is not optimized away, so the layer no longer fits. May go when onnxruntime
    leaves such layers alone.
    """
    nodes = nodes_by_name(graph)
    before: dict[int, list[gs.Node]] = {}
    for layer in layers.all:
        node = nodes[layer.name]
        source = producer(node.inputs[0])
        if layer.name in integer or source is None or source.op != "DequantizeLinear":
            continue
        same = gs.Variable(names(f"{layer.name}.float_input"), np.float32, node.inputs[0].shape)
        before[id(node)] = [gs.Node("Max", names(f"{layer.name}.Max"), {}, [node.inputs[0]], [same])]
        node.inputs[0] = same
    insert(graph, before=before)
    return [layer.name for layer in layers.all if id(nodes[layer.name]) in before]


def _make_room_for_biases(
    graph: gs.Graph,
    layers: dict[str, Layer],
    integer: frozenset[str],
    codes: dict[str, QuantizedWeight],
    parameters: dict[str, tuple[np.float32, np.uint8]],
) -> dict[str, int]:
    """Coarser scales for the channels whose bias int32 could not hold; returns how many by layer."""
    nodes = nodes_by_name(graph)
    found = {}
    for name in sorted(integer):
        node, weight = nodes[name], codes[name]
        bias = input_constant(node, 2) if has_input(node, 2) else None
        if bias is None or bias.size != weight.scale.size:
            continue
        # Twice over, since the half-step grid dequantizes with half its scale.
        least = 2 * np.abs(bias.astype(np.float64)) / (BIAS_LIMIT * float(parameters[node.inputs[0].name][0]))
        weight = _with_live_scales(weight, layers[name].axis)
        wider = weight.widened(least.reshape(weight.scale.shape).astype(np.float32))
        if wider is not weight:
            found[name] = int((wider.scale != weight.scale).sum())
        if wider is not codes[name]:
            codes[name] = wider
            node.inputs[1].values = wider.dequantize()
    return found


def _with_live_scales(weight: QuantizedWeight, axis: int) -> QuantizedWeight:
    """Dead channels, whose codes are all zero, with the smallest scale of the others: their bias is counted in it."""
    if weight.scale.size != weight.codes.shape[axis]:
        return weight  # one scale for all: it is the others' already
    rows = np.moveaxis(weight.codes, axis, 0).reshape(weight.codes.shape[axis], -1)
    dead = ~rows.any(axis=1).reshape(weight.scale.shape) & (weight.zero_point == 0)
    if not dead.any() or dead.all():
        return weight
    return dataclasses.replace(weight, scale=np.where(dead, weight.scale[~dead].min(), weight.scale).astype(np.float32))


def _quantize_biases(
    graph: gs.Graph,
    layers: dict[str, Layer],
    integer: frozenset[str],
    codes: dict[str, QuantizedWeight],
    parameters: dict[str, tuple[np.float32, np.uint8]],
    names: Namer,
) -> tuple[dict[int, list[gs.Node]], list[str]]:
    """int32 biases at the scale of the products: nodes to put in front of each layer, and the layers left float."""
    nodes = nodes_by_name(graph)
    before: dict[int, list[gs.Node]] = {}
    left = []
    for name in sorted(integer):
        node = nodes[name]
        if not has_input(node, 2):
            continue
        bias = input_constant(node, 2)
        scale = integer_scale(codes[name]) * parameters[node.inputs[0].name][0]
        out = layers[name].shape[layers[name].axis]
        if (
            bias is None
            or bias.size != out
            or not np.all(scale > 0)  # two tiny scales may have a product of 0
            or not np.all(np.abs(bias.reshape(-1) / scale.astype(np.float64)) < BIAS_LIMIT)
        ):
            left.append(name)
            continue
        values = np.rint(bias.reshape(-1).astype(np.float64) / scale.astype(np.float64)).astype(np.int32)
        stem = f"{name}.bias"
        flat = scale if scale.size > 1 else scale.reshape(())
        decoded = gs.Variable(names(f"{stem}.dq"), np.float32)
        inputs = [
            gs.Constant(names(f"{stem}.codes"), values),
            gs.Constant(names(f"{stem}.scale"), np.asarray(flat, np.float32)),
        ]
        attrs = {"axis": 0} if scale.size > 1 else {}
        before[id(node)] = [gs.Node("DequantizeLinear", names(f"{stem}.DequantizeLinear"), attrs, inputs, [decoded])]
        node.inputs[2] = decoded
    return before, sorted(left)
