"""Networks carried as covariance functions against the same networks written out over every pixel of a torus.

The prior of images is periodic and small windows hold it whole, so linear networks have to agree to rounding.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import resolve
from dfmpc_onnx.numerics import gaussian_process as gp
from dfmpc_onnx.numerics import lags as lg
from dfmpc_onnx.numerics.least_squares import GivenMoments
from dfmpc_onnx.statistics.gaussian_streams import GaussianStreams
from dfmpc_onnx.statistics.walk import BatchNormUpdate
from dfmpc_onnx.statistics.walk import walk as walked
from tests import graphs

SIZE, COLOURS = 8, 3
UNIT = Preprocess.parse("unit")


class Watcher:
    """Keeps what it is shown; `changed` names the weights that the quantized network continues with."""

    def __init__(self, changed: dict[str, np.ndarray] | None = None) -> None:
        self.changed = changed or {}
        self.moments: dict[str, GivenMoments] = {}
        self.statistics, self.shifts = {}, {}

    def layer(self, node, moments, known):
        self.moments[node.name] = moments()
        return self.changed.get(node.name)

    def after_layer(self, node, shift):
        self.shifts[node.name] = None if shift is None else shift()

    def batch_norm(self, node, norm, statistics):
        self.statistics[node.name] = statistics
        scale = norm.gamma / norm.batch_std(statistics.variance_hat)
        return BatchNormUpdate(scale, norm.beta - scale * statistics.mean_hat, norm.mean, norm.variance)

    def observe(self, tensor, low, high):
        raise AssertionError("no image was run")


def walk(model, layers=None, changed=None) -> Watcher:
    """layers: whom to show the moments of; all by default."""
    graph, watcher = graphs.workspace(model).graph, Watcher(changed)
    names = {n.name for n in graph.nodes if n.op in ("Conv", "Gemm", "MatMul")} if layers is None else set(layers)
    inputs = resolve(graph, {}, UNIT)
    walked(graph, GaussianStreams(graph, inputs), watcher, frozenset(names | set(watcher.changed)))
    return watcher


def probed(build, changed=None, size=SIZE) -> GivenMoments:
    """Moments of the 3x3 patches of what `build` adds to a net."""
    net = graphs.Net((1, COLOURS, size, size))
    probe = net.conv(build(net), 1)
    return walk(net.model(probe), [probe], changed).moments[probe]


# The same over every pixel


@dataclasses.dataclass
class Torus:
    """The operators of a net as functions of maps ``[n, c, h, w]`` without borders; weights are those of the net."""

    weights: dict[str, np.ndarray]

    def conv(self, x, name, strides=(1, 1), dilations=(1, 1), group=1):
        w = self.weights[f"{name}.w"].astype(np.float64)
        per, outs = w.shape[1], len(w) // group
        y = np.zeros((len(x), len(w), *x.shape[2:]))
        for ky, kx in np.ndindex(w.shape[2:]):
            dy, dx = ((k - (n - 1) // 2) * d for k, n, d in zip((ky, kx), w.shape[2:], dilations, strict=True))
            moved = np.roll(x, (-dy, -dx), axis=(2, 3))
            for g in range(group):
                rows = slice(g * outs, (g + 1) * outs)
                y[:, rows] += np.einsum("oi,nihw->nohw", w[rows, :, ky, kx], moved[:, g * per : (g + 1) * per])
        if f"{name}.b" in self.weights:
            y += self.weights[f"{name}.b"][:, None, None]
        return y[:, :, :: strides[0], :: strides[1]]

    @staticmethod
    def average(x, kernel, stride):
        moved = [
            np.roll(x, ((kernel - 1) // 2 - y, (kernel - 1) // 2 - z), axis=(2, 3))
            for y, z in np.ndindex(kernel, kernel)
        ]
        return np.mean(moved, axis=0)[:, :, ::stride, ::stride]


def prior(size=SIZE):
    mean, variance = UNIT.moments(COLOURS)
    std = np.sqrt(variance)
    return mean, gp.natural_prior(size, size, 0.8 * np.outer(std, std) + 0.2 * np.diag(variance)).astype(np.float64)


def whole_covariance():
    """Of all values of an image: ``[c h w, c h w]``."""
    _, lags = prior()
    at = np.arange(SIZE)
    d = (at - at[:, None]) % SIZE  # [p, q]
    full = lags[d[:, None, :, None], d[None, :, None, :]]  # [py, px, qy, qx, a, b]
    return full.transpose(4, 0, 1, 5, 2, 3).reshape(COLOURS * SIZE**2, COLOURS * SIZE**2)


def patches(maps):
    """The 3x3 patch at the origin of each map: ``[n, c * 9]``."""
    around = np.arange(-1, 2)
    return maps[:, :, around[:, None], around].reshape(len(maps), -1)


def direct(function) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and the root of the covariance, of the patches of an affine function of an image."""
    mean, _ = prior()
    flat = np.broadcast_to(mean[None, :, None, None], (1, COLOURS, SIZE, SIZE))
    basis = np.eye(COLOURS * SIZE**2).reshape(-1, COLOURS, SIZE, SIZE)
    zero = patches(function(np.zeros_like(flat)))
    return patches(function(flat))[0], patches(function(basis)) - zero


