"""Corrections of biases and means: only what independent samples vouch for, and never at a scale that nobody knows."""

import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.numerics.recalibration import shrunk_mean
from dfmpc_onnx.runtime.session import Session
from dfmpc_onnx.statistics.channel_statistics import mean_shift
from tests import graphs

STATE = np.zeros((2, 1, 4), np.float32)


def test_a_mean_is_shrunk_by_its_standard_error():
    random = np.random.default_rng(0)
    samples = random.normal([0.0, 5.0], 1.0, (64, 2))
    mean, error = samples.mean(axis=0), samples.var(axis=0, ddof=1) / 64
    want = [mean[i] * max(0.0, 1 - error[i] / mean[i] ** 2) for i in range(2)]
    np.testing.assert_allclose(shrunk_mean(samples), want)
    assert abs(shrunk_mean(samples)[1] - mean[1]) < 0.01


def test_what_is_the_same_in_all_samples_is_taken_whole_and_few_samples_say_nothing():
    assert shrunk_mean(np.full((8, 1), 3.0)) == 3.0
    assert shrunk_mean(np.full((7, 1), 3.0)) == 0.0
    assert shrunk_mean(np.zeros((0, 2))).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("shape", "whole"), [((32, 2, 1), True), ((1, 2, 16, 16), True), ((1, 2, 5), False)])
def test_images_count_and_long_runs_of_positions_but_not_positions(shape, whole):
    hat = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(mean_shift(hat + 2, hat), [2.0 * whole] * 2, rtol=1e-4)


def test_positions_that_agree_because_they_overlap_do_not_vouch_for_each_other():
    random = np.random.default_rng(2)
    noise = np.repeat(random.standard_normal((4, 1, 1)), 64, axis=2).astype(np.float32)  # one value an image
    found = [abs(mean_shift(sign * noise + 0.1, np.zeros_like(noise))[0]) for sign in (1, -1)]
    plain = [abs((sign * noise + 0.1).mean()) for sign in (1, -1)]
    assert all(got < want for got, want in zip(found, plain, strict=True))


def streaming():
    """1-D Convs over a moment of sound, with a state beside it: each sees few places, the last a single one."""
    net = graphs.Net((1, 1, 640))
    x = "x"
    for index, (width, kernel, step) in enumerate(((32, 256, 128), (32, 3, 2), (32, 3, 2), (4, 1, 1))):
        size = (width, net.channels[x], kernel)
        values = net.random.standard_normal(size) * np.sqrt(2 / (size[1] * kernel))
        names = [net.weight(f"w{index}", values.astype(np.float32))]
        names.append(net.weight(f"b{index}", (0.02 * net.random.standard_normal(width)).astype(np.float32)))
        x = net.node("Conv", x, *names, strides=[step], pads=[kernel // 2 if kernel == 3 else 0] * 2)
        net.channels[x] = width
        x = net.relu(x) if index < 3 else x
    model = net.model(x)
    state = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 1, 4]) for name in ("state", "next")]
    model.graph.node.append(onnx.helper.make_node("Tanh", ["state"], ["next"], name="tanh"))
    model.graph.input.append(state[0])
    model.graph.output.append(state[1])
    return model


@pytest.mark.parametrize("deviation", [0.05, 1.0])
def test_sound_that_is_quieter_than_the_sample_keeps_its_fidelity(deviation):
    model = streaming()
    made = dfmpc_onnx.quantize(model, None, "int8", activations="none", check=False).model
    random = np.random.default_rng(7)
    signal = noise = 0.0
    for _ in range(50):
        x = deviation * random.standard_normal((1, 1, 640)).astype(np.float32)
        want, got = (Session(m).run({"x": x, "state": STATE})[0] for m in (model, made))
        signal, noise = signal + float(np.square(want).sum()), noise + float(np.square(want - got).sum())
    assert 10 * np.log10(signal / noise) > 35
