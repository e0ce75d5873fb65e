"""Reading a quantized file back, with onnx and numpy alone: what its weights are stored as, and what they hold."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

T = onnx.TensorProto
WIDTHS = {T.INT2: 2, T.UINT2: 2, T.INT4: 4, T.UINT4: 4, T.INT8: 8}


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """One layer's codes, without zero point. width: bits that each takes; bytes: what the file spends on them."""

    codes: np.ndarray
    width: float
    bytes: int


def stored_weights(path: pathlib.Path) -> dict[str, StoredWeight]:
    """The codes of every layer with a weight, found by walking from the layer back through what decodes it."""
    graph = onnx.load(path).graph
    decoder = Decoder(
        {output: node for node in graph.node for output in node.output},
        {tensor.name: tensor for tensor in graph.initializer},
    )
    return {
        node.name: decoder.weight(node.input[1])
        for node in graph.node
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
    }


@dataclasses.dataclass
class Decoder:
    """Works out constant nodes by hand. makers: the node of every tensor; constants: the initializers."""

    makers: dict[str, onnx.NodeProto]
    constants: dict[str, onnx.TensorProto]

    def op(self, name: str) -> str:
        return self.makers[name].op_type if name in self.makers else ""

    def weight(self, name: str) -> StoredWeight:
        """What stands in front of scale, zero point and doubling, and the initializers that it is made of."""
        assert self.op(name) in ("DequantizeLinear", "Mul"), f"{name}: not a decoded weight"
        name = self.makers[name].input[0]
        if self.op(name) == "Cast" and self.op(self.makers[name].input[0]) == "Sub":
            name = self.makers[name].input[0]
        if self.op(name) == "Sub":
            name = self.makers[name].input[0]
        if self.op(name) == "Add" and len(set(self.makers[name].input)) == 1:
            name = self.makers[name].input[0]
        codes = self.value(name).astype(np.int64)
        stored = list(self.stored(name))
        return StoredWeight(codes, sum(width for _, width in stored), sum(len(t.raw_data) for t, _ in stored))

    def stored(self, name: str, per_byte: int = 0) -> Iterator[tuple[onnx.TensorProto, float]]:
        """The initializers with codes behind a tensor, and the bits that each code has there."""
        if name in self.constants:
            tensor = self.constants[name]
            assert tensor.data_type in WIDTHS or per_byte, f"{name}: stored as {T.DataType.Name(tensor.data_type)}"
            yield tensor, 8 / per_byte if per_byte else WIDTHS[tensor.data_type]
        elif self.op(name) == "Gather":
            table, index = self.makers[name].input
            codes = self.constants[table].dims[1]
            if self.op(index) == "Add":  # indices of more than 8 bits: rows of low bytes, and one of the bits above
                split = self.makers[self.makers[index].input[0]]
                tensor = self.constants[self.makers[split.input[0]].input[0]]
                yield tensor, 8 * tensor.dims[1] / ((tensor.dims[1] - 1) * codes)
            else:
                yield from self.stored(index, codes)
        else:
            node = self.makers[name]
            for source in node.input if node.op_type == "Add" else node.input[:1]:
                yield from self.stored(source, per_byte)

    def value(self, name: str) -> np.ndarray:
        if name in self.constants:
            return numpy_helper.to_array(self.constants[name])
        node = self.makers[name]
        first, *others = (self.value(source) for source in node.input)
        match node.op_type:
            case "Cast":
                return first.astype(np.int64)
            case "Add":
                return first + others[0]
            case "Mul":
                return first * others[0].astype(np.int64)
            case "Div":
                return first // others[0]
            case "Mod":
                return first % others[0]
            case "Split":
                parts = np.split(first, np.cumsum(others[0])[:-1], axis=1)
                return parts[list(node.output).index(name)]
            case "Gather":
                return first[others[0]]
            case "Reshape":
                return first.reshape(others[0])
            case "Slice":
                part = slice(int(others[0][0]), int(others[1][0]))
                return first[:, part] if len(others) > 2 and others[2][0] == 1 else first[part]
        raise AssertionError(f"{node.op_type} decodes no codes")


def top1(path: pathlib.Path, images: pathlib.Path) -> float:
    """Per cent of an .npz of 8-bit images that a network classifies rightly, normalized as for ImageNet."""
    import onnxruntime

    data = np.load(images)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    x = ((data["x"].astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(path, onnxruntime.SessionOptions(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    batches = (np.ascontiguousarray(x[i : i + 50]) for i in range(0, len(x), 50))
    scores = np.concatenate([session.run(None, {name: batch})[0] for batch in batches])
    return round(100 * float((scores.argmax(1) == data["y"]).mean()), 2)
