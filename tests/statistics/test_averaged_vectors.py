from dfmpc_onnx.statistics.averaged_vectors import averaged_vectors
from tests import graphs


def squeezed(pool="GlobalAveragePool"):
    """Squeeze and excitation, and a classifier of two layers behind an average."""
    net = graphs.Net()
    x = net.block("x", 8)
    hidden = net.relu(net.conv(net.node(pool, x), 4, 1))
    x = net.node("Mul", x, net.node("Sigmoid", net.conv(hidden, 8, 1)))
    hidden = net.relu(net.tail(net.block(x, 8), 6))
    return graphs.workspace(net.model(net.gemm(hidden, 4))).graph


def test_layers_behind_global_averages_are_found_up_to_the_product_and_to_the_outputs():
    assert averaged_vectors(squeezed()) == {"conv2", "conv3", "gemm1"}


def test_other_pools_keep_a_map():
    assert averaged_vectors(squeezed("Identity")) == {"gemm1"}
