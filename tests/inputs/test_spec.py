"""What a model says of its inputs, and what comes of it under the user's options."""

import numpy as np
import pytest

from dfmpc_onnx.errors import ModelError, OptionError
from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import resolve
from dfmpc_onnx.model.source import load
from tests import graphs
from tests.graphs import Net, TensorProto, feeding, helper

UNIT = Preprocess.parse("unit")


def spec(shape, dtype=TensorProto.FLOAT):
    return resolve(feeding(x=(dtype, shape)), {}, UNIT)["x"]


def checked(shape, preprocess="unit", given=()):
    found = resolve(feeding(x=(TensorProto.FLOAT, shape)), dict(given), Preprocess.parse(preprocess))
    found.check_options(dict(given))


@pytest.mark.parametrize(
    ("shape", "given", "want"),
    [
        ((1, 3, 32, 32), {}, (1, 3, 32, 32)),
        (("n", 3, 32, 32), {}, (1, 3, 32, 32)),
        (("n", 3, "h", "w"), {}, (1, 3, 224, 224)),
        (("n", "h", "w", 3), {}, (1, 224, 224, 3)),
        (("n", 3, "h", "w"), {"x": (2, 3, 64, 48)}, (2, 3, 64, 48)),
        (("n", 3, "h", "w"), {"": (1, 3, 64, 64)}, (1, 3, 64, 64)),
        (("n", 4), {}, (1, 4)),
    ],
)
def test_dynamic_dimensions_are_made_concrete(shape, given, want):
    assert resolve(feeding(x=(TensorProto.FLOAT, shape)), given, UNIT)["x"].shape == want


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"y": (1, 3, 32, 32)}, "no such input; the model has x"),
        ({"x": (1, 3)}, "2 dimensions given, it has 4"),
        ({"x": (1, 3, 64, 64)}, "does not fit the model's"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(given, said):
    with pytest.raises(OptionError, match=said):
        checked((1, 3, 32, 32), given=given)


def test_a_shape_without_a_name_is_that_of_the_only_input():
    two = feeding(x=(TensorProto.FLOAT, ("n", 3, 8, 8)), y=(TensorProto.FLOAT, ("n", 3)))
    with pytest.raises(
        OptionError, match="input shape '1x3': of which input; give NAME:1x3, with one of x, y for NAME"
    ):
        resolve(two, {"": (1, 3)}, UNIT)


@pytest.mark.parametrize(
    ("lists", "shape", "fits"),
    [
        ("1,2,3/4,5,6", (1, 3, 8, 8), True),
        ("1,2,3/4", (1, 8, 8, 3), True),
        ("1/4", (1, 1, 8, 8), True),
        ("1,2,3/4,5,6", (1, 1, 8, 8), False),
        ("1,2/4,5", (1, 3, 8, 8), False),
        ("1,2,3,4/5", ("n", "c", "h", "w"), False),
        ("1,2,3,4/5", ("n", 4, "h", "w"), True),
        ("imagenet", (1, 1, 8, 8), True),
        ("1,2,3/4", (1, 10), True),
    ],
)
def test_lists_of_a_preprocess_must_have_one_value_a_channel(lists, shape, fits):
    if fits:
        checked(shape, lists)
    else:
        channels = shape[1] if isinstance(shape[1], int) else 3
        with pytest.raises(OptionError, match=f"values, but input 'x' has {channels} channels; give 1 or {channels}"):
            checked(shape, lists)


def test_what_a_model_is_fed_leaves_its_initializers_out():
    assert [(t.name, t.stated) for t in resolve(graphs.old(listed=True), {}, UNIT)] == [("x", (1, 3, 8, 8))]
    value = graphs.helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [1])
    model = feeding(x=(TensorProto.FLOAT, ["n", 3]), y=(TensorProto.INT64, None))
    model.graph.input.append(value)
    found = [(t.name, t.stated, t.dtype) for t in resolve(model, {}, UNIT)]
    assert found == [("x", ("n", 3), np.float32), ("y", None, np.int64), ("s", None, None)]


def without_channels(model):
    """Its channel dimension left dynamic."""
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "c"
    return model


def both_ways(model):
    """What the file says of its input x, and its graph, which is the same."""
    found = resolve(model, {}, UNIT)
    assert resolve(to_graph(load(model)), {}, UNIT) == found
    return found["x"]


@pytest.mark.parametrize(("channels", "group"), [(3, 1), (1, 1), (5, 1), (6, 3)])
def test_a_dynamic_channel_dimension_has_the_channels_of_the_first_conv(channels, group):
    net = Net(("n", channels, 8, 8))
    scaled = net.node("Div", "x", net.weight("scale", np.float32(255)))
    net.channels[scaled] = channels
    found = both_ways(without_channels(net.model(net.tail(net.conv(scaled, 6, group=group)))))
    assert (found.shape, found.channels, found.is_picture) == ((1, channels, 8, 8), channels, channels in (1, 3))
    assert not found.size_assumed  # nothing to warn of


