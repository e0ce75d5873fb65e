"""How exporters hold numbers: as Constants, behind nodes, in half precision, quantized by training, in files beside.

Each habit leaves a network of the same outputs, half precision and 8 bits apart.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools.fuzz.export import Export

DATA = "model.onnx.data"
FLOATS_ONLY = {
    "NonMaxSuppression",
    "RoiAlign",
    "GridSample",
    "NonZero",
    "TopK",
    "LSTM",
    "GRU",
    "Cast",
    "QuantizeLinear",
}


def half_precision(export: Export) -> bool:
    """float16 inside; its ends in float32 by Casts, or in float16 as well."""
    nodes = export.graph.node
    if any(n.op_type in FLOATS_ONLY or n.domain for n in nodes) or export.model.functions:
        return False
    if any(v.type.tensor_type.elem_type != TensorProto.FLOAT for v in export.graph.input):
        return False
    kept = {name for n in nodes if n.op_type in ("Resize", "Upsample") for name in n.input[1:]}
    for tensor in export.graph.initializer:
        if tensor.name not in kept:
            _halve(tensor)
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and node.output[0] not in kept:
                _halve(attribute.t)
    del export.graph.value_info[:]
    inputs = [v for v in export.graph.input if not any(t.name == v.name for t in export.graph.initializer)]
    mixed = export.rng.random() < 0.6
    export.ordinary, export.floats = False, TensorProto.FLOAT16
    for value in (*export.graph.input, *export.graph.output):
        floats = value.type.tensor_type.elem_type == TensorProto.FLOAT
        if floats and value.name not in kept and not (mixed and (value in inputs or value in export.graph.output)):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    if mixed:
        for value in inputs:
            export.reads(value.name, f"{value.name}_half")
            export.insert(0, helper.make_node("Cast", [value.name], [f"{value.name}_half"], to=TensorProto.FLOAT16))
        for value in export.graph.output:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                export.renames(value.name, f"{value.name}_half")
                nodes.append(helper.make_node("Cast", [f"{value.name}_half"], [value.name], to=TensorProto.FLOAT))
    return True


def _halve(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        with np.errstate(over="ignore", under="ignore"):
            half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))


def constants(export: Export) -> None:
    """Constants in place of initializers."""
    stated = {value.name for value in export.graph.input}
    for tensor in list(export.graph.initializer):
        if export.rng.random() < 0.7 and tensor.name not in stated:
            node = helper.make_node("Constant", [], [tensor.name], value=tensor)
            export.graph.initializer.remove(tensor)
            export.insert(0, node)


def computed_weights(export: Export) -> bool:
    """Weights behind Transpose, Reshape, Cast, Identity or a product with a constant."""
    stated = {value.name for value in export.graph.input}
    found = [t for t in export.weights() if t.name not in stated and t.data_type == TensorProto.FLOAT]
    for tensor in found:
        if export.rng.random() < 0.5:
            _behind(export, tensor, export.rng.choice(["Transpose", "Reshape", "Cast", "Identity", "Mul", "norm"]))
    return bool(found)


def _behind(export: Export, tensor: onnx.TensorProto, kind: str) -> None:
    name, value = tensor.name, numpy_helper.to_array(tensor)
    source, extra, attrs = f"{name}_source", [], {}
    if kind == "Transpose":
        perm = list(range(value.ndim))[::-1]
        stored, attrs = np.ascontiguousarray(value.transpose(perm)), {"perm": perm}
    elif kind == "Reshape":
        stored, extra = value.reshape(-1), [numpy_helper.from_array(np.array(value.shape), f"{name}_shape")]
    elif kind == "Cast":
        with np.errstate(over="ignore"):
            stored, attrs = value.astype(export.rng.choice([np.float16, np.float64])), {"to": TensorProto.FLOAT}
    elif kind == "Mul":
        stored, extra = value / 2, [numpy_helper.from_array(np.array(2, np.float32), f"{name}_factor")]
    elif kind == "norm":
        _normed(export, tensor)
        return
    else:
        stored, kind = value, "Identity"
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(stored), source))
    export.graph.initializer.extend(extra)
    export.insert(0, helper.make_node(kind, [source, *(t.name for t in extra)], [name], name=source, **attrs))


def _normed(export: Export, tensor: onnx.TensorProto) -> None:
    """A weight as g v / |v|, as weight normalization leaves it where nobody removed it before the export."""
    name, value = tensor.name, numpy_helper.to_array(tensor)
    axes = list(range(1, value.ndim))
    length = np.sqrt(np.square(value.astype(np.float64)).sum(axis=tuple(axes), keepdims=True)).astype(np.float32)
    if not length.min() > 1e-20:
        return
    tensor.name = f"{name}_v"
    extra = [numpy_helper.from_array(length, f"{name}_g")]
    inputs, attrs = [f"{name}_v"], {"axes": axes, "keepdims": 1}
    if export.build.opset >= 18:
        extra.append(numpy_helper.from_array(np.array(axes), f"{name}_axes"))
        inputs, attrs = [*inputs, f"{name}_axes"], {"keepdims": 1}
    export.graph.initializer.extend(extra)
    export.insert(0, helper.make_node("ReduceL2", inputs, [f"{name}_length"], name=f"{name}_length", **attrs))
    export.insert(1, helper.make_node("Div", [f"{name}_v", f"{name}_length"], [f"{name}_unit"], name=f"{name}_unit"))
    export.insert(2, helper.make_node("Mul", [f"{name}_unit", f"{name}_g"], [name], name=f"{name}_mul"))


def quantized_before(export: Export) -> bool:
    """One layer has been trained for 8 bits: its input and its weight pass QuantizeLinear and DequantizeLinear."""
    held = {t.name: t for t in export.graph.initializer if t.data_type == TensorProto.FLOAT}
    stated = {value.name for value in export.graph.input}
    layers = [n for n in export.graph.node if n.op_type == "Conv" and not n.domain and n.input[1] in held]
    layers = [n for n in layers if n.input[1] not in stated]
    if not layers or export.build.opset < 10 or export.floats != TensorProto.FLOAT:
        return False
    layer = export.rng.choice(layers)
    at, stem = list(export.graph.node).index(layer), f"{layer.output[0]}_trained"
    reach = float(np.abs(numpy_helper.to_array(held[layer.input[1]])).max())
    zero = numpy_helper.from_array(np.array(0, np.int8), f"{stem}_zero")
    export.graph.initializer.append(zero)
    export.ordinary = False
    for index, scale in ((0, 4 / 127), (1, max(reach, 1e-6) / 127)):
        source, part = layer.input[index], f"{stem}_{index}"
        export.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), f"{part}_scale"))
        layer.input[index] = f"{part}_decoded"
        ends = [f"{part}_scale", zero.name]
        export.insert(
            at, helper.make_node("DequantizeLinear", [f"{part}_codes", *ends], [f"{part}_decoded"], name=part)
        )
        export.insert(at, helper.make_node("QuantizeLinear", [source, *ends], [f"{part}_codes"], name=f"{part}_codes"))
        layer = export.graph.node[at + 2]
        at += 2
    return True


def typed_fields(export: Export) -> None:
    """Numbers in float_data and int64_data, as converters wrote them before raw bytes."""
    for tensor in export.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.FLOAT and value.size:
            tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, value.shape, value.reshape(-1).tolist()))


def external_data(export: Export) -> None:
    """Weights in a file beside the model."""
    data = bytearray()
    for tensor in export.graph.initializer:
        raw = numpy_helper.to_array(tensor).tobytes()
        if len(raw) < 64 or tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            continue
        offset = len(data)
        data += raw
        name, kind, dims = tensor.name, tensor.data_type, list(tensor.dims)
        tensor.Clear()
        tensor.name, tensor.data_type, tensor.data_location = name, kind, TensorProto.EXTERNAL
        tensor.dims.extend(dims)
        for key, value in (("location", DATA), ("offset", offset), ("length", len(raw))):
            tensor.external_data.add(key=key, value=str(value))
    export.beside[DATA] = bytes(data)
