import numpy as np
import onnx_graphsurgeon as gs
import pytest

from dfmpc_onnx.graph.conv import conv_pads, taps_seen
from dfmpc_onnx.numerics.least_squares import SampledMoments
from dfmpc_onnx.statistics.patches import gather_patches, sample_patches


def conv(kernel, **attributes):
    weight = gs.Constant("w", np.zeros((1, 1, *kernel), np.float32))
    return gs.Node("Conv", "conv", attributes, [gs.Variable("x"), weight], [gs.Variable("y")])


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 3), (7, 6)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (3, 5), (2, 4)])
@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 2, 1, 2]},
        {"pads": [2, 4, 3, 4], "strides": [3, 2]},
        {"pads": [4, 4, 4, 4], "dilations": [2, 2], "strides": [2, 1]},
        {"pads": [9, 9, 0, 0], "strides": [4, 5]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    ],
)
def test_the_taps_that_see_a_map_are_those_that_read_more_than_padding(size, kernel, attributes):
    node, ones = conv(kernel, **attributes), np.ones((1, 1, *size), np.float32)
    positions = sample_patches(ones, node, 1000, np.random.default_rng(0))
    wanted = gather_patches(ones, node, positions)[0].any(axis=0).reshape(kernel)
    assert np.array_equal(taps_seen(node, size), wanted)


def test_enormous_pads_take_no_time():
    assert taps_seen(conv((3, 3), pads=[1 << 40] * 4), (4, 4)).all()


@pytest.mark.parametrize(("node", "shape"), [(conv((3, 3)), (0, 4, 5, 5)), (gs.Node("Gemm"), (0, 4))])
def test_of_an_empty_input_there_is_no_patch(node, shape):
    x = np.zeros(shape, np.float32)
    positions = sample_patches(x, node, 10, np.random.default_rng(0))
    patches = gather_patches(x, node, positions)
    assert patches.shape[1] == 0 and patches.shape[2] == (36 if len(shape) == 4 else 4)
    moments = SampledMoments.of(patches, patches)
    assert moments.count == 0 and not moments.hat.any() and not moments.mean.any()


def slow_patches(x, node, positions):
    """Tap by tap, patch by patch, from a padded map."""
    groups, kernel = node.attrs.get("group", 1), node.inputs[1].shape[2:]
    strides, dilations = node.attrs.get("strides", [1] * len(kernel)), node.attrs.get("dilations", [1] * len(kernel))
    pads = conv_pads(x.shape[2:], node)
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    found = []
    for image, *at in zip(*positions, strict=True):
        taps = [
            padded[
                (image, slice(None), *(p * s + t * d for p, s, t, d in zip(at, strides, tap, dilations, strict=True)))
            ]
            for tap in np.ndindex(*kernel)
        ]
        found.append(np.stack(taps, axis=1).reshape(groups, -1))
    return np.stack(found, axis=1)


@pytest.mark.parametrize(
    ("shape", "kernel", "attributes"),
    [
        ((3, 4, 9), (3,), {"pads": [2, 1]}),
        ((3, 4, 6, 7), (1, 1), {}),
        ((3, 4, 6, 7), (3, 3), {"pads": [1, 1, 1, 1], "group": 4}),
        ((3, 4, 6, 7), (3, 2), {"pads": [2, 0, 3, 1], "strides": [2, 3], "dilations": [2, 1], "group": 2}),
        ((3, 4, 6, 7), (5, 5), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ((2, 2, 4, 3, 5), (2, 3, 3), {"pads": [1, 1, 1, 0, 1, 1]}),
    ],
)
@pytest.mark.parametrize("count", [7, 1000])
def test_patches_are_those_of_a_padded_map(shape, kernel, attributes, count):
    rng = np.random.default_rng(3)
    x, node = rng.standard_normal(shape).astype(np.float32), conv(kernel, **attributes)
    positions = sample_patches(x, node, count, rng)
    got = gather_patches(x, node, positions)
    assert got.dtype == np.float32 and np.array_equal(got, slow_patches(x, node, positions))
