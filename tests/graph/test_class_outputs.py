"""Vectors whose largest entry is no answer."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from dfmpc_onnx.graph.class_outputs import outputs_without_classes
from tests import graphs


def of(*ends, name=None):
    """Which outputs of a small network hold no classes; `ends`: its last operators."""
    net = graphs.Net(("n", 4))
    y = net.node("MatMul", "x", net.weight("w", np.ones((4, 3), np.float32)))
    for end in ends:
        y = net.node(end, y)
    model = net.model(y)
    if name is not None:
        model.graph.output[0].name = model.graph.node[-1].output[0] = name
    return bool(outputs_without_classes(model))


@pytest.mark.parametrize("ends", [(), ("Softmax",), ("Identity",), ("LogSoftmax", "Identity")])
def test_scores_and_probabilities_may_be_classes(ends):
    assert not of(*ends)


@pytest.mark.parametrize("ends", [("Sigmoid",), ("Tanh",), ("Relu", "Identity"), ("LpNormalization",)])
def test_answers_of_yes_and_no_and_embeddings_are_none(ends):
    assert of(*ends)


@pytest.mark.parametrize(
    "name", ["embedding", "output_features", "landmarks", "bbox", "pose", "head_pose", "headPose", "view/Angles"]
)
def test_a_name_says_what_a_vector_is_unless_a_softmax_does(name):
    assert of(name=name) and not of("Softmax", name=name)


@pytest.mark.parametrize(
    "name",
    ["output", "logits", "prob", "fc1000", "defeat", "transpose_1", "purpose", "Transpose", "rectangle_vs_other"],
)
def test_other_names_say_nothing(name):
    assert not of(name=name)


@pytest.mark.parametrize(
    ("ends", "other"),
    [
        ((("ArgMax", {"axis": 1, "keepdims": 0}),), False),
        ((("ArgMax", {"axis": 1}), ("Squeeze", {}), ("Cast", {"to": TensorProto.INT32})), False),
        ((("ReduceSum", {"keepdims": 0}), ("Cast", {"to": TensorProto.INT64})), True),
        ((("Cast", {"to": TensorProto.INT32}),), True),
    ],
)
def test_whole_numbers_are_labels_only_where_the_best_is_chosen(ends, other):
    """A count of detections was compared as a label."""
    net = graphs.Net(("n", 4))
    y = net.node("MatMul", "x", net.weight("w", np.ones((4, 3), np.float32)))
    for end, attributes in ends:
        y = net.node(end, y, **attributes)
    assert bool(outputs_without_classes(net.model(y))) == other


def test_the_index_of_the_highest_score_is_a_label():
    net = graphs.Net(("n", 4))
    net.nodes.append(helper.make_node("TopK", ["x", net.weight("one", np.array([1]))], ["values", "index"]))
    assert not outputs_without_classes(net.model("index"))


@pytest.mark.parametrize("divisor", [np.float32(0.7), np.array([[2]], np.float32)])
def test_scores_over_a_temperature_are_scores_and_vectors_over_their_length_are_none(divisor):
    net = graphs.Net(("n", 4))
    y = net.matmul("x", 3)
    assert not outputs_without_classes(net.model(net.node("Div", y, net.weight("temperature", divisor))))
    length = net.node("ReduceL2", y, axes=[1])
    assert outputs_without_classes(net.model(net.node("Div", y, length)))
