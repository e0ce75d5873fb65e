"""Weights as training leaves them: dead and near-dead filters, outlying and doubled channels, heavy tails, odd scales.

Normalizations get the mean and variance of what they read, worked out in one run of the network with each of them
replaced by its definition in training.
"""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

DEAD = (0.0, 0.0, 0.0, 1e-30, 1.2e-6, 1e-4)  # what is left of a filter's weights
REACH = (4.0, 10.0, 30.0)  # of an outlying channel, beside the others


@dataclasses.dataclass(frozen=True)
class Traits:
    """What training left in a network. dead, outlying, doubled: shares of its channels; heavy: whether tails are.

    scaled: whether channels have scales of many sizes that the normalization behind them takes back; off: a factor
    between the variance that normalizations state and that of what they read.
    """

    dead: float
    outlying: float
    doubled: float
    heavy: bool
    scaled: bool
    off: float
    epsilon: float

    @classmethod
    def drawn(cls, rng: random.Random) -> Traits:
        return cls(
            rng.choice([0.0, 0.0, 0.1, 0.4]),
            rng.choice([0.0, 0.0, 0.1]),
            rng.choice([0.0, 0.0, 0.2]),
            rng.random() < 0.2,
            rng.random() < 0.2,
            rng.choice([1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 0.1]),
            rng.choice([1e-5, 1e-5, 1e-5, 1e-3, 1e-12]),
        )

    @property
    def ordinary(self) -> bool:
        """Whether 8 bits must be near the float network."""
        return self.off == 1.0

    def weight(self, values: np.random.Generator, shape: tuple[int, ...], fan: int) -> np.ndarray:
        """``[out, ...]`` float32 of deviation sqrt(2 / fan)."""
        drawn = values.standard_t(3, shape) / np.sqrt(3) if self.heavy else values.standard_normal(shape)
        weight = drawn * np.sqrt(2 / max(fan, 1))
        rows = shape[0]
        for row in np.flatnonzero(values.random(rows) < self.doubled):
            weight[row] = weight[values.integers(rows)] * values.choice([1.0, 1.0, -1.0, 1.02])
        weight[values.random(rows) < self.outlying] *= values.choice(REACH)
        if rows > 2:
            weight[values.random(rows) < self.dead] *= values.choice(DEAD)
        return np.asarray(weight, np.float32)

    def norm(self, values: np.random.Generator, size: int) -> list[np.ndarray]:
        """gamma, beta, mean and variance, ``[size]`` float32 each; the last two until `measured` is known."""
        gamma = values.uniform(0.3, 1.5, size) * values.choice([1, 1, 1, 1, 1, -1], size)
        gamma[values.random(size) < self.dead / 2] *= values.choice([0.0, 1e-8, 1e-3])
        return [np.asarray(a, np.float32) for a in (gamma, values.normal(0, 0.4, size), np.zeros(size), np.ones(size))]


Measured = dict[str, tuple[np.ndarray, np.ndarray]]


def measured(model: onnx.ModelProto) -> Measured:
    """Mean and variance of what each BatchNormalization reads on normal inputs, by the name of its mean.

    Empty where the network cannot be run. Nobody is left to ask why: the case then tries what normalizations of mean 0
    and variance 1 make of it.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.node[:], probe.graph.output[:]
    read: list[tuple[str, str, str]] = []
    for index, node in enumerate(model.graph.node):
        if node.op_type == "BatchNormalization":
            names = (f"measured{index}_mean", f"measured{index}_variance")
            probe.graph.node.extend(_in_training(model, node, *names))
            read.append((node.input[3], *names))
        else:
            probe.graph.node.append(node)
    if not read:
        return {}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for _, *names in read for name in names)
    try:
        found = run(probe)
    except Exception:  # onnxruntime's exceptions have no common public base
        return {}
    results: Measured = {}
    for number, (name, *_) in enumerate(read):
        mean, variance = (value.reshape(-1) for value in found[2 * number : 2 * number + 2])
        if name not in results and np.isfinite(mean).all() and np.isfinite(variance).all():
            results[name] = (mean, variance)
    return results


def _in_training(model: onnx.ModelProto, node: onnx.NodeProto, mean: str, variance: str) -> list[onnx.NodeProto]:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, with the mean and variance of x itself."""
    x, gamma, beta, *_ = node.input
    stem, size = mean.removesuffix("_mean"), next(len_of(t) for t in model.graph.initializer if t.name == gamma)
    rank = _rank(model, node)
    axes, column = [0, *range(2, rank)], [1, size] + [1] * (rank - 2)
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    opset = model.opset_import[0].version
    made = [helper.make_node("Constant", [], [f"{stem}_column"], value=numpy_helper.from_array(np.array(column)))]
    made.append(helper.make_node("Constant", [], [f"{stem}_axes"], value=numpy_helper.from_array(np.array(axes))))
    small = numpy_helper.from_array(np.array(max(epsilon, 1e-12), np.float32))
    made.append(helper.make_node("Constant", [], [f"{stem}_epsilon"], value=small))

    def average(source: str, target: str) -> onnx.NodeProto:
        if opset < 18:
            return helper.make_node("ReduceMean", [source], [target], axes=axes, keepdims=1)
        return helper.make_node("ReduceMean", [source, f"{stem}_axes"], [target], keepdims=1)

    made.append(average(x, mean))
    made.append(helper.make_node("Sub", [x, mean], [f"{stem}_centred"]))
    made.append(helper.make_node("Mul", [f"{stem}_centred", f"{stem}_centred"], [f"{stem}_square"]))
    made.append(average(f"{stem}_square", variance))
    made.append(helper.make_node("Add", [variance, f"{stem}_epsilon"], [f"{stem}_more"]))
    made.append(helper.make_node("Sqrt", [f"{stem}_more"], [f"{stem}_root"]))
    made.append(helper.make_node("Div", [f"{stem}_centred", f"{stem}_root"], [f"{stem}_unit"]))
    made.append(helper.make_node("Reshape", [gamma, f"{stem}_column"], [f"{stem}_gamma"]))
    made.append(helper.make_node("Reshape", [beta, f"{stem}_column"], [f"{stem}_beta"]))
    made.append(helper.make_node("Mul", [f"{stem}_unit", f"{stem}_gamma"], [f"{stem}_wide"]))
    made.append(helper.make_node("Add", [f"{stem}_wide", f"{stem}_beta"], [node.output[0]]))
    return made


def len_of(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims))


def _rank(model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    """Of what a normalization reads, which its builder wrote into the node's doc string."""
    return int(node.doc_string or 4)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    """All outputs on one normal input."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values, feeds = np.random.default_rng(0), {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            feeds[value.name] = values.standard_normal(shape).astype(np.float32)
        else:
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            feeds[value.name] = values.integers(0, 256 if kind == np.uint8 else 2, shape).astype(kind)
    results: list[np.ndarray] = session.run(None, feeds)
    return results
