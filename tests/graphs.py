"""Small networks for tests, and ways to look at them: as text, as numbers, as onnxruntime sees them."""

from __future__ import annotations

import pathlib
import tempfile
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from dfmpc_onnx import catalog
from dfmpc_onnx.graph.exchange import to_graph, to_model
from dfmpc_onnx.graph.query import constant
from dfmpc_onnx.model.source import load
from dfmpc_onnx.pipeline.manager import Pass, PassManager, PassResult
from dfmpc_onnx.pipeline.settings import LayerOverride, Settings, WeightBits, parse_activations
from dfmpc_onnx.pipeline.workspace import Workspace


class Net:
    """Builds a network node by node. Nodes and their outputs are called conv1, norm1, relu1, conv2, ...

    Weights are seeded, with a spread that keeps activations near deviation 1; norm() gives every parameter a value
    of its own. `channels` follows each tensor.
    """

    def __init__(self, shape: Sequence[int | str] = (1, 3, 8, 8), opset: int = 13, ir_version: int = 8) -> None:
        self.shape, self.opset, self.ir_version = list(shape), opset, ir_version
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.channels = {"x": int(shape[1])}
        self._count: Counter[str] = Counter()

    def node(self, op: str, *inputs: str, stem: str = "", domain: str = "", **attributes: object) -> str:
        stem = stem or op.lower()
        self._count[stem] += 1
        name = f"{stem}{self._count[stem]}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, domain=domain, **attributes))
        self.channels[name] = self.channels.get(inputs[0] if inputs else "", 0)
        return name

    def weight(self, name: str, values: np.ndarray) -> str:
        self.weights[name] = np.asarray(values)
        return name

    def _next(self, stem: str) -> str:
        return f"{stem}{self._count[stem] + 1}"

    def conv(
        self, x: str, out: int, kernel: int = 3, group: int = 1, bias: bool = False, weight: np.ndarray | None = None
    ) -> str:
        name, fan = self._next("conv"), self.channels[x] // group
        if weight is None:
            weight = self.random.standard_normal((out, fan, kernel, kernel)) / np.sqrt(fan * kernel * kernel)
        inputs = [x, self.weight(f"{name}.w", weight.astype(np.float32))]
        if bias:
            inputs.append(self.weight(f"{name}.b", self.random.standard_normal(out).astype(np.float32)))
        self.node("Conv", *inputs, group=group, pads=[kernel // 2] * 4)
        self.channels[name] = out
        return name

    def norm(self, x: str, **given: np.ndarray | float) -> str:
        """given: gamma, beta, mean, variance; each a number or one for every channel."""
        name, size = self._next("norm"), self.channels[x]
        usual = {
            "gamma": self.random.uniform(0.5, 1.5, size),
            "beta": self.random.uniform(-0.5, 0.5, size),
            "mean": self.random.uniform(-0.3, 0.3, size),
            "variance": self.random.uniform(0.5, 1.5, size),
        }
        inputs = [
            self.weight(f"{name}.{key}", np.broadcast_to(given.get(key, value), size).astype(np.float32))
            for key, value in usual.items()
        ]
        return self.node("BatchNormalization", x, *inputs, stem="norm")

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def clip(self, x: str, low: float = 0.0, high: float = 6.0) -> str:
        name = self._next("clip")
        low_name = self.weight(f"{name}.low", np.float32(low))
        return self.node("Clip", x, low_name, self.weight(f"{name}.high", np.float32(high)))

    def block(self, x: str, out: int, kernel: int = 3, group: int = 1, bias: bool = False) -> str:
        """Conv, BatchNormalization, Relu."""
        return self.relu(self.norm(self.conv(x, out, kernel, group, bias)))

    def gemm(self, x: str, out: int, trans_b: int = 1, bias: bool = True) -> str:
        name, fan = self._next("gemm"), self.channels[x]
        weight = self.random.standard_normal((out, fan)).astype(np.float32) / np.float32(np.sqrt(fan))
        inputs = [x, self.weight(f"{name}.w", np.ascontiguousarray(weight if trans_b else weight.T))]
        if bias:
            inputs.append(self.weight(f"{name}.b", self.random.standard_normal(out).astype(np.float32)))
        self.channels[self.node("Gemm", *inputs, transB=trans_b)] = out
        return name

    def matmul(self, x: str, out: int) -> str:
        name, fan = self._next("matmul"), self.channels[x]
        weight = self.random.standard_normal((fan, out)) / np.sqrt(fan)
        self.channels[self.node("MatMul", x, self.weight(f"{name}.w", weight.astype(np.float32)))] = out
        return name

    def concat(self, *parts: str) -> str:
        """Along the channels."""
        name = self.node("Concat", *parts, axis=1)
        self.channels[name] = sum(self.channels[part] for part in parts)
        return name

    def dense(self, x: str, inner: int = 8, growth: int = 4, bias: bool = False) -> str:
        """A layer of DenseNet-BC: norm, relu, 1x1, norm, relu, 3x3, joined to what it reads."""
        y = self.conv(self.relu(self.norm(x)), inner, 1, bias=bias)
        return self.concat(x, self.conv(self.relu(self.norm(y)), growth, bias=bias))

    def tail(self, x: str, out: int = 5) -> str:
        """The usual classifier: global average, Flatten, Gemm."""
        return self.gemm(self.node("Flatten", self.node("GlobalAveragePool", x)), out)

    def model(self, *outputs: str, listed: bool = False) -> onnx.ModelProto:
        """listed: initializers are inputs too, as IR version 3 demands."""
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)]
        constants = [numpy_helper.from_array(values, name) for name, values in self.weights.items()]
        if listed:
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in constants]
        untyped = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", inputs, untyped, constants)
        ids = [helper.make_opsetid(d, 1 if d else self.opset) for d in sorted({n.domain for n in self.nodes} | {""})]
        model = helper.make_model(graph, opset_imports=ids, ir_version=self.ir_version)
        if not any(node.domain for node in self.nodes):
            return onnx.shape_inference.infer_shapes(model)
        for value in model.graph.output:
            value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [None] * len(self.shape)))
        return model


