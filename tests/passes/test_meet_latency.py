"""Times come out of a table: what a file holds decides what it takes, and nothing is measured."""

import msgspec
import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.errors import OptionError, RecipeError
from dfmpc_onnx.evaluation.time_trials import TimeLimit, TimeTrials
from dfmpc_onnx.model.metadata import metadata_of
from tests import graphs

INTEGER = 1.0  # milliseconds of a Conv, by table
FLOAT = {"conv2": 5.0, "conv3": 3.0, "conv5": 4.0, "conv6": 4.0}  # others 2


def milliseconds(model):
    """What a file takes by the table: a Conv between DequantizeLinear and QuantizeLinear is an integer one."""
    if not isinstance(model, onnx.ModelProto):
        model = onnx.load(model)
    kernels = {node.name: node.op_type for node in graphs.optimized(model).graph.node}
    convs = [node.name for node in model.graph.node if node.op_type == "Conv"]
    return sum(INTEGER if kernels.get(name) == "QLinearConv" else FLOAT.get(name, 2.0) for name in convs)


def table(models, feeds):
    return [[milliseconds(model) / 1000] * 3 for model in models]


@pytest.fixture(autouse=True)
def by_table(monkeypatch):
    """All files are timed by the table."""
    clocked = TimeTrials.__init__.__defaults__
    monkeypatch.setattr(TimeTrials.__init__, "__defaults__", (*clocked[:-1], table))


def unlike(net, x, seed):
    """Two Convs and between them a tensor of which one scale leaves all channels but one few codes."""
    weight = np.random.default_rng(seed).standard_normal((8, 8, 3, 3)) / np.sqrt(72)
    weight[0] *= 2000
    x = net.conv(x, 8, weight=weight)
    weight = np.random.default_rng(seed + 1).standard_normal((8, 8, 3, 3)) / np.sqrt(72)
    weight[:, 0] = 0
    return net.conv(x, 8, weight=weight)


def two_islands():
    """conv2 and conv3 around one such tensor, conv5 and conv6 around another, integers before, between and behind."""
    net = graphs.Net()
    x = unlike(net, net.block("x", 8), 1)
    x = unlike(net, net.block(x, 8), 5)
    return net.model(net.conv(net.block(x, 8), 4))


def made(limit, **options):
    options.setdefault("preprocess", "imagenet")
    return dfmpc_onnx.quantize(two_islands(), recipe=recipe(), max_latency=limit, check=False, **options)


def recipe():
    """int8 without what gives channels the same reach, so that two tensors stay in float."""
    found = catalog.find_recipe("int8")
    steps = tuple(step for step in found.steps if step.use != "equalize_channels")
    return msgspec.structs.replace(found, steps=steps)


def integer(report):
    return {layer.name for layer in report.layers if layer.integer}


WITHOUT = {"conv1", "conv4", "conv8"}  # integers whatever the limit; 21 ms, of 24 in float
FIRST, SECOND = {"conv2", "conv3"}, {"conv5", "conv6", "conv7"}  # 8 ms and 10 ms in float, 2 and 3 in integers


def test_before_and_after():
    report = made("20").report
    found = report.latency
    assert (found.float_ms, found.before_ms, found.limit_ms, found.fastest_ms) == (24, 21, 20, 8)
    assert found.met and len(found.closed) == 1
    assert integer(report) in (WITHOUT | FIRST, WITHOUT | SECOND)
    assert found.after_ms == (15 if integer(report) == WITHOUT | FIRST else 14)


def test_the_island_that_is_closed_is_the_one_that_gains_most_for_its_error():
    both = {tuple(island.tensors): island for island in made("8").report.latency.closed}
    assert len(both) == 2

    def worth(island):
        return island.saves_ms / 10 ** (-island.sqnr_db / 10)

    (one,) = made("20").report.latency.closed
    assert worth(one) == max(map(worth, both.values()))


