"""Damage done to models: bytes flipped, nodes dropped, tensors renamed, shapes and types that lie, circles."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import numpy_helper

T = TypeVar("T")
OPERATORS = (
    *("Add", "Mul", "Concat", "Transpose", "Reshape", "Slice", "Pad", "MatMul", "Gemm", "Identity", "Constant"),
    *("ReduceMean", "BatchNormalization", "Conv", "ConvTranspose", "Relu", "Clip", "Flatten", "Tile", "Expand"),
    *("ConstantOfShape", "Resize", "Softmax", "Shape", "DequantizeLinear", "QuantizeLinear", "Dropout", "Convv", ""),
    *("If", "Loop", "Scan"),
)
SIZES = (0, 1, 2, 3, 7, -1, 1 << 20, 1 << 40, (1 << 62) + 1)
LOCATIONS = ("/etc/hostname", "../x", "x", "", ".", "model.onnx", "\0", "*/_ORT_MEM_ADDR_/*", "a" * 300)
NUMBERS = (0, 1, -1, 2, 3, 1 << 20, 1 << 40, -(1 << 63))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to five injuries to a model's bytes, or to what they mean."""
    if rng.random() < 0.3:
        return _bytes(data, rng)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            rng.choice(INJURIES)(model, rng)
        return model.SerializeToString()
    except (DecodeError, EncodeError, ValueError, IndexError, TypeError, RuntimeError):  # numpy's, onnx's
        return _bytes(data, rng)


def _one(rng: random.Random, items: Sequence[T]) -> T:
    """One of some, IndexError where there are none: hypothesis's generators would draw from nothing."""
    if not items:
        raise IndexError
    return rng.choice(items)


