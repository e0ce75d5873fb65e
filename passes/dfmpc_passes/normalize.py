"""Bring a graph into the one form that the other passes expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx.shape_inference
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.graph.constant_folding import fold_constants
from dfmpc_onnx.graph.edit import Namer, detached_weights, insert, remove, remove_unused, replace_reads
from dfmpc_onnx.graph.half_precision import has_half_layers, widen
from dfmpc_onnx.graph.operators import is_standard, op_of
from dfmpc_onnx.graph.opset import OLDEST_RUN, ConversionRefused, convert, inline_functions
from dfmpc_onnx.graph.query import (
    constant,
    consumers,
    element_type,
    has_input,
    input_constant,
)
from dfmpc_onnx.graph.shared_constants import unshare
from dfmpc_onnx.graph.weight_checks import check_sizes, check_unoptimized, check_weights, misfits
from dfmpc_onnx.pipeline.facts import Normalized
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace

POOLED_TYPES = (np.dtype(np.float32), np.dtype(np.float16))
LOWEST_OPSET = 13  # the first whose DequantizeLinear takes an axis


class Normalize(Pass[NoOptions]):
    """Before: Constant -> Cast -> Transpose -> Conv(x, w); Dropout; opset 9; calls of functions; float16
    After: Conv(x, w) with w a float32 initializer of its own; opset 13 or higher; every node named once

    Why: the passes behind read weights as initializers and name sites by their node. A weight that several nodes
    share is given to each of them, since each has a BatchNormalization and scales of its own; which share one is
    remembered, so that they get one set of codes. What nodes make of constants alone is worked out.
    A network in half precision is computed in float32, which changes nothing but that it no longer rounds; its inputs
    and outputs get their types back when weights are packed. A mean over height and width becomes GlobalAveragePool,
    which runtimes have integer kernels for.

    Requires: nothing.

    Refuses when: the opset cannot be converted (control flow, foreign operators): the graph keeps its opset, if
    runtimes run it. Half precision stays where a foreign operator or control flow may want it. A model without a Conv,
    with weights that are all generated or all quantized already, with NaN or absurd values in a weight, or with a
    weight that does not fit what it is fed, is refused as a whole.

    Reference: ONNX operator specification; onnx.version_converter.
    """

    name = "normalize"
    provides: ClassVar = (Normalized,)

    def run(self, workspace: Workspace) -> PassResult:
        graph = workspace.graph
        check_unoptimized(graph, workspace.label)
        rewrites: list[Rewrite] = []
        refusals: list[Refusal] = []
        warnings: tuple[str, ...] = ()
        if graph.functions:
            try:
                graph = workspace.graph = inline_functions(graph)
                rewrites.append(Rewrite("model", "functions of its own inlined"))
            except ConversionRefused as reason:
                refusals.append(Refusal("model", f"functions stay calls: {reason}", "functions-kept"))
        source_opset = graph.opset
        if graph.opset < LOWEST_OPSET:
            try:
                graph = workspace.graph = convert(graph, LOWEST_OPSET)
                rewrites.append(Rewrite("model", f"opset {source_opset} to {LOWEST_OPSET}"))
            except ConversionRefused as reason:
                if source_opset < OLDEST_RUN:
                    raise ModelError(
                        f"{workspace.label}: opset {source_opset} is older than onnxruntime runs ({OLDEST_RUN}), and "
                        f"cannot be converted ({reason}); export it with opset {LOWEST_OPSET} or higher"
                    ) from None
                refusals.append(Refusal("model", f"opset {source_opset} kept: {reason}", "opset-kept"))
        _name_nodes(graph)
        rewrites.extend(Rewrite(site, "computed scales beside sizes left out") for site in _needless_scales(graph))
        rewrites.extend(Rewrite(site, "Constant node to initializer") for site in _constants(graph))
        half = None
        if has_half_layers(graph):
            _infer_shapes(graph, workspace.label)
            try:
                graph, half = widen(graph)
                workspace.graph = graph
                workspace.inputs = workspace.inputs.with_dtype(half.inputs, np.dtype(np.float32))
                rewrites.append(Rewrite("model", f"{half.stored} to float32"))
                warnings = (
                    f"the network is {half.stored}: it computes in float32; its inputs and outputs stay as they are",
                )
            except ConversionRefused as reason:
                refusals.append(Refusal("model", f"half precision kept: {reason}", "half-precision-kept"))
        for action, change in (
            ("Identity or Dropout removed", _pass_through),
            ("computed from constants", fold_constants),
        ):
            rewrites.extend(Rewrite(site, action) for site in change(graph))
        copied, shared = unshare(graph)
        rewrites.extend(Rewrite(site, "shared weight copied") for site in copied)
        rewrites.extend(Rewrite(site, "alpha and beta folded into weight and bias") for site in _gemm_factors(graph))
        remove_unused(graph)
        _infer_shapes(graph, workspace.label)
        if wrong := misfits(graph):
            _forget_shapes(graph, {id(node.inputs[0]) for node, _, _ in wrong})
            _infer_shapes(graph, workspace.label)
        rewrites.extend(Rewrite(site, "ReduceMean to GlobalAveragePool") for site in _pooling(graph))
        check_weights(graph, workspace.label)
        check_sizes(graph, workspace.label)
        workspace.put(Normalized(graph.opset, half, shared))
        return PassResult(self.name, tuple(rewrites), tuple(refusals), warnings=warnings)


def _name_nodes(graph: gs.Graph) -> None:
    """Give every node a name of its own: its operator and number where it has none or shares one."""
    names = Namer(graph)
    seen: set[str] = set()
    for index, node in enumerate(graph.nodes):
        if not node.name or node.name in seen:
            node.name = names(node.name or f"{node.op}_{index}")
        seen.add(node.name)


def _constants(graph: gs.Graph) -> list[str]:
    sites, dead = [], []
    places = {id(t): place for place, t in enumerate(graph.outputs)}  # asked once: there may be as many as nodes
    for node in graph.nodes:
        if op_of(node) != "Constant":
            continue
        output = node.outputs[0]
        place = places.get(id(output))
        values = _constant_value(node) if place is None or output.outputs else None
        if values is not None:
            stored = gs.Constant(output.name, values)
            replace_reads(output, stored)
            if place is not None:  # a layer's weight that is given out, too
                graph.outputs[place] = stored
            sites.append(node.name)
            dead.append(node)
    remove(graph, dead)
    return sites


def _constant_value(node: gs.Node) -> np.ndarray | None:
    value = node.attrs.get("value")
    if isinstance(value, gs.Constant):
        return constant(value)
    for key, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in node.attrs:
            return np.array(node.attrs[key], dtype)
    return None


def _needless_scales(graph: gs.Graph) -> list[str]:
    """A Resize to sizes loses scales that a node computes: they must be empty, and opset 13 allows no such pair."""
    sites = []
    for node in graph.nodes:
        given = op_of(node) == "Resize" and has_input(node, 2) and has_input(node, 3)
        if not given or isinstance(node.inputs[2], gs.Constant):
            continue
        sizes = input_constant(node, 3)
        if sizes is None or sizes.size:
            node.inputs[2] = gs.Variable.empty()
            sites.append(node.name)
    return sites


def _gemm_factors(graph: gs.Graph) -> list[str]:
    """Gemm(x, w, c) with alpha and beta 1, where what they scale is constant."""
    done = []
    names = Namer(graph)
    made: dict[tuple[int, float], np.ndarray] = {}  # copies of one weight stay one array
    for node in graph.nodes:
        if op_of(node) != "Gemm":
            continue
        for key, index in (("alpha", 1), ("beta", 2)):
            factor = float(node.attrs.get(key, 1.0))
            values = input_constant(node, index) if has_input(node, index) else None
            if factor == 1.0 or values is None or values.dtype != np.float32:
                continue
            if not np.isfinite(values).all():
                continue  # reported where layers are looked for
            if (id(values), factor) not in made:
                with np.errstate(over="ignore", invalid="ignore"):
                    made[id(values), factor] = np.asarray(factor * values.astype(np.float64), np.float32)
            scaled = made[id(values), factor]
            if not np.isfinite(scaled).all():
                of = f"{key} {factor:.3g} of Gemm '{shown(node.name)}'"
                raise ModelError(f"{of} makes NaN or infinity of what it scales; the model is damaged")
            node.inputs[index] = gs.Constant(names(f"{node.inputs[index].name}.{key}"), scaled)
            node.attrs[key] = 1.0
            done.append(node.name)
    return list(dict.fromkeys(done))


def _pass_through(graph: gs.Graph) -> list[str]:
    sites, dead = [], []
    outputs = {id(t) for t in graph.outputs}
    for node in graph.nodes:
        if op_of(node) == "Identity" or (op_of(node) == "Dropout" and _inference_dropout(node)):
            source, output = node.inputs[0], node.outputs[0]
            if any(extra.outputs for extra in node.outputs[1:]) or any(id(t) in outputs for t in node.outputs):
                continue
            replace_reads(output, source)
            if consumers(output):
                continue  # read inside a control-flow subgraph
            sites.append(node.name)
            dead.append(node)
    remove(graph, dead)
    return sites


def _inference_dropout(node: gs.Node) -> bool:
    if not has_input(node, 2):
        return True
    training = input_constant(node, 2)
    return training is not None and not training.any()


def _pooling(graph: gs.Graph) -> list[str]:
    """Means over height and width of floats; GlobalAveragePool knows no integers, and runtimes have no double one."""
    sites = []
    names = Namer(graph)
    tails: dict[int, list[gs.Node]] = {}
    for node in graph.nodes:
        if op_of(node) != "ReduceMean" or element_type(node.inputs[0]) not in POOLED_TYPES:
            continue
        axes = node.attrs.get("axes")
        if axes is None and has_input(node, 1):
            axes = input_constant(node, 1)
        shape = node.inputs[0].shape
        if axes is None or np.ndim(axes) != 1 or shape is None or len(shape) != 4:
            continue
        if sorted(int(a) % 4 for a in axes) != [2, 3]:
            continue
        if node.attrs.get("keepdims", 1) == 0:
            pooled = gs.Variable(names(f"{node.name}_pooled"), node.inputs[0].dtype)
            tails[id(node)] = [
                gs.Node("Flatten", names(f"{node.name}_flat"), {"axis": 1}, [pooled], list(node.outputs))
            ]
            node.outputs = [pooled]
        node.op, node.attrs, node.inputs = "GlobalAveragePool", type(node.attrs)(), node.inputs[:1]
        sites.append(node.name)
    insert(graph, after=tails)
    return sites


def _infer_shapes(graph: gs.Graph, label: str) -> None:
    """Fill in types and shapes that follow from the inputs; what does not follow stays as the model states it.

    What a model states of its inner tensors may be stale: somebody changed its input, and runtimes do not mind until
    other nodes stand there. One statement that contradicts the inputs takes the word of all others with it.
    """
    with detached_weights(graph):
        skeleton = gs.export_onnx(graph, ir_version=graph.ir_version)
    foreign = {t.name for node in graph.nodes if not is_standard(node) for t in node.outputs}
    stated = [info for info in skeleton.graph.value_info if info.name in foreign]
    del skeleton.graph.value_info[:]
    skeleton.graph.value_info.extend(stated)
    for value in skeleton.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, check_type=False, strict_mode=False, data_prop=False)
    except onnx.shape_inference.InferenceError as error:  # of what no runtime loads, such as an output too many
        raise ModelError(f"{label}: {shown(str(error).splitlines()[0])}; the model is damaged") from None
    tensors = graph.tensors()
    outputs = [info for info in inferred.graph.output if info.type.tensor_type.HasField("shape")]
    for info in outputs:
        stated = tensors[info.name].shape
        # Runtimes read over a shape that is wrong, until they move the dimensions of what is quantized.
        if stated is not None and _contradicts(stated, info.type.tensor_type.shape.dim):
            tensors[info.name].shape = None
    outputs = [info for info in outputs if tensors[info.name].shape is None]
    if any(_stale(tensors.get(info.name), info) for info in inferred.graph.value_info):
        for name, tensor in tensors.items():
            if (
                isinstance(tensor, gs.Variable)
                and name not in foreign
                and tensor.inputs
                and tensor not in graph.outputs
            ):
                tensor.shape = None
    for info in (*inferred.graph.value_info, *outputs):
        tensor = tensors.get(info.name)
        if isinstance(tensor, gs.Variable) and info.type.HasField("tensor_type"):
            kind = info.type.tensor_type
            if tensor.dtype is None and kind.elem_type:
                tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if kind.HasField("shape") and tensor.dtype is not None:  # a shape without a type cannot be written
                shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim]
                if _known(shape) >= _known(tensor.shape) or _contradicts(tensor.shape, kind.shape.dim):
                    tensor.shape = shape


def _stale(tensor: gs.Tensor | None, inferred: onnx.ValueInfoProto) -> bool:
    """Whether a tensor's stated shape contradicts the one that follows from the inputs."""
    kind = inferred.type.tensor_type
    if not isinstance(tensor, gs.Variable) or tensor.shape is None or not kind.HasField("shape"):
        return False
    return _contradicts(tensor.shape, kind.shape.dim)


def _forget_shapes(graph: gs.Graph, wrong: set[int]) -> None:
    """Take off what the model states of inner tensors: some of it is another than the weights are made for.

    wrong: ids of tensors that lose their shape even where they are outputs.
    """
    kept = {id(t) for t in graph.inputs} | ({id(t) for t in graph.outputs} - wrong)
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and id(tensor) not in kept:
            tensor.shape = None


def _contradicts(stated: list[int | str | None], inferred: Sequence[onnx.TensorShapeProto.Dimension]) -> bool:
    """Whether a stated shape is another than what follows from the inputs, in rank or in a number."""
    return len(stated) != len(inferred) or any(
        isinstance(a, int) and b.HasField("dim_value") and a != b.dim_value
        for a, b in zip(stated, inferred, strict=True)
    )


def _known(shape: list[int | str | None] | None) -> int:
    """How many dimensions a shape says: -1 where not even their number is known."""
    return -1 if shape is None else sum(isinstance(dim, int) for dim in shape)