def assert_moments(got: GivenMoments, function: Callable, function_hat: Callable | None = None):
    mean, slope = direct(function)
    mean_hat, slope_hat = (mean, slope) if function_hat is None else direct(function_hat)
    whole = whole_covariance()
    want = {
        "original": slope.T @ whole @ slope + np.outer(mean, mean),
        "cross": slope.T @ whole @ slope_hat + np.outer(mean, mean_hat),
        "hat": slope_hat.T @ whole @ slope_hat + np.outer(mean_hat, mean_hat),
    }
    scale = np.abs(want["original"]).max()
    np.testing.assert_allclose(got.mean[0], mean, atol=1e-5 * np.sqrt(scale))
    np.testing.assert_allclose(got.mean_hat[0], mean_hat, atol=1e-5 * np.sqrt(scale))
    for name, value in want.items():
        np.testing.assert_allclose(getattr(got, name)[0], value, atol=2e-5 * scale, err_msg=name)


# Linear networks


def conv(net, x, out, kernel=(3, 3), **attributes):
    """A Conv with any attributes; symmetric padding."""
    name, per = net._next("conv"), net.channels[x] // attributes.get("group", 1)
    weight = net.random.standard_normal((out, per, *kernel)) / np.sqrt(per * kernel[0] * kernel[1])
    spread = attributes.get("dilations", (1, 1))
    pads = [k // 2 * d for k, d in zip(kernel, spread, strict=True)]
    net.node("Conv", x, net.weight(f"{name}.w", weight.astype(np.float32)), pads=pads * 2, **attributes)
    net.channels[name] = out
    return name


CONVS = {
    "3x3": (4, (3, 3), {}),
    "1x1": (4, (1, 1), {}),
    "1x5": (2, (1, 5), {}),
    "stride 2": (4, (3, 3), {"strides": (2, 2)}),
    "1x1, stride 2": (4, (1, 1), {"strides": (2, 2)}),
    "stride 1, 2": (4, (3, 3), {"strides": (1, 2)}),
    "dilated": (4, (3, 3), {"dilations": (2, 2)}),
    "depthwise": (3, (3, 3), {"group": 3}),
    "depthwise, stride 2": (3, (3, 3), {"group": 3, "strides": (2, 2)}),
    "depthwise, dilated": (3, (3, 3), {"group": 3, "dilations": (1, 2)}),
    "depthwise, two outputs a channel": (6, (3, 3), {"group": 3}),
}


@pytest.mark.parametrize("kind", CONVS)
def test_a_conv_over_the_prior(kind):
    out, kernel, attributes = CONVS[kind]
    weights = {}

    def build(net):
        name = conv(net, "x", out, kernel, **attributes)
        weights.update(net.weights)
        return name

    assert_moments(probed(build), lambda x: Torus(weights).conv(x, "conv1", **attributes))


def network(build, function, changed=None):
    """build: net to tensor; function: the same on maps, given the net's operators."""
    nets = []

    def watched(net):
        nets.append(net)
        return build(net)

    found = probed(watched, changed)
    torus = Torus(nets[0].weights)
    if changed is None:
        assert_moments(found, lambda x: function(torus, x))
    else:
        hat = Torus(torus.weights | {f"{name}.w": value for name, value in changed.items()})
        assert_moments(found, lambda x: function(torus, x), lambda x: function(hat, x))


def two_wide(net):
    return conv(net, conv(net, conv(net, "x", 4), 4, group=4, strides=(2, 2)), 3, (1, 1))


def test_convs_behind_each_other():
    network(
        two_wide,
        lambda t, x: t.conv(t.conv(t.conv(x, "conv1"), "conv2", group=4, strides=(2, 2)), "conv3"),
    )


@pytest.mark.parametrize(("kernel", "stride", "pads"), [(2, 2, 0), (3, 1, 1), (3, 2, 1)])
def test_an_average_pool(kernel, stride, pads):
    def build(net):
        return net.node(
            "AveragePool", "x", kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pads] * 4, count_include_pad=1
        )

    network(build, lambda t, x: t.average(x, kernel, stride))


