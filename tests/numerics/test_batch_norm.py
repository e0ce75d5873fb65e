import dataclasses

import numpy as np
import pytest

from dfmpc_onnx.graph.operators import batch_norm_parameters
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from tests import graphs


def parameters(epsilon=1e-3, variance=(0.5, 2.0, 0.0)):
    variance = np.array(variance)
    gamma, beta, mean = np.array([2.0, -1.0, 3.0]), np.array([0.1, 0.2, 0.3]), np.array([1.0, -1.0, 0.5])
    return BatchNormParameters(gamma, beta, mean, np.sqrt(variance + epsilon), epsilon)


def test_factor_and_offset_are_the_affine_map():
    norm, x = parameters(), np.array([4.0, 5.0, 6.0])
    wanted = norm.gamma * (x - norm.mean) / norm.std + norm.beta
    np.testing.assert_allclose(norm.factor * x + norm.offset, wanted)


def test_the_variance_is_that_of_training_and_never_negative():
    np.testing.assert_allclose(parameters().variance, [0.5, 2.0, 0.0], atol=1e-12)
    assert (dataclasses.replace(parameters(), epsilon=1.0).variance >= 0).all()


def test_a_channel_that_never_varied_puts_out_a_constant():
    found = parameters().output_variance
    np.testing.assert_allclose(found[:2], [4 * 0.5 / 0.501, 2.0 / 2.001])
    assert found[2] == pytest.approx(0.0, abs=1e-12)


def test_in_batch_statistics_mode_nothing_is_divided_by_zero():
    norm = parameters(epsilon=0.0, variance=(1.0, 1.0, 1.0))
    np.testing.assert_array_equal(norm.batch_std(np.array([4.0, 1.0, 0.0])), [2.0, 1.0, 1e-6])


def test_a_run_of_channels_keeps_epsilon():
    part = parameters().channels(1, 2)
    assert part.epsilon == 1e-3 and part.gamma.tolist() == [-1.0, 3.0]


def test_without_the_bias_of_the_layer_in_front_the_mean_is_less_by_it():
    assert parameters().without_bias(np.array([1.0, 1.0, 1.0])).mean.tolist() == [0.0, -2.0, -0.5]


@pytest.mark.parametrize("epsilon", [None, 1e-3])
def test_a_node_states_its_epsilon_or_has_that_of_the_standard(epsilon):
    net = graphs.Net()
    model = net.model(net.norm("x", variance=0.25))
    if epsilon is not None:
        model.graph.node[0].attribute.append(graphs.helper.make_attribute("epsilon", epsilon))
    norm = batch_norm_parameters(graphs.workspace(model).graph.nodes[0])
    assert norm.epsilon == pytest.approx(epsilon or 1e-5)
    np.testing.assert_allclose(norm.std, np.sqrt(0.25 + norm.epsilon))
