"""The executor gives what onnxruntime gives, and the gradient of it; skipped without PyTorch."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from dfmpc_onnx import catalog
from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.model.source import load
from dfmpc_onnx.pipeline.facts import Normalized
from dfmpc_onnx.pipeline.manager import PassManager
from tests.graphs import ALL, Net, input_of, relative, run, workspace

torch = pytest.importorskip("torch")
network = pytest.importorskip("dfmpc_onnx.learning.network")


def followed(graph: gs.Graph, x: np.ndarray) -> list[np.ndarray]:
    """The outputs of a graph, as the executor computes them."""
    names = [tensor.name for tensor in graph.outputs]
    with torch.no_grad():
        found = network.TorchNetwork(graph, names, "cpu", "net")(torch.from_numpy(x))
    return [found[name].numpy() for name in names]


@pytest.mark.parametrize("name", ALL)
def test_every_network_of_the_tests_computes_what_onnxruntime_does(name):
    space = workspace(ALL[name]())
    PassManager(catalog.passes_up_to(Normalized)).run(space)
    x = input_of(ALL[name](), batch=2)
    assert relative(followed(space.graph, x), run(space.graph, x)) < 1e-5


def one(op: str, *weights: np.ndarray, outputs: int = 1, size: int = 8, opset: int = 17, **attributes: object):
    """A network of one node that reads a map, or as much of it as it takes."""
    net = Net((2, 4, size, size), opset=opset)
    names = [net.weight(f"w{i}", values) if values is not None else "" for i, values in enumerate(weights)]
    made = net.node(op, "x", *names, **attributes)
    if outputs > 1:
        more = [f"{made}.{i}" for i in range(1, outputs)]
        net.nodes[-1].output.extend(more)
        return net.model(made, *more)
    return net.model(made)


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


R = np.random.default_rng(1)
KERNEL = R.standard_normal((4, 4, 3, 3)).astype(np.float32)
CASES = {
    "Conv, uneven pads": one("Conv", KERNEL, pads=[0, 1, 2, 1], strides=[2, 1]),
    "Conv, SAME_LOWER": one("Conv", KERNEL, auto_pad="SAME_LOWER", strides=[2, 2], size=7),
    "Conv, groups": one("Conv", KERNEL[:, :1], group=4, dilations=[2, 2]),
    "ConvTranspose": one("ConvTranspose", KERNEL, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    "MaxPool, ceil": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "MaxPool, pads": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    "MaxPool, last window behind the input": one(
        "MaxPool", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, size=7
    ),
    "MaxPool, a step that leaves pads": one("MaxPool", kernel_shape=[2, 2], strides=[3, 3], pads=[0, 0, 1, 1], size=7),
    "AveragePool, ceil, pads counted": one(
        "AveragePool",
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[0, 1, 1, 0],
        ceil_mode=1,
        count_include_pad=1,
        opset=19,
    ),
    "AveragePool": one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "AveragePool, pads counted": one("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "AveragePool, SAME": one("AveragePool", kernel_shape=[2, 2], auto_pad="SAME_UPPER", strides=[2, 2], size=7),
    "GlobalMaxPool": one("GlobalMaxPool"),
    "Resize, nearest": one("Resize", None, np.array([1, 1, 2, 3], np.float32), mode="nearest"),
    "Resize, floor": one(
        "Resize",
        None,
        np.array([1, 1, 1.5, 2], np.float32),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "Resize, linear": one("Resize", None, None, whole(2, 4, 11, 5), mode="linear"),
    "Resize, corners": one(
        "Resize", None, None, whole(2, 4, 15, 8), mode="linear", coordinate_transformation_mode="align_corners"
    ),
    "Resize, linear by scales that leave a rest": one(
        "Resize", None, np.array([1, 1, 1.3, 0.45], np.float32), mode="linear"
    ),
    "Resize, linear, asymmetric": one(
        "Resize",
        None,
        np.array([1, 1, 2, 1.5], np.float32),
        mode="linear",
        coordinate_transformation_mode="asymmetric",
    ),
    "Resize, to one": one("Resize", None, None, whole(2, 4, 1, 9), coordinate_transformation_mode="pytorch_half_pixel"),
    "Resize, nearest by odd scales": one("Resize", None, np.array([1, 1, 1.3, 2.7], np.float32), size=7),
    "Pad, axes in between": one("Pad", whole(0, 1, 0, 2, 0, 0, 3, 0), np.float32(0.5)),
    "Pad, reflect": one("Pad", whole(0, 0, 1, 2, 0, 0, 2, 1), mode="reflect"),
    "Slice, backwards": one("Slice", whole(-1, 1), whole(-99, 7), whole(2, 3), whole(-2, 2)),
    "Slice": one("Slice", whole(1), whole(9999), whole(1)),
    "Split": one("Split", whole(1, 3), outputs=2, axis=1),
    "Gather": one("Gather", whole(3, -1), axis=1),
    "Gather, one": one("Gather", np.array(2, np.int64), axis=3),
    "Transpose": one("Transpose", perm=[0, 2, 3, 1]),
    "Squeeze": one("Squeeze", whole(2, 3), size=1),
    "Unsqueeze": one("Unsqueeze", whole(0, -1)),
    "Reshape": one("Reshape", whole(0, -1, 4)),
    "Expand": one("Expand", whole(2, 4, 8, 8)),
    "Tile": one("Tile", whole(1, 2, 1, 1)),
    "DepthToSpace": one("DepthToSpace", blocksize=2),
    "DepthToSpace, CRD": one("DepthToSpace", blocksize=2, mode="CRD"),
    "SpaceToDepth": one("SpaceToDepth", blocksize=2),
    "ReduceMean": one("ReduceMean", axes=[2, 3], keepdims=0),
    "ReduceMax": one("ReduceMax", axes=[1]),
    "ReduceSum": one("ReduceSum", whole(-1)),
    "Clip, one bound": one("Clip", None, np.float32(0.3)),
    "HardSigmoid": one("HardSigmoid", alpha=0.3, beta=0.4),
    "HardSwish": one("HardSwish"),
    "LeakyRelu": one("LeakyRelu", alpha=0.2),
    "PRelu": one("PRelu", R.uniform(0.1, 0.5, (4, 1, 1)).astype(np.float32)),
    "Elu": one("Elu", alpha=0.7),
    "Selu": one("Selu"),
    "Softplus": one("Softplus"),
    "Mish": one("Mish", opset=18),
    "Erf": one("Erf"),
    "Pow": one("Pow", np.float32(2.0)),
    "Div": one("Div", np.float32(3.0)),
    "Softmax": one("Softmax", axis=1),
    "LogSoftmax": one("LogSoftmax", axis=-1),
    "InstanceNormalization": one("InstanceNormalization", np.ones(4, np.float32), np.zeros(4, np.float32)),
    "LayerNormalization": one("LayerNormalization", R.uniform(0.5, 1.5, 8).astype(np.float32), axis=-1),
    "MatMul": one("MatMul", R.standard_normal((8, 5)).astype(np.float32)),
}


@pytest.mark.parametrize("name", CASES)
def test_every_operator_computes_what_onnxruntime_does(name):
    graph = to_graph(load(CASES[name]))
    x = input_of(CASES[name])
    assert relative(followed(graph, x), run(CASES[name], x)) < 1e-5


def test_sizes_that_a_network_computes_are_followed():
    net = Net(("n", 3, 8, 8))
    x = net.block("x", 8)
    count = net.node("Gather", net.node("Shape", x), net.weight("first", np.array(0, np.int64)), axis=0)
    count = net.node("Unsqueeze", count, net.weight("axes", whole(0)))
    model = net.model(net.node("Reshape", x, net.node("Concat", count, net.weight("rest", whole(-1)), axis=0)))
    x = input_of(model, batch=3)
    assert relative(followed(to_graph(load(model)), x), run(model, x)) < 1e-5


def test_the_gradient_is_that_of_the_network():
    net = Net((1, 3, 6, 6))
    model = net.model(net.tail(net.relu(net.norm(net.conv("x", 4)))))
    graph = to_graph(load(model))
    x = torch.from_numpy(input_of(model)).requires_grad_(True)
    network.TorchNetwork(graph, ["gemm1"], "cpu", "net")(x)["gemm1"][0, 2].backward()
    step = np.zeros((1, 3, 6, 6), np.float32)
    step[0, 1, 3, 2] = 1e-2
    up, down = (run(model, x.detach().numpy() + sign * step)[0][0, 2] for sign in (1, -1))
    assert float(x.grad[0, 1, 3, 2]) == pytest.approx((up - down) / 2e-2, rel=1e-2)


def test_only_what_is_wanted_is_run():
    net = Net()
    first = net.block("x", 8)
    model = net.model(net.node("Foo", first, domain="my.ops"))
    found = network.TorchNetwork(to_graph(load(model)), [first], "cpu", "net")(torch.zeros(1, 3, 8, 8))
    assert list(found) == [first]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            one("Relu", domain="my.ops"),
            r"net: images cannot be learned through my\.ops::Relu 'relu1'; leave --learn out",
        ),
        (one("Resize", None, None, whole(2, 4, 9, 9), mode="cubic"), "Resize 'resize1': a Resize of mode cubic"),
        (
            one("Resize", None, None, whole(2, 4, 4, 4), mode="linear", antialias=1, opset=18),
            "a Resize of mode linear with antialias",
        ),
        (
            one("Pad", whole(0, 1, 0, 0, 0, 1, 0, 0), mode="edge"),
            "Pad 'pad1': padding of mode edge of batch or channels",
        ),
        (one("ConvTranspose", KERNEL, output_shape=[9, 9]), "a ConvTranspose of a given output size"),
    ],
)
def test_what_is_not_followed_is_one_clear_line(model, said):
    graph = to_graph(load(model))
    with pytest.raises(ModelError, match=said):
        followed(graph, input_of(model))


def test_what_pytorch_refuses_is_one_clear_line_with_the_node():
    graph = to_graph(load(one("Reshape", whole(2, 4, 64))))
    with pytest.raises(ModelError, match=r"net: images cannot be learned through Reshape 'reshape1': shape .*; leave"):
        followed(graph, np.zeros((3, 4, 8, 8), np.float32))


def test_memory_that_there_is_not_is_said_as_such(monkeypatch):
    def refuse(call):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setitem(network.TORCH_KERNELS, "Relu", refuse)
    with pytest.raises(ModelError, match="the gradient takes more memory than there is; lower --count"):
        followed(to_graph(load(one("Relu"))), np.zeros((2, 4, 8, 8), np.float32))
