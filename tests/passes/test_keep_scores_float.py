import numpy as np

import dfmpc_onnx
from dfmpc_onnx.pipeline.facts import FloatLayers
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.runtime.session import Session
from tests import graphs


def network(width=32, head=1):
    net = graphs.Net()
    x = net.relu(net.conv(net.relu(net.conv("x", width)), width))
    return net.model(net.node("Sigmoid", net.conv(x, 1, 1)), net.conv(x, head, 1))


def kept(model, **options):
    space = graphs.workspace(model, "8")
    result = PassManager(graphs.pipeline("keep_scores_float", keep_scores_float=options)).run(space)[-1]
    return space.get(FloatLayers).layers, result


def test_cheap_layers_that_outputs_come_from_are_kept_scores_first():
    layers, result = kept(network())
    assert list(layers) == ["conv3", "conv4"] and {reason.code for reason in layers.values()} == {"output-layer"}
    assert "scores" in layers["conv3"].text and "values" in layers["conv4"].text
    shares = [rewrite.figures["share_of_work"] for rewrite in result.rewrites]
    assert 0 < sum(shares) <= 0.03


def test_what_costs_too_much_stays_integer_and_is_named():
    layers, result = kept(network(head=32))
    assert list(layers) == ["conv3"] and result.notes == ("stay integer for their cost: conv4",)
    assert not kept(network(), share=0.0)[0]


def test_a_gemm_gives_floats_as_it_is():
    model = graphs.chain()
    layers, result = kept(model)
    assert not layers and "no Conv" in result.notes[0]


def test_the_file_has_no_codes_of_scores_and_says_why():
    made = dfmpc_onnx.quantize(network(), None, "int8", preprocess="imagenet", check=False)
    readers = {name: node.op_type for node in made.model.graph.node for name in node.input}
    makers = {name: node for node in made.model.graph.node for name in node.output}
    assert readers[makers["sigmoid1"].input[0]] == "Sigmoid" and makers[makers["sigmoid1"].input[0]].op_type == "Conv"
    rows = {layer.name: layer for layer in made.report.layers}
    assert rows["conv2"].integer and not rows["conv3"].integer
    assert {r.site for r in made.report.refusals if r.code == "output-layer"} == {"conv3", "conv4"}


def test_a_gemm_in_front_of_a_sigmoid_is_integer_without_codes_behind():
    net = graphs.Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.relu(net.conv("x", 8))))
    made = dfmpc_onnx.quantize(net.model(net.node("Sigmoid", net.gemm(x, 5))), None, "int8", preprocess="imagenet")
    quantized = [n.input[0] for n in made.model.graph.node if n.op_type == "QuantizeLinear"]
    assert "gemm1" not in quantized and {layer.name: layer.integer for layer in made.report.layers}["gemm1"]
    assert Session(made.model).run({"x": np.zeros((1, 3, 8, 8), np.float32)})[0].min() > 0


def squeezed(classifies):
    net = graphs.Net()
    x = net.relu(net.conv("x", 32))
    gate = net.conv(net.relu(net.conv(net.node("GlobalAveragePool", x), 8, 1)), 32, 1)
    x = net.relu(net.conv(net.node("Mul", x, net.node("Sigmoid", gate)), 32))
    return net.model(net.tail(x) if classifies else net.conv(x, 32))


def test_what_makes_gates_of_averages_is_kept_where_an_output_is_a_map():
    layers, _ = kept(squeezed(classifies=False))
    assert {name: reason.code for name, reason in layers.items()} == {"conv2": "whole-map", "conv3": "whole-map"}
    assert not kept(squeezed(classifies=True))[0]


def test_the_file_computes_gates_of_averages_in_float():
    made = dfmpc_onnx.quantize(squeezed(classifies=False), None, "int8", preprocess="imagenet", check=False)
    integer = {layer.name: layer.integer for layer in made.report.layers}
    assert integer["conv4"] and not integer["conv2"] and not integer["conv3"]
