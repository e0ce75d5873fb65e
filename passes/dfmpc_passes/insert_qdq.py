"""Put QuantizeLinear and DequantizeLinear around the layers that shall compute in integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import ClassVar, Literal

import msgspec
import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer, insert
from dfmpc_onnx.graph.operators import dequantizes, quantizes
from dfmpc_onnx.graph.query import (
    consumers,
    has_input,
    input_constant,
    is_output,
    nodes_by_name,
)
from dfmpc_onnx.numerics.arrays import Float32
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.numerics.ranges import QParams
from dfmpc_onnx.pipeline.facts import Codes, FinalOpset, FloatLayers, FoldedBatchNorms, Layer, Layers, Placement, Ranges
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.settings import WIDE_ACTIVATION_BITS
from dfmpc_onnx.pipeline.target_rules import Target
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.activation_grids import (
    activation_bits_of,
    activation_qparams,
    constant_of,
    few_bit_qparams,
    fixed_ranges,
)
from dfmpc_onnx.qdq.added_numbers import quantize_numbers, quantize_operands
from dfmpc_onnx.qdq.beside_integers import (
    guard_float_layers,
    keep_from_gemm,
    keep_from_relu,
    move_float,
    pad_codes,
    part_from_quantizers,
    pool_floats,
    read_beside_layers,
    read_float,
)
from dfmpc_onnx.qdq.decoder import fits_int8, integer_scale
from dfmpc_onnx.qdq.int8_biases import quantize_int8_biases
from dfmpc_onnx.qdq.mixed_widths import ActivationForms, convert_between_widths, mixed_forms, wide_tensors
from dfmpc_onnx.qdq.placed_times import PlacedTimes
from dfmpc_onnx.qdq.placement import IN_FLOAT, Placer, Sites
from dfmpc_onnx.qdq.taken_operators import not_taken, not_taken_warning
from dfmpc_onnx.quantization.grid_rules import GridRules
from dfmpc_onnx.quantization.weight_grids import nearest

Parameters = dict[str, QParams]
OPSET_OF_MISTYPED_CODES = 21  # from which on onnxruntime quantizes again with the wrong type: see `move_float`
BIAS_LIMIT = 2**30  # leaves as much again for the sum of products in an int32 accumulator


class InsertQDQ(Pass[NoOptions]):
    """Before: x -> Conv -> Relu -> y
    After: x -> QuantizeLinear -> DequantizeLinear -> Conv -> Relu -> QuantizeLinear -> DequantizeLinear -> y

    Why: q = clip(round(x / s) + z, 0, 255) with s, z from the range. Runtimes fuse DequantizeLinear, layer and
    QuantizeLinear to one integer kernel. The bias becomes int32 with the scale s_x s_w, which every version fuses. A
    Pad with zeros works on the codes. For TensorRT z is 0, codes lie in -127..127, biases stay in float, and only what
    layers read is quantized, with all branches of a sum but the one whose Conv takes in the sum. A target that wants
    all quantized gets codes on both sides of every operator, and of constants beside them. Where it mixes widths, what
    a file for `cpu` would leave in float has 16 bits, with all that the nodes around it read and give; a QuantizeLinear
    of the reader's width behind a DequantizeLinear of the other is the step between two widths.

    Requires: ranges, codes, BatchNormalization folded (it would block the fusion), the final opset.

    Refuses when: the range of a layer's input or output is not known: its weight stays integer in the file and is
    decoded to float at load; so in an opset below 13. A channel whose bias int32 cannot hold at the scale of its
    products has products that are nothing beside its bias: its weights are rounded to a coarser scale. Where one
    scale serves all channels the layer computes in float instead, since onnxruntime would quantize a float bias by
    itself, and overflow. So does a layer whose codes less their zero points INT8 cannot hold, which only 8-bit codes
    with a zero point can come to; or 7 bits, where a reduced range is asked for. A node of an operator that the target
    does not take is named; the processor will run it.

    Reference: Jacob et al. 2018, section 2; the ONNX QDQ format.
    """

    name = "insert_qdq"
    requires: ClassVar = (Ranges, Codes, Layers, FoldedBatchNorms, FinalOpset)
    provides: ClassVar = (Placement, Codes)

    def run(self, workspace: Workspace) -> PassResult:
        target = workspace.settings.target
        left = tuple(Refusal.of(name, why) for name, why in not_taken(workspace.graph, target).items())
        warnings = not_taken_warning(workspace.graph, target)
        result = self._quantize(workspace)
        return msgspec.structs.replace(
            result, refusals=(*result.refusals, *left), warnings=(*result.warnings, *warnings)
        )

    def _quantize(self, workspace: Workspace) -> PassResult:
        if workspace.settings.activations == "none":
            workspace.put(Placement(frozenset()))
            return PassResult(self.name, notes=("activations stay in float",))
        graph = workspace.graph
        settings = workspace.settings
        if graph.opset < settings.lowest_opset:
            workspace.put(Placement(frozenset()))
            wide = settings.activation_bits == WIDE_ACTIVATION_BITS or settings.mixes_widths
            lacks = "of 16 bits" if wide else "with an axis"
            why = f"opset {graph.opset} has no DequantizeLinear {lacks}; activations stay in float"
            return PassResult(self.name, refusals=(Refusal("model", why, "opset-too-old"),), warnings=(why,))
        layers, target = workspace.get(Layers).by_name(), workspace.settings.target
        sites = Placer.of(workspace).place()
        on_cpu = target.between and not target.all_quantized
        late = PlacedTimes(graph, sites, workspace.inputs.shapes).slower() if on_cpu else ()
        names = Namer(graph)
        kind = activation_qparams(settings)(0.0, 0.0)[1].dtype
        given = quantized_before(graph, kind)
        forms, nodes = _forms(workspace, sites, given), nodes_by_name(graph)
        reads = {name: forms.read(nodes[name], nodes[name].inputs[0].name) for name in sites.layers}
        _give_scales_of(target, workspace, sites.layers)
        with_bias = sites.layers if target.bias == "int32" else frozenset[str]()
        coarser = _make_room_for_biases(workspace, layers, with_bias, reads)
        codes = workspace.codes()
        reduced = settings.reduce_range
        unfit = frozenset(name for name in sites.layers if not fits_int8(codes[name], reduced))
        biases, float_biases = _quantize_biases(graph, layers, with_bias - unfit, codes, reads, names)
        integer = sites.layers - unfit - set(float_biases)
        own = {id(node) for node in graph.nodes if dequantizes(node)}
        tensors = graph.tensors()
        new = {n: p for n, p in forms.made.items() if not _is_quantized_outside(graph, tensors[n], given, kind)}
        decoded = _insert(graph, new, names)
        convert_between_widths(graph, forms, {**{name: tensors[name] for name in given}, **decoded}, names)
        if target.bias == "int8":
            biases = quantize_int8_biases(graph, integer, names)
        insert(graph, before=biases)
        kept = _fit_neighbours(workspace, sites, integer, own, names)
        workspace.put(Placement(integer, activation_bits_of(workspace, forms.made)))
        rewrites = tuple(
            Rewrite(name, f"quantized to {zero.dtype.name}", {"scale": float(scale), "zero_point": int(zero)})
            for name, (scale, zero) in forms.made.items()
        )
        rewrites += tuple(Rewrite(name, f"{n} channels rounded coarser for their bias") for name, n in coarser.items())
        spared = workspace.find(FloatLayers) if not settings.mixes_widths else None
        left = {n: why for n, why in spared.layers.items() if n in codes} if spared is not None else {}
        refusals = _refusals(sites.refused, float_biases, left, unfit, reduced)
        how = "stays float behind a Max of one input" if target.between else "reads what is not quantized"
        notes = tuple(f"{name} {how}" for name in kept)
        return PassResult(self.name, rewrites, refusals, notes, late)


def _fit_neighbours(
    workspace: Workspace, sites: Sites, integer: frozenset[str], own: set[int], names: Namer
) -> list[str]:
    """Let what stands beside the integer layers be what the target wants of it; returns the layers kept in float."""
    graph, settings, layers = workspace.graph, workspace.settings, workspace.get(Layers)
    if settings.target.every_operator:
        quantize_operands(graph, lambda bits: activation_qparams(settings, bits), names)
        return guard_float_layers(graph, layers, integer, names, operands=2)
    if settings.target.between:
        quantize_numbers(graph, names)
        pool_floats(graph, sites.pools, own, names)
        pad_codes(graph)
        keep_from_relu(graph, integer, names)
        if settings.target.signed and graph.opset >= OPSET_OF_MISTYPED_CODES:
            move_float(graph, own, to_floats=True)
        return guard_float_layers(graph, layers, integer, names)
    kept = read_float(graph, layers, integer, own)
    if settings.few_bits is not None:
        read_beside_layers(graph, integer, own)
    move_float(graph, own)
    keep_from_gemm(graph, integer, names)
    if settings.few_bits is not None and settings.target.quantizers == "qdq":
        part_from_quantizers(graph, names)
    return kept


def _forms(workspace: Workspace, sites: Sites, given: Parameters) -> ActivationForms:
    """Scale and zero point of each tensor to quantize. given: of those that the model had."""
    graph, settings = workspace.graph, workspace.settings
    few = few_bit_qparams(workspace, sites.layers)

    def of_width(bits: Literal[8, 16]) -> Parameters:
        ranges = {**workspace.get(Ranges).tensors, **fixed_ranges(graph, settings, bits)}
        qparams = activation_qparams(settings, bits)
        return {name: few.get(name) or qparams(*ranges[like]) for name, like in sites.tensors.items()}

    usual = of_width(settings.activation_bits)
    usual |= {name: parameters for name, parameters in given.items() if name in usual}
    if not settings.mixes_widths:
        return ActivationForms(usual)
    return mixed_forms(graph, usual, of_width(16), wide_tensors(workspace, sites), given)


def _refusals(
    refused: Mapping[str, Reason],
    float_biases: Collection[str],
    spared: Mapping[str, Reason],
    unfit: Collection[str],
    reduced: bool,
) -> tuple[Refusal, ...]:
    """The layers that compute in float although their activations could be quantized, each with the reason."""
    refusals = [Refusal.of(name, reason) for name, reason in refused.items()]
    refusals += [
        Refusal(name, f"its bias does not fit int32 at the scale of its products; {IN_FLOAT}", "bias-too-large")
        for name in float_biases
    ]
    refusals += [Refusal(name, f"{why}; {IN_FLOAT}", why.code) for name, why in sorted(spared.items())]
    most = "7 bits, the reduced range" if reduced else "INT8"
    refusals += [
        Refusal(name, f"its codes less their zero points do not fit {most}; {IN_FLOAT}", "codes-too-wide")
        for name in sorted(unfit)
    ]
    return tuple(refusals)


def quantized_before(graph: gs.Graph, kind: np.dtype[np.generic]) -> Parameters:
    """Scale and zero point of the tensors that a DequantizeLinear of the model's own makes, one for all.

    kind: of the codes that the target wants.
    """
    found: Parameters = {}
    for node in graph.nodes:
        if not dequantizes(node) or not has_input(node, 2):
            continue
        scale, zero = input_constant(node, 1), input_constant(node, 2)
        if scale is not None and zero is not None and scale.size == zero.size == 1 and zero.dtype == kind:
            found[node.outputs[0].name] = np.float32(scale.reshape(())), zero.reshape(-1)[0]
    return found


def _codes_of(node: gs.Node) -> np.dtype[np.generic]:
    """The type that a QuantizeLinear rounds to: that of its zero point, uint8 where it has none."""
    zero = input_constant(node, 2) if has_input(node, 2) else None
    return zero.dtype if zero is not None else np.dtype(np.uint8)


def _is_quantized_outside(graph: gs.Graph, tensor: gs.Tensor, given: Parameters, kind: np.dtype[np.generic]) -> bool:
    """Whether a tensor comes from a DequantizeLinear of the model's own, or goes to nothing but a QuantizeLinear.

    kind: of the codes that the target wants; a layer does not fuse with a QuantizeLinear to another type than its
    input's, and gets one in front of that.
    """
    readers = consumers(tensor)
    alone = bool(readers) and all(quantizes(node) and _codes_of(node) == kind for node in readers)
    return tensor.name in given or (alone and not is_output(graph, tensor))


def _insert(graph: gs.Graph, parameters: Mapping[str, QParams], names: Namer) -> dict[str, gs.Tensor]:
    """QuantizeLinear and DequantizeLinear behind each tensor; every reader then reads the dequantized value.

    Returns the dequantized values, by name of the tensor.

    Codes and dequantized values are called a0.q and a0, a1.q and a1, ..., since names are stored several times each and
    those of activations are long; no types and shapes are declared, which follow from those of the tensor.
    """
    after: dict[int, list[gs.Node]] = {}
    first: list[gs.Node] = []
    made: dict[str, gs.Tensor] = {}
    tensors = graph.tensors()
    shared: dict[tuple[str, bytes], gs.Constant] = {}

    def once(stem: str, value: np.generic) -> gs.Constant:
        key = (value.dtype.name, value.tobytes())
        if key not in shared:
            shared[key] = constant_of(names(stem), np.array(value))
        return shared[key]

    for index, (name, (scale, zero)) in enumerate(parameters.items()):
        tensor, stem = tensors[name], names(f"a{index}")
        readers = consumers(tensor)
        source = tensor.inputs[0] if tensor.inputs else None
        constants = [once(f"{stem}.scale", np.float32(scale)), once(f"{stem}.zp", zero)]
        if is_output(graph, tensor) and source is not None:
            # The model's output keeps its name: it is now the dequantized tensor. (An input passed out stays as it is.)
            raw = gs.Variable(names(f"{name}.float"), tensor.dtype, tensor.shape)
            source.outputs = [raw if t is tensor else t for t in source.outputs]
            decoded = tensor
        else:
            raw, decoded = tensor, gs.Variable(stem)
        made[name] = decoded
        quantized = gs.Variable(names(f"{stem}.q"))
        for node in readers:
            node.inputs = [decoded if t is tensor else t for t in node.inputs]
        nodes = [
            gs.Node("QuantizeLinear", quantized.name, {}, [raw, *constants], [quantized]),
            gs.Node("DequantizeLinear", stem, {}, [quantized, *constants], [decoded]),
        ]
        if source is None:
            first.extend(nodes)
        else:
            after.setdefault(id(source), []).extend(nodes)
    insert(graph, after=after, first=first)
    return made


def _give_scales_of(target: Target, workspace: Workspace, names: Collection[str]) -> None:
    """Round weights again whose scales what was folded into them has made others than the target allows."""
    rules, nodes = GridRules.of(target), nodes_by_name(workspace.graph)
    layers, codes = workspace.get(Layers).by_name(), workspace.codes()
    for name in sorted(names):
        if not rules.allow(codes[name].scale, layers[name].op):
            fresh = nearest(codes[name].dequantize(), layers[name], codes[name].bits, rules)
            workspace.set_weight(nodes[name], fresh)


def _make_room_for_biases(
    workspace: Workspace, layers: dict[str, Layer], integer: frozenset[str], reads: Parameters
) -> dict[str, int]:
    """Coarser scales for the channels whose bias int32 could not hold; returns how many by layer.

    reads: scale and zero point of what each layer reads.
    """
    nodes, codes = nodes_by_name(workspace.graph), workspace.codes()
    found = {}
    for name in sorted(integer):
        node, weight = nodes[name], codes[name]
        bias = input_constant(node, 2) if has_input(node, 2) else None
        if bias is None or bias.size != weight.scale.size:
            continue
        # Twice over, since the half-step grid dequantizes with half its scale.
        room = BIAS_LIMIT * float(reads[name][0])
        least = (2 * np.abs(bias.astype(np.float64)) / room).reshape(weight.scale.shape).astype(np.float32)
        weight = _with_live_scales(weight, layers[name].axis, least)
        wider = weight.widened(least)
        if wider is not weight:
            found[name] = int((wider.scale != weight.scale).sum())
        if wider is not codes[name]:
            workspace.set_weight(node, wider)
    return found


def _with_live_scales(weight: QuantizedWeight, axis: int, least: Float32) -> QuantizedWeight:
    """Dead channels, whose codes all stand for 0, with the smallest scale of the others: their bias is counted in it.

    least: what scales must be for biases to fit, shaped like scale. Where all are dead the largest of these serves.
    """
    if weight.scale.size != weight.codes.shape[axis]:
        return weight  # one scale for all: it is the others' already
    others = tuple(i for i in range(weight.codes.ndim) if i != axis)
    dead = (weight.codes == weight.zero_point).all(axis=others).reshape(weight.scale.shape)
    if not dead.any() or (dead.all() and not least.any()):
        return weight
    smallest = least.max() if dead.all() else weight.scale[~dead].min()
    return dataclasses.replace(weight, scale=np.where(dead, smallest, weight.scale).astype(np.float32))


def _quantize_biases(
    graph: gs.Graph,
    layers: dict[str, Layer],
    integer: frozenset[str],
    codes: Mapping[str, QuantizedWeight],
    reads: Parameters,
    names: Namer,
) -> tuple[dict[int, list[gs.Node]], list[str]]:
    """int32 biases at the scale of the products: nodes to put in front of each layer, and the layers left float."""
    nodes = nodes_by_name(graph)
    before: dict[int, list[gs.Node]] = {}
    left = []
    for index, name in enumerate(sorted(integer)):
        node = nodes[name]
        if not has_input(node, 2):
            continue
        bias = input_constant(node, 2)
        scale = integer_scale(codes[name]) * reads[name][0]
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
        stem = names(f"b{index}")
        flat = scale if scale.size > 1 else scale.reshape(())
        decoded = gs.Variable(stem)
        inputs = [
            gs.Constant(names(f"{stem}.codes"), values),
            gs.Constant(names(f"{stem}.scale"), np.asarray(flat, np.float32)),
        ]
        attrs = {"axis": 0} if scale.size > 1 else {}
        before[id(node)] = [gs.Node("DequantizeLinear", stem, attrs, inputs, [decoded])]
        node.inputs[2] = decoded
    return before, sorted(left)
