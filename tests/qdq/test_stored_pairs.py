"""How far neighbouring codes of a file reach together."""

import numpy as np
import onnx
import pytest

from dfmpc_onnx.qdq.stored_pairs import stored_pairs
from tests import graphs


def written(**options):
    net = graphs.Net()
    x = net.block(net.block(net.block("x", 8), 8, group=8), 8)
    space, _ = graphs.prepared(net.model(net.tail(x)), "pack_weights", **options)
    return graphs.to_model(space.graph)


def decoded(model):
    """The codes of each layer as onnxruntime decodes them, in the order of the graph."""
    optimized = graphs.optimized(model)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in optimized.graph.initializer}
    return [constants[n.input[3]].astype(int) for n in optimized.graph.node if n.op_type in ("QLinearConv", "QGemm")]


@pytest.mark.parametrize("weights", ["8", "2/6", "4"])
def test_of_each_layer_but_depthwise_ones(weights):
    model = written(weights=weights)
    found = stored_pairs(model)
    assert set(found) == {"conv1", "conv3", "gemm1"}
    first, _, third, _ = decoded(model)
    for name, codes in (("conv1", first), ("conv3", third)):
        packed = codes.transpose(0, 2, 3, 1).reshape(len(codes), -1)
        pairs = np.pad(packed, ((0, 0), (0, packed.shape[1] % 2))).reshape(len(codes), -1, 2)
        both = np.maximum(np.maximum(pairs, 0).sum(axis=2), np.maximum(-pairs, 0).sum(axis=2))
        assert both.max() == found[name] <= 128


def test_nothing_of_layers_that_read_floats_or_signed_codes():
    assert stored_pairs(written(weights="8", activations="none")) == {}


def test_damaged_codes_are_left_out():
    model = written(weights="2/6")
    whole = set(stored_pairs(model))
    for tensor in model.graph.initializer:
        if tensor.name.startswith("conv3") and tensor.data_type == onnx.TensorProto.UINT8:
            tensor.raw_data = tensor.raw_data[:3]
    assert set(stored_pairs(model)) in (whole, whole - {"conv3"})