def sliced(net, x, step=2):
    bounds = [net.weight(f"bounds{i}", np.array(v)) for i, v in enumerate(([0, 0], [99, 99], [2, 3], [step, step]))]
    return net.node("Slice", x, *bounds)


def test_a_slice_takes_every_second_pixel():
    network(lambda net: sliced(net, "x"), lambda t, x: x[:, :, ::2, ::2])


AFFINE = {
    "Add": lambda x, c: x + c,
    "Sub": lambda x, c: x - c,
    "Sub, the constant first": lambda x, c: c - x,
    "Mul": lambda x, c: x * c,
    "Div": lambda x, c: x / c,
}


@pytest.mark.parametrize("shape", [(), (1,), (COLOURS, 1, 1), (1, COLOURS, 1, 1)])
@pytest.mark.parametrize("op", AFFINE)
def test_a_constant_a_channel(op, shape):
    values = np.linspace(0.5, -2, int(np.prod(shape))).astype(np.float32).reshape(shape)

    def build(net):
        operands = ["x", net.weight("c", values)]
        name = net.node(op.split(",")[0], *(reversed(operands) if "first" in op else operands))
        net.channels[name] = COLOURS
        return name

    network(build, lambda t, x: AFFINE[op](x, values.astype(np.float64)))


def add(net, a, b):
    return net.node("Add", a, b)


RESIDUAL = {
    "x + conv(x)": (
        lambda net: add(net, "x", conv(net, "x", 3)),
        lambda t, x: x + t.conv(x, "conv1"),
    ),
    "conv(x) + x": (
        lambda net: add(net, conv(net, "x", 3), "x"),
        lambda t, x: t.conv(x, "conv1") + x,
    ),
    "x + depthwise(x)": (
        lambda net: add(net, "x", conv(net, "x", 3, group=3)),
        lambda t, x: x + t.conv(x, "conv1", group=3),
    ),
    "x + x": (
        lambda net: add(net, "x", "x"),
        lambda t, x: 2 * x,
    ),
    "x + identity(x)": (
        lambda net: add(net, "x", net.node("Identity", "x")),
        lambda t, x: 2 * x,
    ),
    "x - 2 conv(x)": (
        lambda net: add(net, "x", net.node("Mul", conv(net, "x", 3), net.weight("c", np.float32(-2)))),
        lambda t, x: x - 2 * t.conv(x, "conv1"),
    ),
    "two convs": (
        lambda net: add(net, conv(net, "x", 4), conv(net, "x", 4, (1, 1))),
        lambda t, x: t.conv(x, "conv1") + t.conv(x, "conv2"),
    ),
    "two strided convs": (
        lambda net: add(net, conv(net, "x", 4, strides=(2, 2)), conv(net, "x", 4, (1, 1), strides=(2, 2))),
        lambda t, x: t.conv(x, "conv1", (2, 2)) + t.conv(x, "conv2", (2, 2)),
    ),
    "strides beside a shortcut of one conv": (
        lambda net: add(
            net, conv(net, conv(net, "x", 4, strides=(2, 2)), 4), conv(net, "x", 4, (1, 1), strides=(2, 2))
        ),
        lambda t, x: t.conv(t.conv(x, "conv1", (2, 2)), "conv2") + t.conv(x, "conv3", (2, 2)),
    ),
    "an average beside a strided conv": (
        lambda net: add(
            net, conv(net, "x", 3, strides=(2, 2)), net.node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2])
        ),
        lambda t, x: t.conv(x, "conv1", (2, 2)) + t.average(x, 2, 2),
    ),
    "a slice beside a strided conv": (
        lambda net: add(net, sliced(net, "x"), conv(net, "x", 3, strides=(2, 2))),
        lambda t, x: x[:, :, ::2, ::2] + t.conv(x, "conv1", (2, 2)),
    ),
    "channels of zeros": (
        lambda net: add(
            net,
            conv(net, "x", 6),
            net.node("Pad", "x", net.weight("pads", np.array([0, 1, 0, 0, 0, 2, 0, 0]))),
        ),
        lambda t, x: t.conv(x, "conv1") + np.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0))),
    ),
    "two blocks": (
        lambda net: (lambda y: add(net, y, conv(net, y, 3)))(add(net, "x", conv(net, "x", 3))),
        lambda t, x: (lambda y: y + t.conv(y, "conv2"))(x + t.conv(x, "conv1")),
    ),
    "a long way round": (
        lambda net: add(net, conv(net, conv(net, conv(net, "x", 5), 5, group=5), 3, (1, 1)), "x"),
        lambda t, x: t.conv(t.conv(t.conv(x, "conv1"), "conv2", group=5), "conv3") + x,
    ),
    "three branches": (
        lambda net: (lambda a, b, c: add(net, add(net, a, b), c))(
            conv(net, "x", 2), conv(net, "x", 2), conv(net, "x", 2)
        ),
        lambda t, x: t.conv(x, "conv1") + t.conv(x, "conv2") + t.conv(x, "conv3"),
    ),
    "x once more": (
        lambda net: add(net, add(net, "x", conv(net, "x", 3)), "x"),
        lambda t, x: 2 * x + t.conv(x, "conv1"),
    ),
    "an operand that lives on": (
        lambda net: (lambda a: add(net, add(net, a, "x"), conv(net, a, 3)))(conv(net, "x", 3)),
        lambda t, x: (lambda a: a + x + t.conv(a, "conv2"))(t.conv(x, "conv1")),
    ),
    "what was made of an operand before": (
        lambda net: (lambda a: (lambda c: add(net, add(net, a, "x"), c))(conv(net, a, 3)))(conv(net, "x", 3)),
        lambda t, x: (lambda a: a + x + t.conv(a, "conv2"))(t.conv(x, "conv1")),
    ),
    "a border of zeros": (
        lambda net: add(net, net.node("Pad", "x", net.weight("pads", np.zeros(8, np.int64))), conv(net, "x", 3)),
        lambda t, x: x + t.conv(x, "conv1"),
    ),
}


