"""Small random networks of supported and unsupported operators, as exporters and their bugs could write them.

Every choice is drawn from the generator that is handed in, so a number makes the same network again, and hypothesis,
which hands in generators of its own, can shrink what it found.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPSETS = (9, 10, 11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 19, 20, 21, 21, 22, 23, 25)
WIDEST = 1500  # of what a matrix reads: the second moments of its inputs take the square of that
MOVES = (
    *("Resize", "Transpose", "nhwc", "Reshape", "Flatten", "Flatten", "Pad", "Slice", "Split", "Dropout", "Identity"),
    *("Identity", "Squeeze", "Cast", "Shape", "DepthToSpace", "LRN", "Tile", "If"),
)
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Network:
    """A model; whether its weights are such as training leaves, so that 8 bits must be near the float network."""

    model: onnx.ModelProto
    ordinary: bool
    input_shapes: tuple[str, ...] = ()


def network(rng: random.Random, *, spoiled: bool = True) -> Network:
    """A network of 1 to 12 blocks. spoiled: whether weights and wiring may be absurd in about every second one."""
    found = _Builder(rng, spoiled and rng.random() < 0.5).build()
    return dataclasses.replace(found, ordinary=_settle(found)) if found.ordinary else found


def _settle(found: Network) -> bool:
    """Give every BatchNormalization the mean and variance of what it reads, as training does; whether that could be."""
    model = found.model
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        del probe.graph.output[:]
        probe.graph.output.append(onnx.ValueInfoProto(name=node.input[0]))
        try:
            x = _ran(probe, found.input_shapes)
        except Exception:  # onnxruntime's exceptions have no common public base; the network cannot run
            return False
        rows = np.moveaxis(x, 2, 0).reshape(x.shape[2], -1).astype(np.float64)  # behind the runs and the batch
        if not np.isfinite(rows).all() or rows.var(axis=1).min() < 1e-3:
            return False
        for index, values in ((3, rows.mean(axis=1)), (4, rows.var(axis=1))):
            held[node.input[index]].CopyFrom(numpy_helper.from_array(values.astype(np.float32), node.input[index]))
    return True


def _ran(model: onnx.ModelProto, input_shapes: Sequence[str]) -> np.ndarray:
    """The output of a model of one output on eight normal inputs, ``[runs, n, channels, ...]``."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    generator, shapes = np.random.default_rng(0), dict(item.rpartition(":")[::2] for item in input_shapes)
    runs = []
    for _ in range(8):
        feeds = {}
        for value in session.get_inputs():
            stated = [d if isinstance(d, int) and d > 0 else 1 for d in value.shape]
            shape = [int(d) for d in shapes[value.name].split("x")] if value.name in shapes else stated
            feeds[value.name] = generator.standard_normal(shape).astype(np.float32)
        runs.append(session.run(None, feeds)[0])
    return np.stack(runs)