def test_all_is_closed_where_it_must_be_and_the_report_says_what_that_costs():
    report = made("40%").report
    assert integer(report) == WITHOUT | FIRST | SECOND
    found = report.latency
    assert found.met and found.after_ms == 8 and found.limit_ms == 9.6
    assert found.sqnr_after < found.sqnr_before - 10
    assert {island.saves_ms for island in found.closed} == {6, 7}
    assert found.agreeing_before is None  # no images of the user's


def test_what_is_fast_enough_is_left_as_it_is():
    report = made("90%").report
    assert integer(report) == WITHOUT and report.latency.met and report.latency.closed == ()
    assert report.latency.after_ms == report.latency.before_ms == 21


def test_what_cannot_be_met_changes_nothing_and_one_line_says_the_fastest():
    made_for_it = made("7.5")
    found = made_for_it.report.latency
    assert not found.met and found.fastest_ms == 8 and found.after_ms == 21
    assert integer(made_for_it.report) == WITHOUT
    (line,) = [line for line in made_for_it.report.warnings if "max-latency" in line]
    assert line.startswith("max-latency 7.5 ms (7.50 ms) cannot be met: 8.00 ms is the fastest possible here")
    plain = dfmpc_onnx.quantize(two_islands(), recipe=recipe(), preprocess="imagenet", check=False)
    assert [n.op_type for n in made_for_it.model.graph.node] == [n.op_type for n in plain.model.graph.node]
    assert plain.report.latency is None


def test_where_images_are_given_agreement_is_counted_on_them(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "own.npz", x=x)
    found = made("8", images=str(tmp_path / "own.npz")).report.latency
    assert found.images == 6
    assert 0 <= found.agreeing_after <= 6 and 0 <= found.agreeing_before <= 6


def test_the_recipe_that_the_file_records_has_the_limit():
    stated = metadata_of(made("80%").model)["passes"]
    assert '{"meet_latency":{"limit":"80%"}},"insert_qdq"' in stated


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"activations": "none"}, "activations stay in float"),
        ({"target": "tensorrt"}, "times are measured on the CPU provider"),
    ],
)
def test_a_limit_that_could_change_nothing_is_refused(options, said):
    with pytest.raises(OptionError, match=said):
        made("50%", **options)


@pytest.mark.parametrize("text", ["", "fast", "-3", "0", "0%", "12 s", "nan", "1e9999"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(OptionError, match="give milliseconds such as"):
        made(text)


def test_a_recipe_without_integers_takes_no_limit():
    plain = msgspec.structs.replace(recipe(), steps=tuple(s for s in recipe().steps if s.use != "insert_qdq"))
    with pytest.raises(OptionError, match="has no insert_qdq"):
        dfmpc_onnx.quantize(two_islands(), recipe=plain, max_latency="80%")


def test_a_step_of_a_recipe_file_may_state_the_limit(tmp_path):
    text = (
        'extends = "int8"\nwithout = ["equalize_channels"]\n[[insert]]\nuse = "meet_latency"\nbefore = "insert_qdq"\n'
    )
    (tmp_path / "r.toml").write_text(text + 'limit = "40%"\n')
    path = str(tmp_path / "r.toml")
    options = {"preprocess": "imagenet", "check": False}
    assert dfmpc_onnx.quantize(two_islands(), recipe=path, **options).report.latency.limit == "40%"
    (tmp_path / "r.toml").write_text(text + 'limit = "soon"\n')
    with pytest.raises(RecipeError, match="'soon': not understood"):
        dfmpc_onnx.quantize(two_islands(), recipe=path, **options)


def test_limits_are_read_as_written():
    assert TimeLimit.parse("12.5") == TimeLimit.parse("12.5 ms") == TimeLimit(12.5, None)
    assert TimeLimit.parse("80%").seconds(2.0) == 1.6 and TimeLimit.parse("80").seconds(2.0) == 0.08
