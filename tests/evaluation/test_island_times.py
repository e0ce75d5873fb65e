"""Times come out of a table: the operator of a kernel decides what it takes, and nothing is measured."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from rich.console import Console

import dfmpc_onnx
from dfmpc_onnx.cli.commands import main
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.evaluation import island_times
from dfmpc_onnx.evaluation.closed_twin import closed_twin
from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.model.source import load
from dfmpc_onnx.report.latency_text import time_tables
from dfmpc_onnx.runtime.latency import NodeTime, Profile, Span
from dfmpc_onnx.runtime.session import optimized_model
from tests import graphs

MICROSECONDS = {"QLinearConv": 10, "Conv": 50, "FusedConv": 50, "QuantizeLinear": 3, "DequantizeLinear": 4}  # others 1


def by_table(models, label="", seconds=0.0):
    """Profiles of models as onnxruntime fuses them, each kernel with its time out of the table."""

    def profile(model):
        graph = graphs.optimized(model if isinstance(model, onnx.ModelProto) else onnx.load(model)).graph
        spans = [(node, Span(MICROSECONDS.get(node.op_type, 1) / 1e6, 0.0)) for node in graph.node]
        return Profile(graph, tuple(NodeTime(node.name, node.op_type, span) for node, span in spans))

    return [profile(model) for model, _ in models]


@pytest.fixture(autouse=True)
def _table(monkeypatch):
    monkeypatch.setattr(island_times, "profiles", by_table)


def quantized(layers=("conv2=float",)):
    net = graphs.Net()
    x = "x"
    for _ in range(4):
        x = net.relu(net.conv(x, 8))
    model = net.model(x)
    options = {"recipe": "int8", "preprocess": "imagenet", "layers": layers, "check": False}
    return dfmpc_onnx.quantize(model, **options).model


def table_of(model):
    return dfmpc_onnx.inspect(model, latency=True).latency


def test_an_island_is_what_lies_between_integer_kernels_with_the_steps_from_and_to_them():
    found = table_of(quantized())
    (island,) = [island for island in found.islands if island.layers]
    assert island.layers == ("conv2",)
    assert island.operators["DequantizeLinear"] == 1 and island.operators["QuantizeLinear"] == 1
    assert island.operators.get("FusedConv", 0) + island.operators.get("Conv", 0) == 1
    ends = [island for island in found.islands if not island.layers]
    assert sorted(list(island.operators) for island in ends) == [["DequantizeLinear"], ["QuantizeLinear"]]
    assert found.ms == pytest.approx(found.integer_ms + sum(island.ms for island in found.islands))
    assert sum(island.share for island in found.islands) == pytest.approx(
        100 * (found.ms - found.integer_ms) / found.ms, abs=0.05
    )


def test_closing_an_island_saves_what_its_kernels_take_less_in_integers():
    island = table_of(quantized()).islands[0]
    # 4 + 50 + 3, and a Max that kept it in float, become 10
    assert island.saves_ms == pytest.approx(island.ms - 0.010, abs=1e-9)


def test_two_islands_are_closed_one_by_one():
    first, second = table_of(quantized(("conv2=float", "conv4=float"))).islands[:2]
    assert {first.layers, second.layers} == {("conv2",), ("conv4",)}
    assert first.saves_ms > 0.03 and second.saves_ms > 0.03


def test_a_float_model_is_one_island():
    net = graphs.Net()
    found = table_of(net.model(net.relu(net.conv(net.relu(net.conv("x", 8)), 8))))
    (island,) = found.islands
    assert island.layers == ("conv1", "conv2") and island.share == 100 and found.integer_ms == 0
    # 2 times 50 become 2 times 10, and steps at both ends
    assert island.saves_ms == pytest.approx(island.ms - 0.020 - 0.003 - 0.004, abs=1e-9)
    assert {layer.name: layer.integer_ms for layer in found.layers} == {"conv1": 0.01, "conv2": 0.01}


def test_nodes_without_names_are_timed_all_the_same():
    net = graphs.Net()
    model = net.model(net.relu(net.conv(net.relu(net.conv("x", 8)), 8)))
    named = table_of(model)
    for node in model.graph.node:
        node.name = ""
    found = table_of(model)
    assert found.ms == named.ms and found.islands[0].saves_ms == named.islands[0].saves_ms
    assert len(found.islands[0].layers) == 2


def test_what_has_no_integer_kernel_saves_nothing_that_is_known():
    net = graphs.Net()
    assert [island.saves_ms for island in table_of(net.model(net.node("Erf", "x"))).islands] == [None]


@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_a_twin_runs_and_has_integer_kernels(network):
    model = graphs.ALL[network]()
    graph = to_graph(load(optimized_model(model, fused=False)))
    twin = closed_twin(graph, {t.name for node in graph.nodes for t in node.outputs})
    if twin is not None:
        graphs.run(twin, graphs.input_of(model))
        assert sum(n for op, n in graphs.kernels(twin).items() if op.startswith("Q")) > 0


def test_an_island_costs_what_its_activations_lose_in_8_bits():
    found = table_of(quantized(("conv2=float", "conv3=float")))
    (island,) = [island for island in found.islands if island.layers]
    assert island.costs is not None and 0 < island.costs < 0.01


def test_an_island_between_codes_costs_nothing():
    assert [island.costs for island in table_of(quantized()).islands if island.layers] == [0.0]


def test_an_island_with_a_channel_that_reaches_far_costs_more():
    def model(reach):
        net = graphs.Net()
        gain = np.ones((8, 3, 3, 3), np.float32)
        gain[0] *= reach
        weight = net.random.standard_normal(gain.shape).astype(np.float32)
        behind = net.random.standard_normal((4, 8, 1, 1)).astype(np.float32) / gain[:, 0, :1, :1].reshape(1, 8, 1, 1)
        return net.model(net.conv(net.conv("x", 8, weight=weight * gain), 4, kernel=1, weight=behind))

    small, large = (table_of(model(reach)).islands[0].costs for reach in (1.0, 1000.0))
    assert 10 * small < large


def test_times_alone_have_no_costs():
    source = load(quantized())
    assert {row.costs for row in island_times.time_table(source, {"x": graphs.input_of(source.model)}).islands} == {
        None
    }


def test_only_where_it_is_asked_for_is_anything_timed():
    model = quantized()
    assert dfmpc_onnx.inspect(model).latency is None
    with pytest.raises(OptionError, match="threads: inspect runs nothing"):
        dfmpc_onnx.inspect(model, threads=1)


def test_it_fits_into_80_columns(capsys):
    console = Console(width=80)
    time_tables(table_of(quantized()), console)
    printed = capsys.readouterr().out
    assert "islands of float" in printed and "conv2" in printed and "the slowest layers" in printed
    assert all(len(line) <= 80 for line in printed.splitlines())


def test_the_command_line_prints_it_and_json_has_all(tmp_path):
    onnx.save(quantized(), tmp_path / "q.onnx")
    told = CliRunner().invoke(main, ["inspect", str(tmp_path / "q.onnx"), "--latency", "--threads", "1", "--json"])
    assert told.exit_code == 0, told.output
    stated = json.loads(told.stdout)["latency"]
    assert [island["layers"] for island in stated["islands"]].count(["conv2"]) == 1
    plain = CliRunner().invoke(main, ["inspect", str(tmp_path / "q.onnx"), "--latency"])
    assert "islands of float" in plain.stdout