@pytest.mark.parametrize("kind", RESIDUAL)
def test_branches_know_how_they_hang_together(kind):
    network(*RESIDUAL[kind])


def concat(net, *parts):
    return net.concat(*parts)


def beside(*maps):
    return np.concatenate(maps, axis=1)


JOINED = {
    "two convs": (
        lambda net: concat(net, conv(net, "x", 2), conv(net, "x", 3, (1, 1))),
        lambda t, x: beside(t.conv(x, "conv1"), t.conv(x, "conv2")),
    ),
    "x and conv(x)": (
        lambda net: concat(net, "x", conv(net, "x", 2)),
        lambda t, x: beside(x, t.conv(x, "conv1")),
    ),
    "x twice, and conv(x)": (
        lambda net: concat(net, "x", conv(net, "x", 2), "x"),
        lambda t, x: beside(x, t.conv(x, "conv1"), x),
    ),
    "a dense block": (
        lambda net: (lambda y: concat(net, y, conv(net, conv(net, y, 4, (1, 1)), 2)))(
            concat(net, "x", conv(net, conv(net, "x", 4, (1, 1)), 2))
        ),
        lambda t, x: (lambda y: beside(y, t.conv(t.conv(y, "conv3"), "conv4")))(
            beside(x, t.conv(t.conv(x, "conv1"), "conv2"))
        ),
    ),
    "all that was before, each time anew": (
        lambda net: (lambda a: (lambda b: concat(net, "x", a, b))(conv(net, concat(net, "x", a), 2)))(
            conv(net, "x", 2)
        ),
        lambda t, x: (lambda a: beside(x, a, t.conv(beside(x, a), "conv2")))(t.conv(x, "conv1")),
    ),
    "then a sum with a shortcut": (
        lambda net: add(net, conv(net, concat(net, "x", conv(net, "x", 2)), 3, (1, 1)), "x"),
        lambda t, x: t.conv(beside(x, t.conv(x, "conv1")), "conv2") + x,
    ),
    "strided": (
        lambda net: concat(net, conv(net, "x", 2, strides=(2, 2)), sliced(net, "x")),
        lambda t, x: beside(t.conv(x, "conv1", (2, 2)), x[:, :, ::2, ::2]),
    ),
    "a transition": (
        lambda net: net.node(
            "AveragePool",
            conv(net, concat(net, "x", conv(net, "x", 2)), 3, (1, 1)),
            kernel_shape=[2, 2],
            strides=[2, 2],
        ),
        lambda t, x: t.average(t.conv(beside(x, t.conv(x, "conv1")), "conv2"), 2, 2),
    ),
}


@pytest.mark.parametrize("kind", JOINED)
def test_what_is_joined_knows_how_it_hangs_together(kind):
    network(*JOINED[kind])


