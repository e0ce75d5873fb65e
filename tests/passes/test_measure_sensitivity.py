"""What each width of each layer does to the outputs."""

import numpy as np
import pytest

from dfmpc_onnx.pipeline.facts import BitPlan, Layers, Sensitivity
from dfmpc_onnx.pipeline.manager import PassManager
from tests import graphs

ESTIMATORS = ("probe", "measured", "closed-form")


def free(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    return model


def measured(model, weights="auto", recipe="mixed", layers=(), **options):
    space = graphs.workspace(free(model), weights, layers=layers)
    steps = graphs.pipeline("measure_sensitivity", recipe, measure_sensitivity=options)
    PassManager(steps[:-1]).run(space)
    before = graphs.snapshot(space.graph)
    result = PassManager(steps[-1:]).run(space)[-1]
    assert graphs.snapshot(space.graph) == before
    return space, space.get(Sensitivity), result


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_every_free_layer_has_a_row_and_more_bits_do_less(network, estimator):
    space, table, _ = measured(graphs.ALL[network](), estimator=estimator)
    auto = [name for name, bits in space.get(BitPlan).layers.items() if bits.role == "auto"]
    assert [name for row in table.rows for name in row.layers] == auto
    for row in table.rows:
        assert [width.bits for width in row.widths] == ["ternary", 1.6, 2, 2.67, 3, 4, 5, 6, 7, 8]
        losses = [width.loss for width in row.widths[1:]]
        assert losses == sorted(losses, reverse=True) and row.gain > 0
        assert all(w.damage == pytest.approx(row.gain * w.loss) for w in row.widths)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_same_seed_gives_the_same_table(estimator):
    first, second = (measured(graphs.residual(), estimator=estimator)[1] for _ in range(2))
    assert first == second


def test_nothing_is_measured_where_the_user_chose_the_bits():
    _, table, result = measured(graphs.chain(), "2/6")
    assert table.rows == () and not result.rewrites


def test_layers_of_a_width_of_the_users_count_as_what_no_budget_can_change():
    _, table, _ = measured(graphs.chain(), layers=["conv2=2"])
    assert [row.layers for row in table.rows] == [("conv1",), ("conv3",), ("gemm1",)]
    _, finer, _ = measured(graphs.chain(), layers=["conv2=6"])
    assert table.floor > 10 * finer.floor > 0


def test_a_layer_behind_which_its_error_is_averaged_out_does_less():
    """Both layers are wrong by the same share; behind the second a large one is added."""
    net = graphs.Net(("n", 3, 8, 8))
    x = net.relu(net.conv("x", 8))
    quiet = net.node("Mul", net.conv(x, 8), net.weight("small", np.float32(0.01)))
    model = net.model(net.node("Add", net.conv(x, 8), quiet))
    _, table, _ = measured(model)
    gains = {row.layers[0]: row.gain for row in table.rows}
    assert min(gains, key=gains.get) == "conv2" and gains["conv2"] < gains["conv3"] / 5


def test_what_nothing_excites_is_not_taken_for_harmless():
    """A layer whose output is cut to 0 on all inputs seems to do nothing; it gets a part of the typical gain."""
    net = graphs.Net(("n", 3, 8, 8))
    x = net.relu(net.conv("x", 8))
    asleep = net.relu(net.node("Sub", net.conv(x, 8), net.weight("far", np.float32(1e3))))
    _, table, _ = measured(net.model(net.node("Add", net.conv(x, 8), asleep)))
    gains = sorted((row.gain, row.layers[0]) for row in table.rows)
    assert gains[0][1] == "conv2" and gains[0][0] == pytest.approx(gains[1][0] / 16)


def test_without_an_output_that_can_be_compared_what_is_read_next_counts():
    net = graphs.Net(("n", 3, 8, 8))
    _, table, _ = measured(net.model(net.node("Cast", net.conv("x", 4), to=graphs.TensorProto.INT32)))
    assert [row.gain for row in table.rows] == [1.0]


def test_where_covariances_cannot_be_followed_the_weights_alone_count():
    net = graphs.Net(("n", 3, 8, 8))
    x = net.node("Erf", net.block("x", 8))
    model = net.model(net.tail(net.block(x, 8)))
    space, table, result = measured(model, recipe="closed-form")
    assert len(table.rows) == len(space.get(Layers).quantizable)
    assert any("of the weights alone" in note for note in result.notes)


def test_they_count_where_layers_that_cannot_be_followed_share_a_weight():
    net = graphs.Net(("n", 8, 8, 8))
    weight = net.weight("w", net.random.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8)
    x = net.node("Erf", net.node("Conv", "x", weight, pads=[1, 1, 1, 1]))
    model = net.model(net.node("Conv", x, weight, pads=[1, 1, 1, 1]))
    _, table, result = measured(model, recipe="closed-form")
    assert len(table.rows) == 1
    assert any("of the weights alone" in note for note in result.notes)


def test_layers_that_share_a_weight_have_one_row():
    net = graphs.Net(("n", 8, 8, 8))
    weight = net.weight("w", net.random.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8)
    x = net.relu(net.node("Conv", "x", weight, pads=[1, 1, 1, 1], stem="twice"))
    model = net.model(net.node("Conv", x, weight, pads=[1, 1, 1, 1], stem="twice"))
    _, table, _ = measured(model)
    assert [len(row.layers) for row in table.rows] == [2]


def test_images_of_the_users_choose_no_other_bits(tmp_path):
    """On them the same errors are smaller beside what images differ by; a budget would take fewer bits."""
    np.savez(tmp_path / "own.npz", x=np.random.default_rng(1).integers(0, 255, (16, 8, 8, 3), np.uint8))
    tables = []
    for images in (None, str(tmp_path / "own.npz")):
        space = graphs.workspace(free(graphs.residual()), "auto", images=images)
        PassManager(graphs.pipeline("measure_sensitivity", "mixed")).run(space)
        tables.append(space.get(Sensitivity).rows)
    assert tables[0] == tables[1]


def test_a_width_that_the_user_asked_for_is_none_of_a_shared_weights_free_layer():
    """8 bits are also what stands for a width that is yet to be planned."""
    net = graphs.Net(("n", 8, 8, 8))
    weight = net.weight("w", net.random.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8)
    x = net.relu(net.node("Conv", "x", weight, pads=[1, 1, 1, 1], stem="twice"))
    model = net.model(net.node("Conv", x, weight, pads=[1, 1, 1, 1], stem="twice"))
    name = next(node.name for node in model.graph.node if node.op_type == "Conv")
    _, table, _ = measured(model, layers=[f"{name}=8"])
    assert [len(row.layers) for row in table.rows] == [1] and name not in table.rows[0].layers
    assert table.floor > 0