# Networks


def chain(opset: int = 13, gamma: float | np.ndarray | None = None) -> onnx.ModelProto:
    """Conv-BN-Relu three times, then a classifier: conv2 is low, conv3 repairs it. gamma: that of norm2."""
    net = Net(opset=opset)
    given = {} if gamma is None else {"gamma": gamma}
    x = net.block("x", 8)
    x = net.relu(net.norm(net.conv(x, 8), **given))
    return net.model(net.tail(net.block(x, 8)))


def residual() -> onnx.ModelProto:
    """A stem and a basic block: relu3 = Relu(norm3 + relu1)."""
    net = Net()
    stem = net.block("x", 8)
    inner = net.norm(net.conv(net.block(stem, 8), 8))
    return net.model(net.tail(net.relu(net.node("Add", inner, stem))))


def bottleneck() -> onnx.ModelProto:
    """A stem and 1x1 (conv2), 3x3 (conv3), 1x1 (conv4) beside a shortcut."""
    net = Net()
    stem = net.block("x", 8)
    inner = net.norm(net.conv(net.block(net.block(stem, 4, 1), 4, 3), 8, 1))
    return net.model(net.tail(net.relu(net.node("Add", inner, stem))))


def depthwise() -> onnx.ModelProto:
    """An inverted bottleneck with Clip: expand (conv2), depthwise (conv3), project (conv4)."""
    net = Net()
    x = net.clip(net.norm(net.conv("x", 4)))
    x = net.clip(net.norm(net.conv(x, 8, 1)))
    x = net.clip(net.norm(net.conv(x, 8, 3, group=8)))
    x = net.norm(net.conv(x, 4, 1))
    return net.model(net.tail(x))


def bounded() -> onnx.ModelProto:
    """A plain chain with Clip between the low Conv and the next."""
    net = Net()
    x = net.clip(net.norm(net.conv(net.block("x", 8), 8)))
    return net.model(net.tail(net.block(x, 8)))


def without_activation() -> onnx.ModelProto:
    """conv2-BN-conv3 with nothing between."""
    net = Net()
    x = net.norm(net.conv(net.block("x", 8), 8))
    return net.model(net.tail(net.block(x, 8)))


def own_bias() -> onnx.ModelProto:
    """A plain chain whose Convs have biases of their own in front of BatchNormalization."""
    net = Net()
    x = net.block(net.block("x", 8, bias=True), 8, bias=True)
    return net.model(net.tail(net.block(x, 8, bias=True)))


def dense() -> onnx.ModelProto:
    """A stem and two layers of DenseNet-BC: norm3 and norm5 read conv3 from channel 8 on, norm5 conv5 from 12 on."""
    net = Net()
    x = net.dense(net.dense(net.conv("x", 8)))
    return net.model(net.tail(net.relu(net.norm(x))))