@pytest.mark.parametrize("kind", ["x and conv(x)", "a dense block", "then a sum with a shortcut"])
def test_two_networks_that_join(kind):
    shape = (4, 3, 1, 1) if kind == "a dense block" else (2, 3, 3, 3)
    network(*JOINED[kind], {"conv1": rounded(shape, 4)})


def test_a_shortcut_is_the_identity_in_the_kernel():
    """x + W * x, and (I + W) * x."""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((3, 3, 3, 3)) / 5
    more = weight.copy()
    more[range(3), range(3), 1, 1] += 1
    apart = probed(lambda net: add(net, "x", net.conv("x", 3, weight=weight)))
    together = probed(lambda net: net.conv("x", 3, weight=more))
    for name in ("original", "cross", "hat", "mean", "mean_hat"):
        a, b = getattr(apart, name), getattr(together, name)
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


# Two networks


def rounded(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) / 5


def test_two_weights_give_two_networks():
    network(
        lambda net: conv(net, conv(net, "x", 4), 3),
        lambda t, x: t.conv(t.conv(x, "conv1"), "conv2"),
        {"conv1": rounded((4, 3, 3, 3), 2), "conv2": rounded((3, 4, 3, 3), 3)},
    )


@pytest.mark.parametrize("kind", ["x + conv(x)", "two strided convs", "two blocks", "a slice beside a strided conv"])
def test_two_networks_with_branches(kind):
    out = 4 if kind == "two strided convs" else 3
    network(*RESIDUAL[kind], {"conv1": rounded((out, 3, 3, 3), 4)})


def test_two_networks_of_depthwise_layers():
    network(
        lambda net: conv(net, conv(net, "x", 3, group=3), 4, (1, 1)),
        lambda t, x: t.conv(t.conv(x, "conv1", group=3), "conv2"),
        {"conv1": rounded((3, 1, 3, 3), 5), "conv2": rounded((4, 3, 1, 1), 6)},
    )


def test_a_shift_of_the_mean_is_told():
    net = graphs.Net()
    x = net.conv("x", 4, bias=True)
    changed = rounded((4, 3, 3, 3), 7)
    watcher = walk(net.model(x), changed={"conv1": changed})
    mean, _ = prior()
    want = (net.weights["conv1.w"] - changed).sum(axis=(2, 3), dtype=np.float64) @ mean
    np.testing.assert_allclose(watcher.shifts["conv1"], want, atol=1e-5)


def test_a_bias_that_is_changed_moves_the_quantized_mean_alone():
    net = graphs.Net()
    probe = net.conv(net.conv("x", 4, bias=True), 1)
    graph = graphs.workspace(net.model(probe)).graph
    watcher = Watcher()

    def after(node, shift):
        if node.name == "conv1":
            return node.inputs[2].values + np.float32([1, 2, 3, 4])
        return None

    watcher.after_layer = after
    walked(graph, GaussianStreams(graph, resolve(graph, {}, UNIT)), watcher, frozenset({"conv1", probe}))
    found = watcher.moments[probe]
    np.testing.assert_allclose(found.mean_hat - found.mean, np.repeat([[1.0, 2, 3, 4]], 9, axis=1), atol=1e-5)


@pytest.mark.parametrize("network_name", sorted(graphs.ALL.keys() - {"old"}))
def test_unchanged_weights_leave_two_equal_networks(network_name):
    watcher = walk(graphs.ALL[network_name]())
    assert watcher.moments
    for found in watcher.moments.values():
        scale = np.abs(found.original).max()
        for other in (found.hat, found.cross):
            np.testing.assert_allclose(other, found.original, atol=1e-5 * scale)
        np.testing.assert_allclose(found.mean_hat, found.mean, atol=1e-5 * np.sqrt(scale))
        k = found.hat.shape[1]
        centred = found.hat - found.mean_hat[:, :, None] * found.mean_hat[:, None, :]
        if 2 * k <= gp.SMALL:
            assert np.linalg.eigvalsh(centred).min() > -1e-5 * scale
    for found in watcher.statistics.values():
        np.testing.assert_allclose(found.mean_hat, found.mean, atol=1e-5)
        np.testing.assert_allclose(found.variance_hat, found.variance, rtol=1e-4, atol=1e-6)


# Normalizations and activations


def test_behind_a_norm_each_channel_has_its_beta_and_gamma():
    def build(net):
        return net.norm(net.conv("x", 3), gamma=[0.5, -1.0, 2.0], beta=[0.1, 0.2, -0.3])

    found = probed(build)
    mean = found.mean[0].reshape(3, 9)
    variance = found.diagonal[0].reshape(3, 9) - mean**2
    np.testing.assert_allclose(mean, np.repeat([[0.1], [0.2], [-0.3]], 9, axis=1), atol=1e-5)
    np.testing.assert_allclose(variance, np.repeat([[0.25], [1.0], [4.0]], 9, axis=1), rtol=1e-3)


