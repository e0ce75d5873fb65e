import pytest

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.statistics.lag_windows import FARTHEST_LAG, LARGEST_WINDOW, MOST_ELEMENTS, Windows
from tests import graphs

BIG = (512, 512)
MANY = 104  # channels: so many that readers decide, and not so many that they are cut short
HUGE = 1024  # so many that no more than the lags of a 3x3 patch are kept


def windows(build):
    net = graphs.Net((1, 3, 64, 64))
    return Windows(graphs.workspace(net.model(build(net))).graph)


def strided(net, x, kernel, stride, dilation=1):
    name = net.conv(x, 4, kernel)
    net.nodes[-1] = graphs.helper.make_node(
        "Conv",
        list(net.nodes[-1].input),
        [name],
        name=name,
        strides=[stride] * 2,
        dilations=[dilation] * 2,
        pads=[kernel // 2 * dilation] * 4,
    )
    return name


@pytest.mark.parametrize(("kernel", "side"), [(3, 5), (5, 9), (7, 13)])
def test_a_reader_sees_its_kernel_on_both_sides(kernel, side):
    assert windows(lambda net: net.conv("x", 4, kernel)).side("x", BIG, MANY) == (side, side)


def test_a_dilated_reader_looks_farther():
    assert windows(lambda net: strided(net, "x", 3, 1, 3)).side("x", BIG, MANY) == (13, 13)


def test_what_looks_through_a_pointwise_layer_counts():
    assert windows(lambda net: net.conv(net.relu(net.conv("x", 4, 1)), 4)).side("x", BIG, MANY) == (5, 5)


@pytest.mark.parametrize(("strides", "side"), [((), 5), ((2,), 9), ((2, 2), 17), ((2, 3), 25)])
def test_strides_in_front_of_a_reader_widen(strides, side):
    def build(net):
        x = "x"
        for stride in strides:
            x = strided(net, x, 1, stride)
        return net.conv(x, 4)

    assert windows(build).side("x", BIG, MANY) == (side, side)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_a_pooling_widens_by_its_stride(op):
    def build(net):
        return net.conv(net.node(op, "x", kernel_shape=[2, 2], strides=[2, 2]), 4)

    assert windows(build).side("x", BIG, MANY) == (9, 9)


def test_readers_far_down_are_cut_off():
    def build(net):
        x = "x"
        for _ in range(8):
            x = strided(net, x, 1, 2)
        return net.conv(x, 4)

    assert windows(build).side("x", BIG, 4) == (2 * FARTHEST_LAG + 1,) * 2


def test_few_channels_are_kept_farther_than_they_are_read():
    assert windows(lambda net: net.conv("x", 4)).side("x", BIG, 3) == (LARGEST_WINDOW, LARGEST_WINDOW)


def test_no_window_is_larger_than_the_map():
    found = windows(lambda net: net.conv("x", 4))
    assert found.side("x", (1, 7), 3) == (1, 7) and found.side("x", (2, 2), HUGE) == (2, 2)


def test_too_many_channels_are_refused_where_not_even_a_patch_fits():
    found = windows(lambda net: net.conv("x", 4))
    most = int((MOST_ELEMENTS / 4 / 25) ** 0.5)
    assert found.side("x", BIG, most) == (5, 5)
    with pytest.raises(Unknown, match=f"{most + 1} channels are too many for covariance functions"):
        found.side("x", BIG, most + 1)
    assert found.side("x", (1, 1), most + 1) == (1, 1)


@pytest.mark.parametrize(("kernel", "side"), [(1, 1), (3, 5), (5, 5)])
def test_of_very_many_channels_no_more_than_a_small_patch_is_kept(kernel, side):
    assert windows(lambda net: net.conv("x", 4, kernel)).side("x", BIG, HUGE) == (side, side)


def test_a_tensor_without_readers_needs_one_lag():
    assert windows(lambda net: net.conv("x", 4)).side("conv1", BIG, HUGE) == (1, 1)
