import numpy as np
import onnx
import pytest

from dfmpc_onnx.graph.opset import ConversionRefused, convert
from tests import graphs


@pytest.mark.parametrize(("network", "version"), [(graphs.old, 13), (graphs.chain, 21), (graphs.residual, 25)])
def test_nodes_are_converted_and_names_weights_and_results_stay(network, version):
    before = graphs.workspace(network()).graph
    want, names = graphs.run(before), {n.name for n in before.nodes}
    after = convert(before, version)
    assert after.opset == version
    assert {n.name for n in after.nodes if n.name} >= names
    assert graphs.relative(graphs.run(after), want) < 1e-6
    onnx.checker.check_model(graphs.to_model(after), full_check=True)


def test_the_same_opset_is_the_same_graph():
    graph = graphs.workspace(graphs.chain()).graph
    assert convert(graph, 13) is graph


def test_large_weights_are_handed_over_not_copied():
    net = graphs.Net()
    graph = graphs.workspace(net.model(net.conv(net.conv("x", 64), 64))).graph
    weight = graphs.values(graph, "conv2.w")
    after = convert(graph, 21)
    assert graphs.values(after, "conv2.w") is weight
    assert [t.name for t in after.inputs] == ["x"]


def test_an_attribute_that_became_an_input_is_converted():
    """ReduceMean's axes, from opset 18 on."""
    model = graphs.mean_tail(0)
    after = convert(graphs.workspace(model).graph, 18)
    mean = next(n for n in after.nodes if n.op == "ReduceMean")
    assert len(mean.inputs) == 2 and "axes" not in mean.attrs
    assert graphs.relative(graphs.run(after), graphs.run(model)) < 1e-6


def refused(model, version=21):
    graph = graphs.workspace(model).graph
    before = graphs.snapshot(graph)
    with pytest.raises(ConversionRefused) as caught:
        convert(graph, version)
    assert graphs.snapshot(graph) == before
    return str(caught.value)


def test_foreign_operators_are_refused():
    net = graphs.Net()
    model = net.model(net.node("Gelu", net.conv("x", 4), domain="com.microsoft"))
    assert refused(model) == "the model has operators of domain 'com.microsoft'"


def test_control_flow_is_refused():
    body = onnx.parser.parse_graph("body () => (float[1,3,8,8] z) { z = Identity(x) }")
    net = graphs.Net()
    x = net.conv("x", 3)
    condition = net.weight("yes", np.array(True))
    model = net.model(net.node("Add", x, net.node("If", condition, then_branch=body, else_branch=body)))
    assert "control-flow subgraphs" in refused(model)


def test_local_functions_are_refused():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13, "mine": 1]> net (float[1,4] x) => (float[1,4] y) '
        '{ y = mine.twice(x) } <domain: "mine", opset_import: ["": 13]> twice (a) => (b) { b = Add(a, a) }'
    )
    assert "local functions" in refused(model)


def test_what_the_converter_cannot_do_is_refused_with_its_reason():
    assert refused(graphs.chain(opset=21), 12).startswith("from opset 21 to 12: ")


def test_an_operator_whose_newer_form_has_no_kernel_keeps_the_graph_below_it():
    """onnxruntime 1.32 runs RoiAlign of opset 16, and loads opset 22 without having the one that came with it."""
    net = graphs.Net(opset=16)
    rois = net.weight("rois", np.float32([[0, 0, 4, 4]]))
    x = net.node(
        "RoiAlign", net.conv("x", 4), rois, net.weight("batch", np.int64([0])), output_height=2, output_width=2
    )
    net.channels[x] = 4
    graph = graphs.workspace(net.model(net.conv(x, 4))).graph
    assert convert(graph, 21).opset == 21
    with pytest.raises(ConversionRefused, match="onnxruntime has no RoiAlign of opset 22"):
        convert(graph, 25)


@pytest.mark.parametrize("factors", [(2, 2), (1.5, 3), (0.5, 0.6)])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize(("op", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_what_is_resized_reads_where_it_did_before_opset_11(op, opset, mode, factors):
    """onnx's converter leaves the modes to their defaults, which read half a pixel beside."""
    if op == "Upsample" and min(factors) < 1:
        pytest.skip("Upsample only enlarges")
    net = graphs.Net((1, 3, 10, 10), opset=opset)
    model = net.model(net.node(op, "x", net.weight("scales", np.float32([1, 1, *factors])), mode=mode))
    after = convert(graphs.workspace(model).graph, 13)
    assert "Resize" in graphs.ops(after)
    assert graphs.relative(graphs.run(after), graphs.run(model)) < 1e-6