def test_a_layer_in_front_of_a_norm_has_the_moments_that_were_measured():
    net = graphs.Net()
    name = net.conv("x", 4, bias=True)
    model = net.model(net.norm(name, mean=[0.1, -0.2, 0.3, 0.0], variance=[0.5, 1.0, 0.2, 0.8]))
    found = walk(model).moments["conv1"]
    rows = net.weights["conv1.w"].reshape(4, -1).astype(np.float64)
    mean = rows @ found.mean[0]
    variance = np.einsum("oi,ij,oj->o", rows, found.original[0], rows) - mean**2
    np.testing.assert_allclose(mean + net.weights["conv1.b"], [0.1, -0.2, 0.3, 0.0], atol=0.02)
    np.testing.assert_allclose(variance, [0.5, 1.0, 0.2, 0.8], rtol=0.1)


def test_a_norm_that_reads_others_too_says_as_much_of_a_layer_as_one_that_stands_alone_behind_it():
    mean, variance = [0.1, -0.2, 0.3, 0.0], [0.5, 1.0, 0.2, 0.8]
    alone, among, unknown = (graphs.Net() for _ in range(3))
    for net in (alone, among, unknown):
        net.conv("x", 3)
        net.conv("x", 4, bias=True)
    moments = [
        walk(net.model(output)).moments["conv2"]
        for net, output in (
            (alone, alone.norm("conv2", mean=mean, variance=variance)),
            (among, among.norm(among.concat("conv1", "conv2"), mean=[0] * 3 + mean, variance=[1] * 3 + variance)),
            (unknown, unknown.relu("conv2")),
        )
    ]
    np.testing.assert_allclose(moments[1].original, moments[0].original)
    np.testing.assert_allclose(moments[1].mean, moments[0].mean)
    assert not np.allclose(moments[2].original, moments[0].original)


def images(count, seed):
    """Gaussian images of the prior."""
    mean, _ = prior()
    values, vectors = np.linalg.eigh(whole_covariance())
    root = vectors * np.sqrt(np.maximum(values, 0))
    x = np.random.default_rng(seed).standard_normal((count, len(root))) @ root.T
    return x.reshape(count, COLOURS, SIZE, SIZE) + mean[:, None, None]


ACTIVATED = {
    "Relu": lambda x: np.maximum(x, 0),
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "LeakyRelu": lambda x: np.where(x > 0, x, 0.01 * x),
}


@pytest.mark.parametrize("op", ACTIVATED)
def test_an_activated_network_has_the_moments_of_samples(op):
    nets = []

    def build(net):
        nets.append(net)
        first = net.node(op, conv(net, "x", 3))
        # Behind the second Conv the field is no longer Gaussian: that, and not more, may be lost.
        return add(net, conv(net, first, 3), "x")

    found = probed(build)
    torus = Torus(nets[0].weights)
    x = images(30_000, 8)
    y = patches(torus.conv(ACTIVATED[op](torus.conv(x, "conv1")), "conv2") + x)
    want = y.T @ y / len(y)
    np.testing.assert_allclose(found.original[0], want, atol=0.03 * np.abs(want).max())
    np.testing.assert_allclose(found.mean[0], y.mean(axis=0), atol=0.02 * y.std())


# Averages over the map, matrices


def test_a_global_average_is_the_mean_of_the_covariance():
    net = graphs.Net()
    watcher = walk(net.model(net.tail("x")))
    mean, lags = prior()
    found = watcher.moments["gemm1"]
    np.testing.assert_allclose(found.mean[0], mean, atol=1e-6)
    want = lg.spatial_mean(lags.astype(np.float32), (SIZE, SIZE))
    np.testing.assert_allclose(found.original[0] - np.outer(mean, mean), want, atol=1e-6)


