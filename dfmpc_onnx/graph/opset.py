"""Changes of a whole graph that onnx itself makes: to another opset, node by node, and calls of functions inlined."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.edit import detached_weights
from dfmpc_onnx.graph.operators import is_standard, name_domains, op_of
from dfmpc_onnx.graph.query import constant, has_input


def ir_version_for(opset: int) -> int:
    """The lowest IR version that the specification pairs with an opset of the standard domain."""
    version: int = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)], True)
    return version


RESIZE_BY_MODES = 11  # the opset whose Resize states where it reads
OLDEST_RUN = 7  # the oldest opset of the standard domain that onnxruntime promises to run


class ConversionRefused(Exception):
    """The graph cannot be moved to the wanted opset; says why."""


# The first opset whose form of an operator onnxruntime 1.32 has no kernel for, although it loads the opset.
WITHOUT_KERNEL = {"RoiAlign": 22}


def obstacle(graph: gs.Graph, version: int) -> str | None:
    """Why a graph cannot get to an opset, before it is tried; None where conversion may be tried."""
    for node in graph.nodes:
        first = WITHOUT_KERNEL.get(op_of(node), version + 1)
        if graph.opset < first <= version:
            return f"onnxruntime has no {node.op} of opset {first}"
    if graph.functions:
        return "the model has local functions"
    if any(True for _ in graph.subgraphs(recursive=True)):
        return "the model has control-flow subgraphs, which the converter does not enter"
    foreign = sorted({node.domain for node in graph.nodes if not is_standard(node)})
    return f"the model has operators of domain '{shown(foreign[0])}'" if foreign else None


def convert(graph: gs.Graph, version: int) -> gs.Graph:
    """The same network in opset `version` of the standard domain; raises ConversionRefused.

    Weights are not copied. Tensor and node names stay; nodes of other domains stay as they are.
    """
    if graph.opset == version:
        return graph
    reason = obstacle(graph, version)
    if reason:
        raise ConversionRefused(reason)
    result = _rewrite(
        graph,
        lambda skeleton: onnx.version_converter.convert_version(skeleton, version),
        f"from opset {graph.opset} to {version}",
    )
    if graph.opset < RESIZE_BY_MODES <= version:
        _keep_sampling(result)
    result.ir_version = ir_version_for(version)
    return result


def _keep_sampling(graph: gs.Graph) -> None:
    """Let every Resize read where Upsample and Resize did before opset 11, as onnxruntime runs these.

    onnx's converter (seen in 1.23) leaves the modes to their defaults, which read half a pixel beside. The nearest of
    two was the lower one where a map grows and the higher one where it shrinks.
    """
    for node in graph.nodes:
        if op_of(node) != "Resize" or "coordinate_transformation_mode" in node.attrs:
            continue
        node.attrs["coordinate_transformation_mode"] = "asymmetric"
        if node.attrs.get("mode", "nearest") == "nearest":
            scales = constant(node.inputs[2]) if has_input(node, 2) else None
            shrinks = scales is not None and bool((np.asarray(scales, np.float32) < 1).any())
            node.attrs["nearest_mode"] = "ceil" if shrinks else "floor"


def inline_functions(graph: gs.Graph) -> gs.Graph:
    """The same network with every call of a function of the model's own replaced by the nodes of its body.

    The graph must be valid: then every operator means the same in a function's opset as in the model's, should the two
    differ. Raises ConversionRefused.
    """
    result = _rewrite(graph, _inline, "its functions cannot be inlined")
    if result.functions:
        raise ConversionRefused(f"its function '{shown(result.functions[0].name)}' cannot be inlined")
    result.ir_version = graph.ir_version
    return result


def _inline(model: onnx.ModelProto) -> onnx.ModelProto:
    versions = {opset.domain: opset.version for opset in model.opset_import}
    for function in model.functions:
        for opset in function.opset_import:  # onnx leaves calls across opsets alone
            opset.version = versions.get(opset.domain, opset.version)
    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(model)
    return inlined


def _rewrite(graph: gs.Graph, change: Callable[[onnx.ModelProto], onnx.ModelProto], what: str) -> gs.Graph:
    """What a change of the exported model makes of a graph; weights are handed over, not copied."""
    with detached_weights(graph) as names:
        skeleton = gs.export_onnx(graph, ir_version=max(graph.ir_version or 0, ir_version_for(graph.opset)))
    try:
        changed = change(skeleton)
    except Exception as error:  # onnx raises RuntimeError, ConvertError and others of C++ origin
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConversionRefused(f"{what}: {shown(lines[0])}") from None
    result = gs.import_onnx(changed)
    name_domains(result)
    weights = graph.tensors()
    inputs = []
    wanted = set(names)
    for tensor in result.inputs:
        if tensor.name in wanted:
            tensor.to_constant(weights[tensor.name]._values)
        else:
            inputs.append(tensor)
    result.inputs = inputs
    result.producer_name, result.producer_version = graph.producer_name, graph.producer_version
    return result