def _index(rng: random.Random, items: Sequence[object]) -> int:
    """The place of one of some, IndexError where there are none."""
    if not items:
        raise IndexError
    return rng.randrange(len(items))


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, a piece lost, a piece twice, or the end cut off; most of them in front, where names stand."""
    damaged = bytearray(data)
    size = len(damaged)
    if size < 2:
        return data
    kind, at = rng.random(), rng.randrange(min(size, 2000) if rng.random() < 0.5 else size)
    if kind < 0.6:
        for _ in range(rng.choice([1, 1, 2, 5])):
            damaged[rng.randrange(size) if rng.random() < 0.5 else at] ^= 1 << rng.randrange(8)
    elif kind < 0.75:
        del damaged[at : at + rng.choice([1, 2, 8, 100])]
    elif kind < 0.85:
        damaged[at:at] = damaged[at : at + rng.choice([1, 2, 8, 100])]
    else:
        del damaged[at:]
    return bytes(damaged)


def _names(model: onnx.ModelProto) -> list[str]:
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    return [*names, *(v.name for v in model.graph.input), *(t.name for t in model.graph.initializer), "", "nowhere"]


def _drop(model: onnx.ModelProto, rng: random.Random) -> None:
    del model.graph.node[_index(rng, model.graph.node)]


def _double(model: onnx.ModelProto, rng: random.Random) -> None:
    model.graph.node.add().CopyFrom(_one(rng, model.graph.node))


def _swap(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    i, j = (_index(rng, nodes) for _ in range(2))
    nodes[i], nodes[j] = nodes[j], nodes[i]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _rewire(model: onnx.ModelProto, rng: random.Random) -> None:
    """Read or write another tensor, which may close a circle or make a name twice."""
    node = _one(rng, model.graph.node)
    ends = node.input if rng.random() < 0.6 else node.output
    ends[_index(rng, ends)] = rng.choice(_names(model))


def _arity(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _one(rng, model.graph.node)
    ends = node.input if rng.random() < 0.7 else node.output
    if rng.random() < 0.5:
        ends.append(rng.choice(_names(model)))
    else:
        del ends[_index(rng, ends)]


def _operator(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _one(rng, model.graph.node)
    if rng.random() < 0.7:
        node.op_type = rng.choice(OPERATORS)
    else:
        node.domain = rng.choice(["", "ai.onnx", "com.microsoft", "somebody's own"])


def _label(model: onnx.ModelProto, rng: random.Random) -> None:
    """Names that steer a terminal, look like markup, or belong to two."""
    node = _one(rng, model.graph.node)
    other = _one(rng, model.graph.node).name
    hostile = ("[bold]x[/bold]", "[/]", "\x1b[2J\n", "a\r\nb", "\u202egpj", "%s{}", "../../x", "x" * 3000, "")
    node.name = rng.choice([other, *hostile])
    if rng.random() < 0.3 and node.output:
        old, new = node.output[0], rng.choice(["[red]", "\x1b]0;x\x07", "a b\tc", "é" * 50])
        for reader in model.graph.node:
            reader.input[:] = [new if name == old else name for name in reader.input]
        node.output[0] = new


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _one(rng, [n for n in model.graph.node if n.attribute])
    attribute = _one(rng, node.attribute)
    kind = rng.random()
    if kind < 0.15:
        node.attribute.remove(attribute)
    elif kind < 0.3:
        value = rng.choice([1, -1, 0.5, float("nan"), "NOTSET", b"\xff\xfe", [1, 2], [0.5], ["a"]])
        attribute.CopyFrom(onnx.helper.make_attribute(attribute.name, value))
    elif kind < 0.35:
        attribute.type = rng.choice(list(onnx.AttributeProto.AttributeType.values()))
    elif kind < 0.4:
        node.attribute.add().CopyFrom(attribute)
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = rng.choice(NUMBERS)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = rng.choice([0.0, -1.0, float("nan"), float("inf"), 1e30])
    elif attribute.type == onnx.AttributeProto.INTS:
        held = list(attribute.ints)
        held[_index(rng, held)] = rng.choice(NUMBERS)
        attribute.ints[:] = rng.choice([held, held, held[:-1], [*held, 1], []])
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = rng.choice([b"", b"VALID", b"SAME_UPPER", b"\xff", b"linear"])
    elif attribute.type == onnx.AttributeProto.TENSOR:
        _spoil(attribute.t, rng)


def _tensor(model: onnx.ModelProto, rng: random.Random) -> None:
    _spoil(_one(rng, model.graph.initializer), rng)


def _spoil(tensor: onnx.TensorProto, rng: random.Random) -> None:
    """Dimensions, type or data that do not belong together, or values that no training leaves."""
    kind = rng.random()
    if kind < 0.25 and tensor.dims:
        tensor.dims[_index(rng, tensor.dims)] = rng.choice(SIZES)
    elif kind < 0.3:
        tensor.dims.append(rng.choice(SIZES))
    elif kind < 0.4:
        tensor.data_type = rng.randrange(28)
    elif kind < 0.45:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif kind < 0.5:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=rng.choice(LOCATIONS))
        for key in rng.sample(("offset", "length", "checksum", "else"), rng.randrange(4)):
            tensor.external_data.add(key=key, value=rng.choice(["0", "-1", "4", "x", "", str(1 << 62), "\u0662"]))
    elif tensor.data_location != onnx.TensorProto.EXTERNAL:  # whose values an earlier change gave away
        values = numpy_helper.to_array(tensor)
        with np.errstate(all="ignore"):
            spoilt = rng.choice(CHANGES)(values)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(spoilt), tensor.name))


CHANGES = (
    lambda a: a.T,
    lambda a: a.reshape(-1),
    lambda a: a[:1],
    lambda a: a[:0],
    lambda a: a.astype(np.float64),
    lambda a: a.astype(np.float16),
    lambda a: a.astype(np.int8),
    np.zeros_like,
    lambda a: (a * 1e30).astype(a.dtype),
    lambda a: (a * 1e-38).astype(a.dtype),
    lambda a: (a * 1e5).astype(a.dtype),
    lambda a: a * np.nan,
    lambda a: a / 0.0 * 1.0,
    lambda a: -a,
    lambda a: np.ones((), a.dtype),
)


def _value(model: onnx.ModelProto, rng: random.Random) -> None:
    """What the model states of its inputs, outputs and inner tensors."""
    places = [model.graph.input, model.graph.output, model.graph.value_info]
    held = _one(rng, [p for p in places if p])
    if rng.random() < 0.1:
        del held[_index(rng, held)]
        return
    value = _one(rng, held)
    tensor, kind = value.type.tensor_type, rng.random()
    if kind < 0.25:
        tensor.elem_type = rng.choice([0, 1, 6, 7, 8, 9, 10, 11, 16, 22, 99])
    elif kind < 0.4:
        tensor.ClearField("shape")
    elif kind < 0.5:
        value.name = rng.choice(_names(model))
    elif kind < 0.6:
        tensor.shape.dim.add().dim_value = rng.choice(SIZES)
    elif kind < 0.7:
        del tensor.shape.dim[-1]
    elif kind < 0.85:
        tensor.shape.dim[_index(rng, tensor.shape.dim)].dim_value = rng.choice((*SIZES[:6], 4, 5, 9))
    else:
        tensor.shape.dim[_index(rng, tensor.shape.dim)].dim_param = rng.choice(["n", "", "\x1b[2J", "height"])


def _swell(model: onnx.ModelProto, rng: random.Random) -> None:
    """A node behind another that asks for more than there is: as a constant, or as a map."""
    source = _one(rng, model.graph.node).output[0]
    many = rng.choice([1 << 20, 1 << 34, 1 << 40, 1 << 62])
    kind = rng.choice(["ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize", "OneHot"])

    def held(values: list[float], dtype: type = np.int64, scalar: bool = False) -> str:
        name = f"swell{len(model.graph.initializer)}"
        array = np.array(values[0] if scalar else values, dtype)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    inputs = {
        "ConstantOfShape": lambda: [held([many, rng.choice([1, many])])],
        "Expand": lambda: [source, held([many, 1, 1, 1])],
        "Tile": lambda: [source, held([many, 1, 1, 1])],
        "Range": lambda: [held([0], scalar=True), held([many], scalar=True), held([1], scalar=True)],
        "Pad": lambda: [source, held([0, 0, many, 0, 0, 0, 0, many])],
        "Resize": lambda: [source, "", held([1, 1, many, many], np.float32)],
        "OneHot": lambda: [held([1, 2]), held([many], scalar=True), held([0, 1], np.float32)],
    }[kind]()
    node = onnx.helper.make_node(kind, inputs, ["swollen"])
    if rng.random() < 0.5:  # nothing reads it, or an output does
        model.graph.output.append(onnx.helper.make_tensor_value_info("swollen", rng.choice([1, 7]), None))
    model.graph.node.append(node)


def _sparse(model: onnx.ModelProto, rng: random.Random) -> None:
    """A weight said by its few values, of a shape that may have no room."""
    name = rng.choice([*model.graph.initializer, onnx.TensorProto(name="sparse")]).name
    values = numpy_helper.from_array(np.ones(1, np.float32), name)
    places = numpy_helper.from_array(np.array([rng.choice([0, 7, 1 << 40])]), "places")
    dims = rng.choice([[4, 3, 3, 3], [1 << 20, 1 << 20], [0, 1 << 40], [-1, 4]])
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, dims))


def _whole(model: onnx.ModelProto, rng: random.Random) -> None:
    kind = rng.randrange(7)
    if kind == 0:
        del model.graph.output[:]
    elif kind == 1:
        del model.graph.input[:]
    elif kind == 2:
        model.graph.output.add().CopyFrom(_one(rng, [*model.graph.input, *model.graph.output]))
    elif kind == 3:
        model.opset_import[0].version = rng.choice([0, 1, 6, 7, 8, 9, 11, 12, 14, 17, 18, 21, 25, 26, 27, 99])
    elif kind == 4:
        model.opset_import.add(domain=rng.choice(["", "mine"]), version=rng.choice([1, 13]))
    elif kind == 5:
        model.ir_version = rng.choice([0, 1, 3, 4, 7, 13, 14, 99])
    else:
        model.graph.initializer.add().CopyFrom(_one(rng, model.graph.initializer))


def _body(model: onnx.ModelProto, rng: random.Random) -> None:
    """An injury within the body of an If, a Loop or a Scan."""
    attribute = _one(rng, [a for node in model.graph.node for a in node.attribute if a.HasField("g")])
    inner = onnx.ModelProto(graph=attribute.g, opset_import=model.opset_import)
    rng.choice(INJURIES)(inner, rng)
    attribute.g.CopyFrom(inner.graph)


INJURIES = (
    *(_drop, _drop, _double, _swap, _rewire, _rewire, _rewire, _arity, _arity, _operator, _operator, _label),
    *(_attribute, _attribute, _attribute, _tensor, _tensor, _tensor, _value, _value, _whole, _swell, _sparse, _body),
)