@pytest.mark.parametrize("kind", ["gap", "mean", "mean without dimensions", "pool", "matmul", "plain gemm"])
def test_every_spelling_of_a_classifier(kind):
    net = graphs.Net()
    x = {
        "mean": lambda: net.node("Flatten", net.node("ReduceMean", "x", axes=[2, 3], keepdims=1)),
        "mean without dimensions": lambda: net.node("ReduceMean", "x", axes=[2, 3], keepdims=0),
        "pool": lambda: net.node("Flatten", net.node("AveragePool", "x", kernel_shape=[SIZE, SIZE])),
    }.get(kind, lambda: net.node("Flatten", net.node("GlobalAveragePool", "x")))()
    probe = net.matmul(x, 5) if kind == "matmul" else net.gemm(x, 5, int(kind != "plain gemm"))
    again = net.gemm(probe, 2)
    found = walk(net.model(again)).moments
    plain = graphs.Net()
    want = walk(plain.model(plain.tail("x"))).moments["gemm1"]
    np.testing.assert_allclose(found[probe].original, want.original, atol=1e-6)
    weight = net.weights[f"{probe}.w"].astype(np.float64)
    weight = weight.T if kind in ("matmul", "plain gemm") else weight
    bias = net.weights.get(f"{probe}.b", np.zeros(5))
    mean = weight @ want.mean[0] + bias
    centred = want.original[0] - np.outer(want.mean[0], want.mean[0])
    np.testing.assert_allclose(found[again].mean[0], mean, atol=1e-5)
    np.testing.assert_allclose(found[again].original[0], weight @ centred @ weight.T + np.outer(mean, mean), atol=1e-5)


def test_vectors_are_added_with_what_they_share():
    net = graphs.Net()
    first = net.node("Flatten", net.node("GlobalAveragePool", "x"))
    inner = net.gemm(first, COLOURS, bias=False)
    probe = net.gemm(add(net, first, inner), 1)
    found = walk(net.model(probe)).moments
    step = np.eye(COLOURS) + net.weights[f"{inner}.w"].astype(np.float64)
    np.testing.assert_allclose(found[probe].original[0], step @ found[inner].original[0] @ step.T, atol=1e-5)


@pytest.mark.parametrize("kind", ["valid", "padded", "pooled"])
def test_a_map_has_the_size_that_its_padding_leaves_it(kind):
    """So that an average over all of it is known as one, and weighs lags as often as they occur."""
    net = graphs.Net()
    if kind == "valid":
        y, side = net.conv("x", COLOURS), SIZE - 2
        del next(n for n in net.nodes if n.name == y).attribute[:]
    elif kind == "padded":
        y, side = net.node("Pad", "x", net.weight("pads", np.array([0, 0, 1, 2, 0, 0, 2, 1]))), SIZE + 3
    else:
        y, side = net.node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1]), SIZE // 2 + 1
    whole = net.node("Flatten", net.node("AveragePool", y, kernel_shape=[side, side]))
    walk(net.model(net.gemm(whole, 2)))


