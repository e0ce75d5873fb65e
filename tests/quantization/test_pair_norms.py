import numpy as np

from dfmpc_onnx.graph.query import nodes_by_name
from dfmpc_onnx.pipeline.facts import FloatStatistics, Pairs
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.quantization.pair_norms import norm_of, write_channels
from tests import graphs


def test_the_norm_of_a_layer_with_a_bias_is_that_of_its_products_alone():
    space = graphs.workspace(graphs.own_bias())
    PassManager(graphs.pipeline("estimate_statistics")).run(space)
    pair, name = space.get(Pairs).with_batch_norm()[0]
    whole = space.get(FloatStatistics).norms[name]
    found = norm_of(pair, nodes_by_name(space.graph)[pair.low], space.get(FloatStatistics))
    np.testing.assert_allclose(found.mean, whole.mean - graphs.values(space.graph, f"{pair.low}.b"))
    assert np.array_equal(found.std, whole.std) and np.array_equal(found.gamma, whole.gamma)


def test_only_a_run_of_channels_is_written():
    space = graphs.workspace(graphs.chain())
    norm = nodes_by_name(space.graph)["norm1"]
    before = np.array(norm.inputs[3].values)
    write_channels(norm, 3, 2, np.array([7.0, 9.0]))
    after = norm.inputs[3].values
    assert after[2:4].tolist() == [7, 9] and after.dtype == np.float32
    assert np.array_equal(np.delete(after, [2, 3]), np.delete(before, [2, 3]))


def test_statistics_beyond_float32_are_its_largest_number():
    space = graphs.workspace(graphs.chain())
    norm = next(node for node in space.graph.nodes if node.op == "BatchNormalization")
    write_channels(norm, 4, 0, np.array([1e300]))
    assert norm.inputs[4].values[0] == np.finfo(np.float32).max
