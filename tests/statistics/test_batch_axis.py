import numpy as np
import onnx
import pytest

from dfmpc_onnx.statistics.batch_axis import batch_is_free, statistics_batch
from tests import graphs


def is_free(model):
    space = graphs.workspace(model)
    return batch_is_free(space.graph, space.inputs, 0)


def feeds_of(model):
    space = graphs.workspace(model)
    return statistics_batch(space.graph, space.inputs, 0, 0).feeds


def test_a_batch_of_1_that_the_file_alone_states_is_free():
    model = graphs.chain()
    assert is_free(model)
    feeds = feeds_of(model)
    assert all(len(x) >= 16 for x in feeds.values())


@pytest.mark.parametrize(("shape", "free"), [((0, -1), True), ((-1, 4), True), ((1, 4), False), ((4, -1), False)])
def test_a_reshape_to_a_constant_batch_binds_it(shape, free):
    net = graphs.Net((1, 3, 8, 8))
    x = net.node("GlobalAveragePool", net.block("x", 4))
    x = net.node("Reshape", x, net.weight("shape", np.array(shape, np.int64)))
    net.channels[x] = 4 if shape != (4, -1) else 1
    model = net.model(net.gemm(x, 2))
    assert is_free(model) == free
    assert all((len(x) > 1) == free for x in feeds_of(model).values())


def test_a_mean_over_the_batch_binds_it():
    net = graphs.Net((1, 3, 8, 8))
    x = net.node("ReduceMean", net.block("x", 4), axes=[0], keepdims=1)
    net.channels[x] = 4
    assert not is_free(net.model(net.conv(x, 2)))


def test_flags_for_outputs_are_compared_too():
    net = graphs.Net((1, 3, 8, 8))
    x = net.node("Greater", net.block("x", 4), net.weight("limit", np.float32(0)))
    net.channels[x] = 4
    model = net.model(x)
    model.graph.output[0].type.tensor_type.elem_type = 9  # bool
    assert is_free(model)


@pytest.mark.parametrize(("batch", "free"), [("n", True), (1, True), (2, False)])
def test_a_second_input_may_leave_its_batch_open(batch, free):
    """Or all that is behind a global pooling would be measured on one value."""
    net = graphs.Net((1, 3, 8, 8))
    net.channels["other"] = 2
    model = net.model(net.tail(net.block("x", 4)))
    model.graph.input.append(onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, [batch, 2, 8, 8]))
    assert is_free(model) == free
    assert all((len(x) > 2) == free for x in feeds_of(model).values())


def test_batches_that_are_all_open_need_not_be_freed():
    net = graphs.Net(("n", 3, 8, 8))
    assert not is_free(net.model(net.tail("x")))


def test_a_fixed_batch_of_more_than_1_is_free_too():
    """Two images would be all that ranges are taken from."""
    net = graphs.Net((2, 3, 8, 8))
    model = net.model(net.tail(net.block("x", 4)))
    assert is_free(model)
    assert all(len(x) >= 16 for x in feeds_of(model).values())


def test_images_that_leave_outputs_of_unlike_size_bind_the_batch():
    """As boxes that NonMaxSuppression chose, the batch in front: [1, 6, 4] for one image, [1, 7, 4] for the next."""
    net = graphs.Net((1, 3, 8, 8))
    y = net.conv("x", 4)
    line = net.node("ReduceMean", y, axes=[0, 1, 2], keepdims=0)
    chosen = net.node("Greater", line, net.weight("limit", np.float32(0)))
    assert not is_free(net.model(net.node("Compress", y, chosen, axis=3)))