def activation_first() -> onnx.ModelProto:
    """conv2-Relu-BN: the BatchNormalization does not follow the Conv."""
    net = Net()
    x = net.norm(net.relu(net.conv(net.block("x", 8), 8)))
    return net.model(net.tail(net.block(x, 8)))


def negative_gamma() -> onnx.ModelProto:
    return chain(gamma=np.array([-1.0, 1.0, -0.5, 0.7, 1.2, -1.3, 0.4, 0.9]))


def dead_channel() -> onnx.ModelProto:
    """Channel 3 of conv2 is constant: weights 0, variance nearly 0; channel 5 has gamma 0."""
    net = Net()
    x = net.block("x", 8)
    weight = np.random.default_rng(1).standard_normal((8, 8, 3, 3)) / np.sqrt(72)
    weight[3] = 0
    mean, variance, gamma = np.full(8, 0.1), np.full(8, 0.9), np.full(8, 1.1)
    mean[3], variance[3], gamma[5] = 0, 1e-12, 0
    x = net.relu(net.norm(net.conv(x, 8, weight=weight), mean=mean, variance=variance, gamma=gamma))
    return net.model(net.tail(net.block(x, 8)))


def folded() -> onnx.ModelProto:
    """No BatchNormalization: it was folded when the model was exported."""
    net = Net()
    x = net.relu(net.conv("x", 8, bias=True))
    x = net.relu(net.conv(net.relu(net.conv(x, 8, bias=True)), 8, bias=True))
    return net.model(net.tail(x))


def gemm_tail(trans_b: int) -> onnx.ModelProto:
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.block("x", 8)))
    return net.model(net.gemm(net.relu(net.gemm(x, 6, trans_b)), 5, trans_b))


def matmul_tail() -> onnx.ModelProto:
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.block("x", 8)))
    return net.model(net.node("Add", net.matmul(x, 5), net.weight("b", np.linspace(-1, 1, 5).astype(np.float32))))


def old(listed: bool = True) -> onnx.ModelProto:
    """Opset 9; Clip with attributes, Dropout with a ratio. IR version 3 lists initializers as inputs, 4 need not."""
    net = Net(opset=9, ir_version=3 if listed else 4)
    x = net.node("Clip", net.norm(net.conv("x", 8)), min=0.0, max=6.0)
    x = net.node("Dropout", net.block(x, 8), ratio=0.5)
    x = net.block(x, 8)
    return net.model(net.tail(x), listed=listed)


def mean_tail(keepdims: int, opset: int = 13) -> onnx.ModelProto:
    """ReduceMean over height and width in place of GlobalAveragePool; its axes are an input from opset 18 on."""
    net = Net(opset=opset)
    x = net.block("x", 8)
    if opset < 18:
        x = net.node("ReduceMean", x, axes=[2, 3], keepdims=keepdims)
    else:
        x = net.node("ReduceMean", x, net.weight("axes", np.array([-1, -2])), keepdims=keepdims)
    return net.model(net.gemm(net.node("Flatten", x) if keepdims else x, 5))


def nested() -> onnx.ModelProto:
    """A chain, and further Convs in both branches of an If and in a function of the model's own."""
    model = chain()
    text = """<ir_version: 8, opset_import: ["": 13, "mine": 1]>
        outer (float[1, 3, 8, 8] x, float[1, 5] gemm1, bool c) => (float[1, 8, 8, 8] y)
        {
            z = If (c) <
                then_branch = then () => (float[1, 8, 8, 8] p) { p = Conv <pads = [1, 1, 1, 1]> (relu1, conv2.w) },
                else_branch = else () => (float[1, 8, 8, 8] q)
                {
                    k = Constant <value = float[8, 8, 1, 1] KERNEL> ()
                    q = Conv (relu1, k)
                }
            >
            y = mine.filter (z, conv2.w)
        }
        <domain: "mine", opset_import: ["": 13]>
        filter (x, w) => (y) { z = Conv <pads = [1, 1, 1, 1]> (x, w)  y = Relu (z) }"""
    # The parser takes letters, digits and underscores only.
    kernel = ", ".join(str(i % 7) for i in range(64))
    text = text.replace("KERNEL", f"{{{kernel}}}").replace("conv2.w", "conv2_w")
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("conv2.w", "conv2_w")
    for node in model.graph.node:
        node.input[:] = [name.replace("conv2.w", "conv2_w") for name in node.input]
    more = onnx.parser.parse_model(text)
    more.graph.node[0].name = "choice"
    model.graph.node.extend(more.graph.node)
    model.graph.input.append(more.graph.input[2])
    model.graph.output.extend(more.graph.output)
    model.functions.extend(more.functions)
    model.opset_import.extend(more.opset_import[1:])
    return model


