"""What an architecture is built with: tensors whose shapes are known, and operators in the form of any opset."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools.fuzz.training import Measured, Traits

OPSETS = (9, 10, 11, 11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 19, 20, 21)
Shape = tuple[int, ...]


class Builder:
    """A graph that grows; `shapes` has the shape of every tensor, batch first.

    The same generator makes the same graph for any batch: every random choice is drawn from it, none depends on the
    batch.
    """

    def __init__(self, rng: random.Random, batch: int, opset: int) -> None:
        self.rng, self.batch, self.opset = rng, batch, opset
        self.values = np.random.default_rng(rng.randrange(2**32))
        self.traits = Traits.drawn(rng)
        self.biased = rng.random() < 0.2  # layers in front of a normalization have a bias, too
        self.activation = rng.choice(
            ["Relu", "Relu", "Relu", "Clip", "SiLU", "HardSwish", "LeakyRelu", "Gelu", "PRelu"]
        )
        self.chained = rng.random() < 0.3  # sizes are computed by Shape, Gather and Concat
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[str] = []
        self.varying: list[int] = []  # outputs whose size depends on values
        self.shapes: dict[str, Shape] = {}
        self.foldable: list[tuple[str, str]] = []  # output of a Conv, weight of it
        self.shared: dict[str, list[str]] = {}
        self.count = 0

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def input(self, shape: Shape, kind: int = TensorProto.FLOAT) -> str:
        """An input behind a batch axis."""
        name = "input" if not self.inputs else f"input{len(self.inputs)}"
        self.shapes[name] = (self.batch, *shape)
        self.inputs.append(helper.make_tensor_value_info(name, kind, self.shapes[name]))
        return name

    def output(self, x: str, varying: bool = False) -> None:
        if x in self.outputs:
            return
        if varying:
            self.varying.append(len(self.outputs))
        self.outputs.append(x)

    def node(self, op: str, inputs: Sequence[str], shape: Shape, outputs: int = 1, **attrs: object) -> str:
        names = [self.name(op) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"/{names[0]}", **attrs))
        self.shapes[names[0]] = shape
        return names[0]

    def more(self, index: int, shape: Shape) -> str:
        """Another output of the last node."""
        name = str(self.nodes[-1].output[index])
        self.shapes[name] = shape
        return name

    def constant(self, values: object, dtype: type = np.int64) -> str:
        name = self.name("constant")
        array = np.asarray(values, dtype)
        if self.chance(0.3):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        else:
            self.weights[name] = array
        self.shapes[name] = array.shape
        return name

    def held(self, values: np.ndarray, stem: str = "weight") -> str:
        """A weight, as it is."""
        name = self.name(stem)
        self.weights[name] = np.asarray(values, np.float32)
        self.shapes[name] = values.shape
        return name

    def weight(self, shape: Shape, fan: int, transposed: bool = False) -> str:
        """A weight as training leaves it. transposed: output channels are its last axis."""
        if transposed:
            made = self.traits.weight(self.values, shape[::-1], fan)
            return self.held(np.ascontiguousarray(made.T))
        return self.held(self.traits.weight(self.values, shape, fan))

    # Layers

    def conv(
        self,
        x: str,
        out: int,
        kernel: int | tuple[int, ...] = 3,
        stride: int = 1,
        group: int = 1,
        *,
        dilation: int = 1,
        norm: bool = True,
        act: str | None = "",
        key: str = "",
    ) -> str:
        """Conv over one or two dimensions, padded to its input's size over the stride, normalized and activated.

        act: "" for that of the network, None for none. key: layers of one key share their parameters.
        """
        batch, channels, *sides = self.shapes[x]
        kernels = (kernel,) * len(sides) if isinstance(kernel, int) else kernel
        pads = [(k - 1) * dilation // 2 for k in kernels]
        sizes = [
            (n + 2 * p - (k - 1) * dilation - 1) // stride + 1 for n, p, k in zip(sides, pads, kernels, strict=True)
        ]
        if key not in self.shared:
            fan = channels // group * math.prod(kernels)
            names = [self.weight((out, channels // group, *kernels), fan)]
            if not norm or self.biased:
                names.append(self.held(self.values.normal(0, 0.2, out), "bias"))
            if key:
                self.shared[key] = names
        else:
            names = self.shared[key]
        attrs = {"kernel_shape": kernels, "strides": [stride] * len(sides), "pads": pads + pads, "group": group}
        attrs["dilations"] = [dilation] * len(sides)
        y = self.node("Conv", [x, *names], (batch, out, *sizes), **attrs)
        if norm:
            self.foldable.append((y, names[0]))
            y = self.norm(y, f"{key}/norm" if key else "")
        return y if act is None else self.act(y, act)

    def norm(self, x: str, key: str = "") -> str:
        shape = self.shapes[x]
        if key not in self.shared:
            parts = self.traits.norm(self.values, shape[1])
            names = [self.held(a, s) for a, s in zip(parts, ("gamma", "beta", "mean", "variance"), strict=True)]
            if key:
                self.shared[key] = names
        else:
            names = self.shared[key]
        y = self.node("BatchNormalization", [x, *names], shape, epsilon=self.traits.epsilon)
        self.nodes[-1].doc_string = str(len(shape))
        return y

    def up(self, x: str, out: int) -> str:
        """Twice the size, by ConvTranspose or a Resize and a Conv."""
        batch, channels, *sides = self.shapes[x]
        if self.chance(0.5):
            return self.conv(self.resize(x), out)
        kernels = [2] * len(sides)
        weight = self.held(
            np.moveaxis(self.traits.weight(self.values, (out, channels, *kernels), channels), 0, 1).copy()
        )
        bias = self.held(self.values.normal(0, 0.2, out), "bias")
        double = tuple(2 * n for n in sides)
        return self.node(
            "ConvTranspose", [x, weight, bias], (batch, out, *double), strides=kernels, kernel_shape=kernels
        )

    def linear(self, x: str, out: int, key: str = "") -> str:
        """Gemm on rows, MatMul and Add on what has more axes."""
        shape = self.shapes[x]
        size = shape[-1]
        gemm = len(shape) == 2 and self.chance(0.7)
        if key not in self.shared:
            weight = self.weight((out, size), size) if gemm else self.weight((size, out), size, transposed=True)
            self.shared[key] = [weight, self.held(self.values.normal(0, 0.2, out), "bias")]
        weight, bias = self.shared[key]
        gemm = self.shapes[weight] == (out, size) and (gemm or out != size) if key else gemm
        if not key:
            del self.shared[key]
        if gemm:
            return self.node("Gemm", [x, weight, bias], (*shape[:-1], out), transB=1)
        y = self.node("MatMul", [x, weight], (*shape[:-1], out))
        return self.node("Add", [y, bias] if self.chance(0.5) else [bias, y], (*shape[:-1], out))

    def layer_norm(self, x: str) -> str:
        """Over the last axis: as one operator where there is one, or by its definition."""
        shape = self.shapes[x]
        size = shape[-1]
        gamma = self.held(self.values.uniform(0.5, 1.5, size), "gamma")
        beta = self.held(self.values.normal(0, 0.2, size), "beta")
        if self.opset >= 17 and self.chance(0.6):
            return self.node("LayerNormalization", [x, gamma, beta], shape, axis=-1, epsilon=1e-6)
        mean = self.mean(x, [-1])
        centred = self.node("Sub", [x, mean], shape)
        square = self.node("Pow", [centred, self.constant(2.0, np.float32)], shape)
        small = self.constant(1e-6, np.float32)
        root = self.node("Sqrt", [self.node("Add", [self.mean(square, [-1]), small], ())], ())
        unit = self.node("Div", [centred, root], shape)
        return self.node("Add", [self.node("Mul", [unit, gamma], shape), beta], shape)

    # Elementwise

    def act(self, x: str, kind: str = "") -> str:
        shape, kind = self.shapes[x], kind or self.activation
        if kind == "SiLU":
            return self.mul(x, self.node("Sigmoid", [x], shape))
        if kind == "HardSwish":
            if self.opset >= 14 and self.chance(0.5):
                return self.node("HardSwish", [x], shape)
            if self.chance(0.5):
                return self.mul(x, self.node("HardSigmoid", [x], shape, alpha=1 / 6, beta=0.5))
            more = self.node("Add", [x, self.constant(3.0, np.float32)], shape)
            return self.node("Div", [self.mul(x, self.clip(more)), self.constant(6.0, np.float32)], shape)
        if kind == "Gelu":
            if self.opset >= 20 and self.chance(0.5):
                return self.node("Gelu", [x], shape)
            erf = self.node("Erf", [self.node("Div", [x, self.constant(2**0.5, np.float32)], shape)], shape)
            more = self.node("Add", [erf, self.constant(1.0, np.float32)], shape)
            return self.node("Mul", [self.mul(x, more), self.constant(0.5, np.float32)], shape)
        if kind == "Clip":
            return self.clip(x)
        if kind == "PRelu":
            slope = self.held(self.values.uniform(0, 0.4, (shape[1], *(1,) * (len(shape) - 2))), "slope")
            return self.node("PRelu", [x, slope], shape)
        return self.node(kind, [x], shape)

    def clip(self, x: str) -> str:
        if self.opset < 11:
            return self.node("Clip", [x], self.shapes[x], min=0.0, max=6.0)
        return self.node("Clip", [x, self.constant(0, np.float32), self.constant(6, np.float32)], self.shapes[x])

    def add(self, x: str, y: str) -> str:
        return self.node("Add", [x, y], self.shapes[x])

    def mul(self, x: str, y: str) -> str:
        return self.node("Mul", [x, y], self.shapes[x])

    def softmax(self, x: str) -> str:
        """Over the last axis, which every opset takes alike."""
        shape = self.shapes[x]
        return self.node("Softmax", [x], shape, axis=len(shape) - 1 if self.opset < 11 else -1)

    # What carries values elsewhere

    def mean(self, x: str, axes: list[int], keep: bool = True, op: str = "ReduceMean") -> str:
        shape = self.shapes[x]
        rank = len(shape)
        gone = {axis % rank for axis in axes}
        axes = sorted(gone) if self.opset < 11 else axes
        result = tuple(1 if i in gone else n for i, n in enumerate(shape) if keep or i not in gone)
        if self.opset < (13 if op == "ReduceSum" else 18):
            return self.node(op, [x], result, axes=axes, keepdims=int(keep))
        return self.node(op, [x, self.constant(axes)], result, keepdims=int(keep))

    def pooled(self, x: str) -> str:
        """``[n, c, 1, ...]``"""
        shape = self.shapes[x]
        axes = list(range(2, len(shape)))
        if self.chance(0.5):
            return self.node("GlobalAveragePool", [x], (*shape[:2], *(1,) * len(axes)))
        return self.mean(x, axes)

    def pool(self, x: str, op: str = "MaxPool") -> str:
        shape = self.shapes[x]
        ones = [1] * (len(shape) - 2)
        sides = tuple((n - 2) // 2 + 1 for n in shape[2:])
        return self.node(
            op, [x], (*shape[:2], *sides), kernel_shape=[2 * i for i in ones], strides=[2 * i for i in ones]
        )

    def reshape(self, x: str, dims: Sequence[int]) -> str:
        """To dims behind the batch, at most one of them -1; the batch is stated, copied or computed."""
        shape = self.shapes[x]
        rest = math.prod(shape[1:])
        known = math.prod(d for d in dims if d > 0)
        result = (shape[0], *(d if d > 0 else rest // known for d in dims))
        if self.chained and self.chance(0.5):
            size = self.node("Gather", [self.node("Shape", [x], (len(shape),)), self.constant(0)], (), axis=0)
            parts = [self.unsqueeze(size, 0), self.constant(dims)]
            return self.node("Reshape", [x, self.node("Concat", parts, (len(result),), axis=0)], result)
        return self.node("Reshape", [x, self.constant([0, *dims])], result)

    def flatten(self, x: str) -> str:
        shape = self.shapes[x]
        if self.chance(0.5):
            return self.node("Flatten", [x], (shape[0], math.prod(shape[1:])), axis=1)
        return self.reshape(x, [math.prod(shape[1:])] if self.chance(0.5) else [-1])

    def transpose(self, x: str, perm: Sequence[int]) -> str:
        return self.node("Transpose", [x], tuple(self.shapes[x][p] for p in perm), perm=list(perm))

    def concat(self, parts: Sequence[str], axis: int = 1) -> str:
        shape = list(self.shapes[parts[0]])
        shape[axis] = sum(self.shapes[p][axis] for p in parts)
        return self.node("Concat", parts, tuple(shape), axis=axis)

    def split(self, x: str, sizes: Sequence[int], axis: int = 1) -> list[str]:
        shape = self.shapes[x]
        shapes = [(*shape[:axis], n, *shape[axis + 1 :]) for n in sizes]
        if self.opset < 13:
            self.node("Split", [x], shapes[0], outputs=len(sizes), axis=axis, split=list(sizes))
        else:
            self.node("Split", [x, self.constant(list(sizes))], shapes[0], outputs=len(sizes), axis=axis)
        split = self.nodes[-1]
        return [self._known(str(name), found) for name, found in zip(split.output, shapes, strict=True)]

    def slice(self, x: str, begin: int, end: int, axis: int) -> str:
        shape = self.shapes[x]
        result = (*shape[:axis], len(range(*slice(begin, end).indices(shape[axis]))), *shape[axis + 1 :])
        if self.opset < 10:
            return self.node("Slice", [x], result, starts=[begin], ends=[end], axes=[axis])
        return self.node("Slice", [x, *(self.constant([v]) for v in (begin, end, axis))], result)

    def squeeze(self, x: str, axis: int) -> str:
        shape = self.shapes[x]
        result = shape[:axis] + shape[axis + 1 :]
        if self.opset < 13:
            return self.node("Squeeze", [x], result, axes=[axis])
        return self.node("Squeeze", [x, self.constant([axis])], result)

    def unsqueeze(self, x: str, axis: int) -> str:
        shape = self.shapes[x]
        result = (*shape[:axis], 1, *shape[axis:])
        if self.opset < 13:
            return self.node("Unsqueeze", [x], result, axes=[axis])
        return self.node("Unsqueeze", [x, self.constant([axis])], result)

    def resize(self, x: str, like: str = "") -> str:
        """Twice the size, or to the size of another map, which the graph computes where its opset can."""
        shape = self.shapes[x]
        sides = self.shapes[like][2:] if like else tuple(2 * n for n in shape[2:])
        factors = [1.0, 1.0, *(a / b for a, b in zip(sides, shape[2:], strict=True))]
        mode = self.rng.choice(["nearest", "nearest", "linear", "cubic"]) if len(shape) == 4 else "nearest"
        result = (*shape[:2], *sides)
        if self.opset < 11:
            op = "Upsample" if self.opset < 10 else "Resize"
            mode = "nearest" if mode == "cubic" else mode
            return self.node(op, [x, self.constant(factors, np.float32)], result, mode=mode)
        empty = self.held(np.zeros(0, np.float32), "roi") if self.opset < 13 or self.chance(0.3) else ""
        attrs = {"mode": mode, "coordinate_transformation_mode": self.rng.choice(["asymmetric", "half_pixel"])}
        if not like:
            return self.node("Resize", [x, empty, self.constant(factors, np.float32)], result, **attrs)
        batch = self.slice(self.node("Shape", [x], (4,)), 0, 2, 0)
        rest = self.slice(self.node("Shape", [like], (4,)), 2, len(shape), 0)
        sizes = self.node("Concat", [batch, rest], (len(shape),), axis=0)
        scales = empty if empty and self.opset < 13 else ""
        return self.node("Resize", [x, empty, scales, sizes], result, **attrs)

    def _known(self, name: str, shape: Shape) -> str:
        self.shapes[name] = shape
        return name

    # The whole

    def model(self, found: Measured) -> onnx.ModelProto:
        """The graph with normalizations of these means and variances."""
        for node in self.nodes:
            if node.op_type == "BatchNormalization" and node.input[3] in found:
                mean, variance = found[node.input[3]]
                self.weights[node.input[3]] = mean.astype(np.float32)
                self.weights[node.input[4]] = (variance * self.traits.off).astype(np.float32)
        tensors = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "main_graph", self.inputs, outputs, tensors)
        ids = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=ids, ir_version=max(helper.find_min_ir_version_for(ids), 4))
