import pytest

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.runtime import latency
from dfmpc_onnx.runtime.latency import FEWEST_ROUNDS, NodeTime, Span, in_turns, profiles, run_times
from dfmpc_onnx.runtime.session import Session
from tests import graphs


def feeds(model):
    return {model.graph.input[0].name: graphs.input_of(model)}


def test_a_span_is_the_median_and_half_of_what_the_middle_half_spans():
    assert Span.of([1.0, 2.0, 3.0, 4.0, 100.0]) == Span(3.0, 1.0)


def test_all_take_a_turn_in_each_round_and_orders_differ():
    ran = []
    taken = in_turns([lambda: ran.append("a"), lambda: ran.append("b")], seconds=0.0)
    assert [len(each) for each in taken] == [FEWEST_ROUNDS, FEWEST_ROUNDS]
    counted = ran[2 * latency.WARM_RUNS :]
    rounds = [tuple(counted[i : i + 2]) for i in range(0, len(counted), 2)]
    assert all(sorted(turn) == ["a", "b"] for turn in rounds) and len(set(rounds)) == 2


def test_what_takes_too_long_is_not_timed(monkeypatch):
    monkeypatch.setattr(latency, "LONGEST_RUN", -1.0)
    with pytest.raises(ModelError, match="that is not timed"):
        in_turns([lambda: None])


def test_every_node_that_runs_has_a_time_and_its_name_in_the_file():
    model = graphs.residual()
    (found,) = profiles([(model, feeds(model))], seconds=0.0)
    assert [node.name for node in found.nodes] == [node.name for node in found.graph.node]
    assert all(node.span.seconds >= 0 for node in found.nodes)
    assert found.total == pytest.approx(sum(found.by_name().values()))
    layers = {node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    assert set(found.layers(model).values()) == layers
    assert set(found.layers(model)) == {
        node.name for node in found.nodes if "Conv" in node.kernel or "Gemm" in node.kernel
    }


def test_nodes_of_equal_shape_and_attributes_share_their_samples():
    net = graphs.Net()
    x = net.conv("x", 8)
    for _ in range(3):
        x = net.conv(x, 8)
    model = net.model(x)
    (found,) = profiles([(model, feeds(model))], seconds=0.0)
    times = [node.span for node in found.nodes if "Conv" in node.kernel]
    assert len(times) == 4 and len(set(times[1:])) == 1


def test_names_that_onnxruntime_adds_to_are_taken_back():
    span = Span(0.0, 0.0)
    assert NodeTime("stem/Conv_token_12", "QLinearConv", span).file_name == "stem/Conv"
    assert NodeTime("stem/Conv_nchwc", "Conv", span).file_name == "stem/Conv"


def test_runs_of_two_networks_are_measured_together():
    model = graphs.chain()
    session = Session(model)
    first, second = run_times([(session, feeds(model)), (session, feeds(model))])
    assert len(first) == len(second) >= FEWEST_ROUNDS and min(*first, *second) >= 0