def test_of_a_weight_that_a_constant_node_holds_too():
    net = Net(("n", 5, 8, 8))
    model = without_channels(net.model(net.conv("x", 4)))
    (weight,) = (t for t in model.graph.initializer if len(t.dims) == 4)
    model.graph.node.insert(0, helper.make_node("Constant", [], [weight.name], value=weight))
    model.graph.initializer.remove(weight)
    assert both_ways(model).shape == (1, 5, 8, 8)


@pytest.mark.parametrize("domain", ["", "my.ops"])
def test_what_no_standard_conv_reads_has_three_channels(domain):
    net = Net(("n", 5, 8, 8))
    model = without_channels(net.model(net.conv("x", 4)))
    model.graph.node[0].domain = domain
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    assert both_ways(model).channels == (3 if domain else 5)


@pytest.mark.parametrize(
    ("shape", "has_batch", "batch"),
    [
        ((1, 3, 8, 8), True, 1),
        ((2, 3, 8, 8), True, 2),
        (("n", 3, 8, 8), True, None),
        ((None, 3, "h", "w"), True, None),
        ((1, 3, "h", "w"), True, 1),
        ((0, 3, 8, 8), True, None),
        ((-1, 3, 8, 8), True, None),
        ((4,), False, None),  # a size, or scales: one thing
        (("n",), True, None),  # a value an image
        ((), False, None),
    ],
)
def test_the_batch_is_what_the_file_states(shape, has_batch, batch):
    assert (spec(shape).has_batch, spec(shape).batch) == (has_batch, batch)


@pytest.mark.parametrize(
    ("shape", "dtype", "picture", "normalized", "axis", "side"),
    [
        ((1, 3, 8, 10), "FLOAT", True, True, 1, (8, 10)),
        ((1, 8, 10, 3), "FLOAT", True, True, 3, (8, 10)),
        ((1, 1, 8, 3), "FLOAT", True, True, 1, (8, 3)),
        ((1, 3, 8, 10), "UINT8", True, False, 1, (8, 10)),
        ((1, 3, 8, 10), "INT64", False, False, 1, (8, 10)),
        ((1, 16, 8, 10), "FLOAT", False, False, 1, (8, 10)),
    ],
)
def test_pictures_and_where_their_channels_are(shape, dtype, picture, normalized, axis, side):
    found = spec(shape, getattr(TensorProto, dtype))
    assert (found.is_picture, found.is_normalized, found.channel_axis, found.side) == (picture, normalized, axis, side)
    assert found.preprocess.name == ("raw" if dtype == "UINT8" else "unit")


def test_an_input_without_a_shape_is_asked_for_when_it_matters():
    found = resolve(feeding(x=(TensorProto.FLOAT, None)), {}, UNIT)["x"]
    with pytest.raises(OptionError, match="input 'x' has no shape; give --input-shape 'x:1x3x224x224'"):
        found.shape  # noqa: B018
    assert resolve(feeding(x=(TensorProto.FLOAT, None)), {"x": (1, 3, 8, 8)}, UNIT)["x"].shape == (1, 3, 8, 8)


def test_a_sequence_has_no_shape():
    model = feeding()
    model.graph.input.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [1]))
    with pytest.raises(ModelError, match="input 's' is a sequence; nothing can be generated for it"):
        resolve(model, {}, UNIT)["s"].shape  # noqa: B018


@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_the_file_and_its_graph_say_the_same(network):
    assert both_ways(graphs.ALL[network]()).is_picture


@pytest.mark.parametrize(
    ("given", "sound", "state"),
    [({}, (1, 512), (2, 1, 8)), ({"x": (3, 512)}, (3, 512), (2, 3, 8)), ({"h": (2, 3, 8)}, (3, 512), (2, 3, 8))],
)
def test_a_batch_that_is_an_inner_dimension_of_another_input_is_one_number_for_both(given, sound, state):
    model = feeding(x=(TensorProto.FLOAT, ("batch", 512)), h=(TensorProto.FLOAT, (2, "batch", 8)))
    found = resolve(model, given, UNIT)
    assert (found["x"].shape, found["h"].shape) == (sound, state)
    assert found["x"].batch == sound[0]  # so nobody feeds it others


def test_a_batch_of_the_same_name_in_front_of_all_inputs_stays_free():
    found = resolve(feeding(x=(TensorProto.FLOAT, ("n", 3, 8, 8)), m=(TensorProto.BOOL, ("n", 8))), {}, UNIT)
    assert found["x"].batch is None and found["m"].batch is None