ALL = {
    "chain": chain,
    "residual": residual,
    "bottleneck": bottleneck,
    "depthwise": depthwise,
    "bounded": bounded,
    "without_activation": without_activation,
    "own_bias": own_bias,
    "dense": dense,
    "activation_first": activation_first,
    "negative_gamma": negative_gamma,
    "dead_channel": dead_channel,
    "folded": folded,
    "gemm_tail": lambda: gemm_tail(1),
    "gemm_tail_plain": lambda: gemm_tail(0),
    "matmul_tail": matmul_tail,
    "old": old,
    "mean_tail": lambda: mean_tail(0),
}


def feeding(**inputs: tuple[int, Sequence[int | str | None] | None]) -> onnx.ModelProto:
    """A chain whose inputs are stated with other types and shapes."""
    model = chain()
    del model.graph.input[:]
    for name, (dtype, shape) in inputs.items():
        model.graph.input.append(helper.make_tensor_value_info(name, dtype, shape))
    return model


# Working on them


def workspace(
    model: onnx.ModelProto,
    weights: str = "2/6",
    activations: str = "8",
    layers: Sequence[str] = (),
    images: str | None = None,
) -> Workspace:
    overrides = tuple(LayerOverride.parse(item) for item in layers)
    settings = Settings(WeightBits.parse(weights), parse_activations(activations), overrides, images=images)
    return Workspace(to_graph(load(model)), settings)


def pipeline(upto: str = "", recipe: str = "per-channel", **options: dict[str, object]) -> list[Pass]:
    """The passes of a recipe up to and with the one named; options by pass name replace the recipe's."""
    found = catalog.find_recipe(recipe)
    names = [step.use for step in found.steps]
    kept = found.steps[: names.index(upto) + 1] if upto in names else found.steps
    steps = [msgspec.structs.replace(s, options={**s.options, **options.get(s.use, {})}) for s in kept]
    return catalog.build(msgspec.structs.replace(found, steps=tuple(steps)))


def prepared(
    model: onnx.ModelProto, upto: str, weights: str = "2/6", activations: str = "8", layers: Sequence[str] = ()
) -> tuple[Workspace, PassResult]:
    """The workspace after the per-channel recipe up to a pass, and that pass's result."""
    space = workspace(model, weights, activations, layers)
    return space, PassManager(pipeline(upto)).run(space)[-1]


def wiring(graph: gs.Graph) -> list[str]:
    """Each node as ``out = Op(in, ...)``."""
    return [
        f"{', '.join(t.name for t in n.outputs)} = {n.op}({', '.join(t.name for t in n.inputs)})" for n in graph.nodes
    ]


def ops(graph: gs.Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def snapshot(graph: gs.Graph) -> bytes:
    """Everything that a graph holds, weights included, to compare before with after."""
    return to_model(graph).SerializeToString(deterministic=True)


def values(graph: gs.Graph, name: str) -> np.ndarray:
    """An initializer."""
    found = constant(graph.tensors()[name])
    assert found is not None, f"{name} is computed"
    return np.asarray(found)


def reasons(result: PassResult) -> dict[str, str]:
    return {refusal.site: refusal.reason for refusal in result.refusals}


def input_of(model: onnx.ModelProto, batch: int = 1, seed: int = 5) -> np.ndarray:
    shape = [d.dim_value or batch for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(model: onnx.ModelProto | gs.Graph, x: np.ndarray | None = None) -> list[np.ndarray]:
    """All outputs in onnxruntime, without its graph optimizations."""
    proto = to_model(model) if isinstance(model, gs.Graph) else model
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: input_of(proto) if x is None else x} if session.get_inputs() else {}
    return session.run(None, feeds)


def optimized(model: onnx.ModelProto | gs.Graph) -> onnx.ModelProto:
    """The model as onnxruntime rewrites it for its CPU provider before it runs."""
    proto = to_model(model) if isinstance(model, gs.Graph) else model
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def kernels(model: onnx.ModelProto | gs.Graph) -> Counter[str]:
    """How many nodes of each operator onnxruntime runs."""
    return Counter(node.op_type for node in optimized(model).graph.node)


def relative(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> float:
    """Largest error over the largest value; that of zeros is 0 where all are."""
    pairs = [(float(np.abs(a - b).max()), float(np.abs(b).max())) for a, b in zip(got, want, strict=True)]
    return max(error / largest if largest else (np.inf if error else 0.0) for error, largest in pairs)
