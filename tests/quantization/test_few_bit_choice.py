import numpy as np

from dfmpc_onnx.numerics.few_levels import FewLevels
from dfmpc_onnx.pipeline.deadline import CHOSEN, Deadline
from dfmpc_onnx.quantization.few_bit_choice import AFFORDED, choose_few_bits
from tests import graphs


def grid(scale, bits=4):
    return FewLevels(np.float32(scale), 0, bits, 0, 0.0)


def test_as_many_as_cost_little_together_have_few_bits():
    space = graphs.workspace(graphs.chain(), activations="auto")
    good, bad = grid(0.02, 8), grid(1e-4)  # which clips all there is
    choice = choose_few_bits(space, {"relu1": bad, "relu2": good})
    assert choice.tensors == {"relu2"} and choice.note.startswith("1 of 2 tensors have few bits")
    assert choose_few_bits(space, {"relu1": bad, "relu2": bad}).tensors == frozenset()
    assert 0 < AFFORDED < 0.1


def test_what_cannot_be_compared_has_8_bits_everywhere():
    net = graphs.Net()
    model = net.model(net.node("ArgMax", "x", axis=1))
    model.graph.output[0].type.tensor_type.elem_type = graphs.TensorProto.INT64
    choice = choose_few_bits(graphs.workspace(model, activations="auto"), {"x": grid(0.2)})
    assert choice.tensors == frozenset() and "8 bits everywhere" in choice.note


def test_without_a_tensor_to_choose_nothing_is_run():
    choice = choose_few_bits(graphs.workspace(graphs.chain(), activations="auto"), {})
    assert choice.tensors == frozenset() and choice.note == "no tensor is left to choose few bits for"


def test_without_time_to_measure_all_have_8_bits_and_it_is_said():
    space = graphs.workspace(graphs.chain(), activations="auto")
    space.deadline = Deadline(1.0, iter([0.0] + [CHOSEN] * 20).__next__)
    choice = choose_few_bits(space, {"relu1": grid(0.02, 8)})
    assert choice.tensors == frozenset() and "no time was left" in choice.note
    assert any("all have 8" in cut for cut in space.deadline.cuts)
