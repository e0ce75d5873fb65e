"""Biases of 8 bits at a power of two."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import Namer, insert
from dfmpc_onnx.qdq.int8_biases import quantize_int8_biases
from tests import graphs


def test_a_bias_takes_codes_at_a_power_of_two_of_its_own_and_a_layer_without_stays() -> None:
    graph = gs.import_onnx(graphs.own_bias())
    layers = [node for node in graph.nodes if node.op in ("Conv", "Gemm")]
    with_bias = {node.name: np.asarray(node.inputs[2].values) for node in layers if len(node.inputs) > 2}
    assert with_bias
    insert(graph, before=quantize_int8_biases(graph, [node.name for node in layers], Namer(graph)))
    for node in layers:
        if node.name not in with_bias:
            assert len(node.inputs) == 2
            continue
        decoder = node.inputs[2].inputs[0]
        codes, scale, zero = (np.asarray(tensor.values) for tensor in decoder.inputs)
        assert decoder.op == "DequantizeLinear" and codes.dtype == zero.dtype == np.int8 and zero == 0
        assert np.frexp(scale)[0] == 0.5 and scale.ndim == 0
        assert np.abs(codes * scale - with_bias[node.name]).max() <= scale
