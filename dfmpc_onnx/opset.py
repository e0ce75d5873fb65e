"""Opset conversion that converts the nodes, never only the number."""

from __future__ import annotations

import onnx.version_converter
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph import detached_weights, ir_version_for, shown


class ConversionRefused(Exception):
    """The graph cannot be moved to the wanted opset; says why."""


def obstacle(graph: gs.Graph) -> str | None:
    """Why a graph stays in its opset whatever the wanted one is; None where conversion may be tried."""
    if graph.functions:
        return "the model has local functions"
    if any(True for _ in graph.subgraphs(recursive=True)):
        return "the model has control-flow subgraphs, which the converter does not enter"
    foreign = sorted({node.domain for node in graph.nodes if node.domain not in (None, "", "ai.onnx")})
    return f"the model has operators of domain '{shown(foreign[0])}'" if foreign else None


def convert(graph: gs.Graph, version: int) -> gs.Graph:
    """The same network in opset `version` of the standard domain; raises ConversionRefused.

    Weights are not copied. Tensor and node names stay; nodes of other domains stay as they are.
    """
    if graph.opset == version:
        return graph
    reason = obstacle(graph)
    if reason:
        raise ConversionRefused(reason)
    with detached_weights(graph) as names:
        skeleton = gs.export_onnx(graph, ir_version=max(graph.ir_version or 0, ir_version_for(graph.opset)))
    try:
        converted = onnx.version_converter.convert_version(skeleton, version)
    except Exception as error:  # the converter raises RuntimeError, ConvertError and others of C++ origin
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConversionRefused(f"from opset {graph.opset} to {version}: {shown(lines[0])}") from None
    result = gs.import_onnx(converted)
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
    result.ir_version = ir_version_for(version)
    return result