class _Builder:
    """Grows a graph block by block; `live` holds the tensors that may be read, each with its shape, batch first."""

    def __init__(self, rng: random.Random, spoiled: bool) -> None:
        self.rng, self.spoiled = rng, spoiled
        self.values = np.random.default_rng(rng.randrange(2**32))
        self.opset = rng.choice(OPSETS)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.live: list[tuple[str, Shape]] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.domains: set[str] = set()
        self.ordinary, self.count = True, 0
        self.given: list[str] = []
        # Where all tensors keep their first dimension the batch may be left open.
        self.keeps_batch = True

    # What a network is made of

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def add(self, op: str, inputs: list[str], shape: Shape, outputs: int = 1, domain: str = "", **attrs: object) -> str:
        names = [self.name(op.lower()) for _ in range(outputs)]
        label = "" if self.chance(0.05) else names[0]
        self.nodes.append(helper.make_node(op, inputs, names, name=label, domain=domain, **attrs))
        self.live.append((names[0], shape))
        if domain:
            self.domains.add(domain)
        return names[0]

    def number(self, values: np.ndarray, stem: str = "k") -> str:
        """A constant that is no weight: shapes, limits, scales."""
        name = self.name(stem)
        if self.chance(0.2):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values)))
        else:
            self.weights[name] = values
        return name

    def weight(self, shape: Shape, fan: int) -> str:
        """A constant of float32, perhaps absurd, behind whatever exporters put in front of one."""
        values = (self.values.standard_normal(shape) / np.sqrt(max(fan, 1))).astype(np.float32)
        if self.spoiled and self.chance(0.1):
            values = self.absurd(values)
        same = [n for n, v in self.weights.items() if v.shape == values.shape and v.dtype == np.float32]
        if same and self.chance(0.1):
            return self.rng.choice(same)
        name, form = self.name("w"), self.rng.random()
        if form < 0.80:
            self.weights[name] = values
        elif form < 0.88:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values)))
        elif form < 0.94:
            self.weights[f"{name}_source"] = values
            self.nodes.append(helper.make_node("Identity", [f"{name}_source"], [name]))
        else:
            with np.errstate(over="ignore"):
                self.weights[f"{name}_half"] = values.astype(np.float16)
            self.nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
        return name

    def absurd(self, values: np.ndarray) -> np.ndarray:
        self.ordinary = False
        kind, flat = self.rng.randrange(14), values.reshape(-1)
        some = self.values.random(flat.size) < 0.2
        with np.errstate(all="ignore"):
            if kind < 8:
                factors = (0.0, 1e-45, 1e-38, 1e-20, 1e9, 1e18, 1e30, 1e38)
                return (values * np.float32(factors[kind])).astype(np.float32)
            if kind == 8 and values.ndim and values.shape[0]:
                values = values.copy()
                values[0] = 0
                return values
            if kind == 9:
                return np.full_like(values, self.rng.choice([0.0, 1.0, -1.0, 3.4e38]))
            if kind == 10:
                flat[some] = self.rng.choice([np.nan, np.inf, -np.inf])
            elif kind == 11:
                flat[some] *= np.float32(1e6)
            elif kind == 12:
                flat[:] = np.float32(-0.0)
            elif values.ndim:
                cut = list(values.shape)
                cut[self.rng.randrange(len(cut))] = 0
                return np.zeros(cut, np.float32)
        return values

    def input(self, rank: int) -> None:
        side = [self.rng.choice([1, 2, 4, 5, 6, 7, 8, 9]) for _ in range(rank - 2)]
        shape = (self.rng.choice([1, 1, 1, 2]), self.rng.choice([1, 2, 3, 3, 4, 8]), *side)
        name = self.name("x")
        stated: list[int | str | None] = list(shape)
        if self.chance(0.3):
            stated[0] = self.rng.choice(["N", "batch size", None])
        if rank > 2 and self.chance(0.1):
            stated[-1] = "W"
            self.given.append(f"{name}:{'x'.join(map(str, shape))}")
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, stated))
        self.live.append((name, shape))

    def pick(self, fits: Callable[[Shape], bool]) -> tuple[str, Shape] | None:
        """One of the youngest live tensors that fit."""
        found = [item for item in self.live if fits(item[1])]
        if not found:
            return None
        return found[-1] if self.chance(0.75) else self.rng.choice(found[-4:])

    # Blocks; each returns without a trace where nothing live fits it

    def conv(self) -> None:
        found = self.pick(lambda s: len(s) in (3, 4, 4, 5) and min(s) > 0)
        if found is None:
            return
        x, shape = found
        channels, sides = shape[1], shape[2:]
        divisors = [d for d in range(1, channels + 1) if channels % d == 0]
        group = self.rng.choice([1, 1, 1, channels, self.rng.choice(divisors)])
        out = group * self.rng.choice([1, 1, 2, 3, 4]) if group > 1 else self.rng.choice([1, 2, 4, 5, 8, 12])
        kernel = tuple(self.rng.choice([1, 1, 2, 3, 3, 5]) for _ in sides)
        strides = tuple(self.rng.choice([1, 1, 1, 2, 3]) for _ in sides)
        dilations = tuple(self.rng.choice([1, 1, 1, 2]) for _ in sides)
        attrs: dict[str, object] = {"group": group} if group > 1 or self.chance(0.5) else {}
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        mode = self.rng.random()
        if mode < 0.15:
            attrs["auto_pad"] = self.rng.choice(["SAME_UPPER", "SAME_LOWER"])
            dilations, spans = (1,) * len(sides), list(kernel)
            result = tuple(-(-size // s) for size, s in zip(sides, strides, strict=True))
        else:
            before = [s // 2 if mode < 0.7 else self.rng.randrange(3) for s in spans]
            after = [(s - 1) // 2 if mode < 0.7 else self.rng.randrange(3) for s in spans]
            if mode > 0.92:
                before = after = [0] * len(sides)
                attrs["auto_pad"] = "VALID"
            else:
                attrs["pads"] = before + after
            result = tuple(
                (size + a + b - span) // s + 1
                for size, a, b, span, s in zip(sides, before, after, spans, strides, strict=True)
            )
        if min(result) < 1:
            return
        if max(strides) > 1 or self.chance(0.3):
            attrs["strides"] = strides
        if max(dilations) > 1:
            attrs["dilations"] = dilations
        fan = channels // group * int(np.prod(kernel))
        inputs = [x, self.weight((out, channels // group, *kernel), fan)]
        if self.chance(0.4):
            inputs.append(self.weight((out,), 4))
        y = self.add("Conv", inputs, (shape[0], out, *result), **attrs)
        if self.chance(0.6):
            self.norm(y, (shape[0], out, *result))
        if self.chance(0.6):
            self.activation()

    def transposed(self) -> None:
        found = self.pick(lambda s: len(s) in (3, 4) and min(s) > 0)
        if found is None:
            return
        x, shape = found
        out = self.rng.choice([1, 2, 4])
        kernel = tuple(self.rng.choice([2, 3]) for _ in shape[2:])
        weight = self.weight((shape[1], out, *kernel), shape[1] * 4)
        sides = tuple((size - 1) * 2 + k for size, k in zip(shape[2:], kernel, strict=True))
        self.add("ConvTranspose", [x, weight], (shape[0], out, *sides), strides=[2] * len(kernel))

    def norm(self, x: str = "", shape: Shape = ()) -> None:
        if not x:
            found = self.pick(lambda s: len(s) >= 2 and min(s) > 0)
            if found is None:
                return
            x, shape = found
        size = shape[1]
        values = [
            self.values.uniform(0.3, 1.5, size) * self.values.choice([-1, 1, 1, 1], size),
            self.values.standard_normal(size) * 0.4,
            self.values.standard_normal(size) * 0.3,
            self.values.uniform(0.3, 2.0, size),
        ]
        names = []
        for index, value in enumerate(values):
            held = value.astype(np.float32)
            if self.spoiled and self.chance(0.04):
                held = self.absurd(held)
                if index == 3 and self.chance(0.5):
                    held = -np.abs(held)
            names.append(self.name("bn"))
            self.weights[names[-1]] = held
        attrs: dict[str, object] = {}
        if self.spoiled and self.chance(0.1):
            self.ordinary = False
            attrs["epsilon"] = self.rng.choice([0.0, 1e-12, 1.0, 1e10])
        self.add("BatchNormalization", [x, *names], shape, **attrs)

    def activation(self) -> None:
        found = self.pick(lambda s: len(s) >= 2)
        if found is None:
            return
        x, shape = found
        plain = ["Relu", "Relu", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "HardSigmoid", "Softplus", "Abs", "Neg"]
        plain += ["Erf", "ThresholdedRelu", "Sqrt", "Exp"] + (["HardSwish"] if self.opset >= 14 else [])
        plain += ["Mish"] if self.opset >= 18 else []
        kind = self.rng.choice([*plain, "Clip", "Clip", "Clip", "PRelu", "gate", "gate", "gated", "Softmax", "domain"])
        if kind in ("ThresholdedRelu", "Exp"):
            self.ordinary = False  # one jumps, one grows without bound: the smallest error can be the whole output
        if kind == "Clip":
            low, high = self.rng.choice([(0.0, 6.0), (0.0, 6.0), (-1.0, 1.0), (0.0, 1e30), (2.0, 1.0)])
            if self.opset < 11:
                self.add("Clip", [x], shape, min=low, max=high)
            else:
                limits = [self.number(np.array(v, np.float32)) for v in (low, high)]
                limits = self.rng.choice([limits, limits, limits[:1], ["", limits[1]]])
                self.add("Clip", [x, *limits], shape)
        elif kind == "PRelu":
            size = (shape[1],) + (1,) * (len(shape) - 2) if self.chance(0.7) else (1,)
            self.add("PRelu", [x, self.weight(size, 4)], shape)
        elif kind == "gate":
            gate = self.rng.choice(["Sigmoid", "HardSigmoid", "Tanh"])
            self.add("Mul", [x, self.add(gate, [x], shape)], shape)
        elif kind == "gated" and len(shape) == 4 and min(shape) > 0:
            pooled = self.add("GlobalAveragePool", [x], (*shape[:2], 1, 1))
            inner = self.add(
                "Relu",
                [self.add("Conv", [pooled, self.weight((2, shape[1], 1, 1), shape[1])], (shape[0], 2, 1, 1))],
                (shape[0], 2, 1, 1),
            )
            wide = self.add("Conv", [inner, self.weight((shape[1], 2, 1, 1), 2)], (*shape[:2], 1, 1))
            self.add("Mul", [x, self.add("Sigmoid", [wide], (*shape[:2], 1, 1))], shape)
        elif kind == "Softmax":
            self.add("Softmax", [x], shape, axis=1)
        elif kind == "domain":
            self.add("Gelu", [x], shape, domain="com.microsoft")
        elif kind == "Sqrt":
            self.add("Sqrt", [self.add("Abs", [x], shape)], shape)
        elif kind != "gated":
            self.add(kind, [x], shape)

    def combine(self) -> None:
        found = self.pick(lambda s: len(s) >= 2)
        if found is None:
            return
        x, shape = found
        op = self.rng.choice(["Add", "Add", "Add", "Mul", "Sub", "Concat", "Concat", "constant", "Max"])
        if op == "constant":
            size = self.rng.choice([(), (1,), (shape[1],) + (1,) * (len(shape) - 2), (1,) * len(shape), shape[-1:]])
            operand = self.weight(size, 4)
            pair = [x, operand] if self.chance(0.7) else [operand, x]
            self.add(self.rng.choice(["Add", "Mul", "Sub"]), pair, shape)
            return
        fits = [item for item in self.live if len(item[1]) == len(shape) and item[1][2:] == shape[2:]]
        fits = [item for item in fits if item[1][0] == shape[0] and (op == "Concat" or item[1] == shape)]
        other, theirs = self.rng.choice(fits)
        if op == "Concat":
            self.add("Concat", [x, other], (shape[0], shape[1] + theirs[1], *shape[2:]), axis=1)
        else:
            self.add(op, [x, other], shape)

    def pool(self) -> None:
        found = self.pick(lambda s: len(s) >= 3 and min(s) > 0)
        if found is None:
            return
        x, shape = found
        ones = (1,) * (len(shape) - 2)
        kind = self.rng.choice(
            ["MaxPool", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"]
        )
        if kind.startswith("Global"):
            self.add(kind, [x], (*shape[:2], *ones))
        elif kind == "ReduceMean":
            keep = self.rng.randrange(2)
            axes = list(range(2, len(shape)))
            result = (*shape[:2], *(ones if keep else ()))
            if self.opset < 18:
                self.add(kind, [x], result, axes=axes, keepdims=keep)
            else:
                self.add(kind, [x, self.number(np.array(axes))], result, keepdims=keep)
        else:
            kernel = [self.rng.choice([1, 2, 2, 3]) for _ in ones]
            strides = [self.rng.choice([1, 2, 2]) for _ in ones]
            pads = [self.rng.randrange(k) if self.chance(0.4) else 0 for k in kernel + kernel]
            half = len(ones)
            sides = tuple((n + pads[i] + pads[half + i] - kernel[i]) // strides[i] + 1 for i, n in enumerate(shape[2:]))
            if min(sides) < 1:
                return
            attrs: dict[str, object] = {"count_include_pad": 1} if kind == "AveragePool" and self.chance(0.4) else {}
            self.add(kind, [x], (*shape[:2], *sides), kernel_shape=kernel, strides=strides, pads=pads, **attrs)

    def move(self) -> None:
        """Operators that carry values elsewhere."""
        found = self.pick(lambda s: len(s) >= 2 and min(s) > 0)
        if found is None:
            return
        x, shape = found
        rank = len(shape)
        kind = self.rng.choice(MOVES)
        if kind == "Resize" and rank >= 3:
            scales = self.number(np.array([1, 1] + [2] * (rank - 2), np.float32))
            result = (*shape[:2], *(2 * n for n in shape[2:]))
            mode = self.rng.choice(["nearest", "nearest", "linear" if rank == 4 else "nearest"])
            if self.opset == 9:
                self.add("Upsample", [x, scales], result, mode=mode)
            elif self.opset == 10:
                self.add("Resize", [x, scales], result, mode=mode)
            else:
                roi = self.number(np.zeros(0, np.float32)) if self.opset < 13 or self.chance(0.5) else ""
                self.add("Resize", [x, roi, scales], result, mode=mode)
        elif kind in ("Transpose", "nhwc"):
            perm = [0, *range(2, rank), 1] if kind == "nhwc" else [0, *self.rng.sample(range(1, rank), rank - 1)]
            moved = tuple(shape[p] for p in perm)
            y = self.add("Transpose", [x], moved, perm=perm)
            if kind == "nhwc" and self.chance(0.6):
                back = [int(p) for p in np.argsort(perm)]
                self.add("Transpose", [self.add("Relu", [y], moved)], shape, perm=back)
        elif kind == "Reshape":
            target = [0, -1] if self.chance(0.5) else [0, int(np.prod(shape[1:])), 1, 1]
            result = (shape[0], int(np.prod(shape[1:])), *([] if len(target) == 2 else [1, 1]))
            self.add("Reshape", [x, self.number(np.array(target))], result)
        elif kind == "Flatten":
            self.add("Flatten", [x], (shape[0], int(np.prod(shape[1:]))), axis=1)
        elif kind == "Pad":
            pads = [0, 0] + [self.rng.randrange(3) for _ in range(rank - 2)]
            pads += [0, 0] + [self.rng.randrange(3) for _ in range(rank - 2)]
            result = tuple(n + pads[i] + pads[rank + i] for i, n in enumerate(shape))
            mode = self.rng.choice(["constant", "constant", "edge"])
            if self.opset < 11:
                self.add("Pad", [x], result, pads=pads, mode=mode)
            else:
                self.add("Pad", [x, self.number(np.array(pads))], result, mode=mode)
        elif kind == "Slice" and shape[-1] > 1:
            ends = (0, shape[-1] - 1, rank - 1)
            result = (*shape[:-1], shape[-1] - 1)
            if self.opset < 10:
                self.add("Slice", [x], result, starts=[ends[0]], ends=[ends[1]], axes=[ends[2]])
            else:
                self.add("Slice", [x, *(self.number(np.array([v])) for v in ends)], result)
        elif kind == "Split" and shape[1] % 2 == 0:
            half = (shape[0], shape[1] // 2, *shape[2:])
            attrs: dict[str, object] = {"num_outputs": 2} if self.opset >= 18 else {}
            self.add("Split", [x], half, outputs=2, axis=1, **attrs)
            self.live.append((self.nodes[-1].output[1], half))
        elif kind == "Dropout":
            self.add("Dropout", [x], shape)
        elif kind == "Identity":
            for _ in range(self.rng.choice([1, 1, 3])):
                x = self.add("Identity", [x], shape)
        elif kind == "Squeeze" and shape[-1] == 1 and rank > 2:
            if self.opset < 13:
                self.add("Squeeze", [x], shape[:-1], axes=[rank - 1])
            else:
                self.add("Squeeze", [x, self.number(np.array([rank - 1]))], shape[:-1])
        elif kind == "Cast":
            other = self.rng.choice([TensorProto.FLOAT16, TensorProto.DOUBLE])
            y = self.add("Cast", [x], shape, to=other)
            self.live.pop()
            self.add("Cast", [y], shape, to=TensorProto.FLOAT)
        elif kind == "Shape":
            size = self.add("Shape", [x], (rank,))
            self.live.pop()
            self.add("Reshape", [x, size], shape)
        elif kind == "DepthToSpace" and rank == 4 and shape[1] % 4 == 0:
            self.add(kind, [x], (shape[0], shape[1] // 4, 2 * shape[2], 2 * shape[3]), blocksize=2)
        elif kind == "LRN" and rank == 4 and not self.spoiled:  # onnxruntime makes NaN of large values
            self.add(kind, [x], shape, size=3)
        elif kind == "Tile":
            self.add("Tile", [x, self.number(np.array([1] * (rank - 1) + [2]))], (*shape[:-1], 2 * shape[-1]))
        elif kind == "If":
            self.choice(x, shape)

    def choice(self, x: str, shape: Shape) -> None:
        """An If whose branches read a tensor from outside."""
        branches = {}
        for key, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
            y = self.name("inner")
            out = helper.make_tensor_value_info(y, TensorProto.FLOAT, None)
            branches[key] = helper.make_graph([helper.make_node(op, [x], [y])], key, [], [out])
        self.add("If", [self.number(np.array(self.chance(0.5)))], shape, **branches)

    def dense(self) -> None:
        found = self.pick(lambda s: len(s) == 2 and s[1] > 0)
        if found is None:
            found = self.pick(lambda s: len(s) >= 3 and min(s) > 0)
            if found is None:
                return
            if self.chance(0.5):
                x, shape = found
                out = self.rng.choice([1, 3, 8])
                self.add("MatMul", [x, self.weight((shape[-1], out), shape[-1])], (*shape[:-1], out))
                return
            flat = (found[1][0], int(np.prod(found[1][1:])))
            if flat[1] > WIDEST:
                return
            found = (self.add("Flatten", [found[0]], flat, axis=1), flat)
        x, (rows, width) = found
        if width > WIDEST:
            return
        out = self.rng.choice([1, 2, 5, 10])
        if self.chance(0.4):
            self.add("MatMul", [x, self.weight((width, out), width)], (rows, out))
            return
        attrs: dict[str, object] = {}
        trans = self.chance(0.6)
        if trans:
            attrs["transB"] = 1
        if self.chance(0.2):
            attrs["alpha"] = self.rng.choice([0.5, 2.0])
        if self.chance(0.2):
            attrs["beta"] = self.rng.choice([0.5, 0.0])
        inputs = [x, self.weight((out, width) if trans else (width, out), width)]
        if self.chance(0.7) or self.opset < 11:
            inputs.append(self.weight(self.rng.choice([(out,), (out,), (1, out), ()]), 4))
        self.add("Gemm", inputs, (rows, out), **attrs)

    # The whole

    def build(self) -> Network:
        rank = self.rng.choice([4, 4, 4, 4, 4, 4, 3, 5, 2])
        for _ in range(self.rng.choice([1, 1, 1, 1, 2])):
            self.input(rank)
        if rank > 2:
            self.conv()
        blocks = [self.conv] * 6 + [self.norm, self.activation, self.activation, self.combine, self.combine]
        blocks += [self.pool, self.move, self.move, self.dense, self.transposed]
        for _ in range(self.rng.randint(0, 11)):
            self.rng.choice(blocks)()
            if np.prod(self.live[-1][1]) > 20_000:
                break
        if self.chance(0.5):
            self.dense()
        return Network(self.model(), self.ordinary, tuple(self.given))

    def model(self) -> onnx.ModelProto:
        made = {name for node in self.nodes for name in node.output}
        outputs = [self.nodes[-1].output[0]] if self.nodes else []
        if made and self.chance(0.2):
            extra = self.rng.choice(sorted(made))
            outputs += [extra] if extra not in outputs else []
        values = [onnx.ValueInfoProto(name=name) for name in outputs]
        tensors = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        inputs = list(self.inputs)
        if self.chance(0.05):
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
        graph = helper.make_graph(self.nodes, "random", inputs, values, tensors)
        ids = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in sorted(self.domains))]
        model = helper.make_model(graph, opset_imports=ids, ir_version=min(helper.find_min_ir_version_for(ids[:1]), 13))
        return _with_types(model)


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """Outputs with the type and shape that inference finds, float of any shape where it finds none."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
        known = {info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output)}
    except Exception:  # absurd shapes; onnx raises several kinds
        known = {}
    for value in model.graph.output:
        found = known.get(value.name)
        if found is not None and found.type.tensor_type.elem_type:
            value.CopyFrom(found)
        else:
            value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None))
    return model