@pytest.mark.parametrize("group", [1, COLOURS])
def test_taps_that_read_padding_alone_count_for_nothing(group):
    """On a map of 1x1 a process without borders would have all nine taps read the one pixel."""
    nets = [graphs.Net((1, COLOURS, 1, 1)) for _ in range(2)]
    middle = np.random.default_rng(1).standard_normal((6, COLOURS // group, 1, 1)).astype(np.float32)
    wide = np.full((6, COLOURS // group, 3, 3), 7.0, np.float32)
    wide[:, :, 1:2, 1:2] = middle
    found = []
    for net, weight in zip(nets, (wide, middle), strict=True):
        probe = net.gemm(net.node("Flatten", net.norm(net.conv("x", 6, len(weight[0, 0]), group, weight=weight))), 1)
        found.append(walk(net.model(probe)))
    for got, want in zip(*(w.statistics["norm1"].__dict__.values() for w in found), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    second, middle_second = (w.moments["conv1"].original for w in found)
    np.testing.assert_allclose(second[:, 4::9, 4::9], middle_second, rtol=1e-5, atol=1e-7)
    second[:, 4::9, 4::9] = 0
    np.testing.assert_allclose(second, 0, atol=1e-12)


def test_a_sum_of_vectors_is_a_vector():
    net = graphs.Net()
    first = net.node("Flatten", net.node("GlobalAveragePool", "x"))
    both = add(net, first, net.gemm(first, COLOURS, bias=False))
    walk(net.model(net.matmul(net.node("Add", both, net.weight("b", np.arange(COLOURS, dtype=np.float32))), 2)))


# What has no rule


def refused(build, shape=(1, COLOURS, SIZE, SIZE), opset=13):
    net = graphs.Net(shape, opset)
    with pytest.raises(Unknown) as info:
        walk(net.model(build(net)))
    return str(info.value)


def test_an_unknown_operator_is_named():
    assert refused(lambda net: net.conv(net.node("LRN", net.conv("x", 3), size=3), 3)) == "no rule for LRN"


def test_a_product_of_maps_has_no_rule():
    assert refused(lambda net: net.conv(net.node("Mul", net.conv("x", 3), "x"), 3)) == "no rule for a Mul of two maps"


def test_a_division_by_zero_has_no_rule():
    def build(net):
        return net.conv(net.node("Div", "x", net.weight("c", np.float32(0))), 3)

    assert "division" in refused(build)


def test_a_constant_for_each_pixel_has_no_rule():
    def build(net):
        values = np.ones((1, COLOURS, SIZE, SIZE), np.float32)
        return net.conv(net.node("Add", "x", net.weight("c", values)), 3)

    assert refused(build) == "a constant operand is not one number a channel"


def test_a_map_that_is_flattened_is_refused():
    def build(net):
        x = net.node("Flatten", "x")
        net.channels[x] = COLOURS * SIZE * SIZE
        return net.gemm(x, 2)

    assert refused(build) == "a map is flattened before it is pooled"


def test_too_many_channels_are_refused_before_any_work(monkeypatch):
    def fail(*_):
        raise AssertionError("work was done")

    monkeypatch.setattr(gp, "natural_prior", fail)
    weight = np.zeros((2048, COLOURS, 3, 3), np.float32)
    reason = refused(lambda net: net.conv(net.conv("x", 2048, weight=weight), 1))
    assert reason == "2048 channels are too many for covariance functions"


def test_too_many_covariances_at_once_are_refused(monkeypatch):
    monkeypatch.setattr("dfmpc_onnx.statistics.gaussian_streams.MOST_NUMBERS", 10**5)
    walk(graphs.chain())
    with pytest.raises(Unknown, match="too many maps that are read again later"):
        walk(graphs.dense())


def test_a_clip_of_an_old_opset_whose_bounds_are_attributes_is_refused():
    with pytest.raises(Unknown, match="no rule for Clip"):
        walk(graphs.ALL["old"]())


def test_an_input_that_is_no_image_is_refused():
    assert refused(lambda net: net.gemm("x", 2), (1, 6)) == "an input is no image"


def test_a_stride_along_one_side_beside_branches_is_refused():
    def build(net):
        return net.conv(add(net, conv(net, "x", 4, strides=(1, 2)), conv(net, "x", 4, strides=(1, 2))), 2)

    assert refused(build) == "beside branches, a stride that differs along height and width"


def test_a_slice_for_each_direction_is_followed():
    def sliced(net, name, axis):
        starts, ends, axes, steps = (
            net.weight(f"{name}{i}", np.array([v], np.int64)) for i, v in enumerate((0, 2**31 - 1, axis, 2))
        )
        out = net.node("Slice", "x" if axis == 2 else net.nodes[-1].output[0], starts, ends, axes, steps)
        net.channels[out] = COLOURS
        return out

    net = graphs.Net((1, COLOURS, SIZE, SIZE))
    main = conv(net, "x", COLOURS, strides=(2, 2))
    sliced(net, "a", 2)
    short = sliced(net, "b", 3)
    walk(net.model(net.conv(add(net, main, short), 2)))


def test_a_sum_of_averages_of_one_map_is_refused():
    def build(net):
        return net.conv(add(net, net.node("GlobalAveragePool", "x"), net.node("GlobalAveragePool", "x")), 2)

    assert refused(build) == "a sum of averages, whose covariance is not followed"


def test_sums_of_maps_of_different_size_are_refused():
    def build(net):
        pooled = net.node("GlobalAveragePool", "x")
        return net.conv(add(net, "x", pooled), 2)

    assert refused(build) == "a sum of maps of different size"


def test_vectors_are_not_joined():
    def build(net):
        flat = net.node("Flatten", net.node("GlobalAveragePool", "x"))
        return net.gemm(net.concat(net.gemm(flat, 4), net.gemm(flat, 2)), 3)

    assert refused(build) == "what it joins are not maps of one size"


def test_averages_of_one_map_are_not_joined():
    def build(net):
        return net.conv(net.concat(net.node("GlobalAveragePool", "x"), net.node("GlobalAveragePool", "x")), 2)

    assert refused(build) == "it joins averages, whose covariance is not followed"


def test_a_concat_along_another_axis_has_no_rule():
    def build(net):
        net.channels["concat1"] = COLOURS
        return net.conv(net.node("Concat", "x", "x", axis=2), 2)

    assert refused(build) == "it joins along another axis than the channels"


def test_a_pad_of_the_batch_is_refused():
    def build(net):
        return net.conv(net.node("Pad", "x", net.weight("pads", np.array([1, 0, 0, 0, 0, 0, 0, 0]))), 2)

    assert "pads" in refused(build)
