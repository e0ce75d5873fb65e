import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.model.source import load
from dfmpc_onnx.model.sparse import dense
from tests import graphs

VALUES = np.array([1.5, -2.0, 3.0], np.float32)


def sparse(places, shape=(2, 3), values=VALUES, raw=True):
    held = numpy_helper.from_array(values, "w") if raw else helper.make_tensor("w", 1, values.shape, values)
    return helper.make_sparse_tensor(held, numpy_helper.from_array(np.array(places, np.int64), "w.places"), shape)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("places", [[0, 4, 5], [[0, 0], [1, 1], [1, 2]]])
def test_values_go_to_their_places_and_zero_elsewhere(places, raw):
    found = dense(sparse(places, raw=raw), "m")
    assert found.dtype == np.float32 and found.tolist() == [[1.5, 0, 0], [0, -2, 3]]


def test_a_sparse_tensor_without_values_is_zero():
    for places in (np.zeros(0), np.zeros((0, 2))):
        assert not dense(sparse(places, values=VALUES[:0]), "m").any()


@pytest.mark.parametrize("places", [[0, 4, 6], [0, -1, 5], [[0, 0], [1, 1], [2, 0]], [0, 1]])
def test_places_outside_the_shape_are_refused(places):
    with pytest.raises(ModelError, match=r"sparse weight 'w' has values outside its shape \[2, 3\]"):
        dense(sparse(places), "m")


def test_a_claim_of_more_than_memory_holds_is_refused():
    with pytest.raises(ModelError, match=r"would take 4000\.0 GB; store it dense"):
        dense(sparse([0, 1, 2], (10**6, 10**6)), "m")


@pytest.mark.parametrize("node", [False, True])
def test_a_network_with_a_sparse_weight_is_that_with_the_dense_one(node):
    model = graphs.chain()
    want = graphs.run(model)
    weight = next(t for t in model.graph.initializer if t.name == "conv2.w")
    values = numpy_helper.to_array(weight)
    places = np.flatnonzero(values)
    stored = sparse(places, values.shape, values.reshape(-1)[places])
    stored.values.name = "conv2.w"
    model.graph.initializer.remove(weight)
    if node:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["conv2.w"], sparse_value=stored))
    else:
        model.graph.sparse_initializer.append(stored)
    held = model.SerializeToString(deterministic=True)
    assert graphs.relative(graphs.run(to_graph(load(model))), want) == 0
    made = dfmpc_onnx.quantize(model, recipe="int8")
    assert all(layer.refused is None for layer in made.report.layers) and made.report.fidelity.sqnr_db > 30
    assert model.SerializeToString(deterministic=True) == held
    onnx.checker.check_model(made.model)
