"""What real exports have beside the network: stale shapes, names twice or empty, chains, functions, open sizes.

Each habit leaves a network of the same outputs.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools.fuzz.builder import Builder
from tools.fuzz.export import Export
from tools.fuzz.stored_numbers import (
    computed_weights,
    constants,
    external_data,
    half_precision,
    quantized_before,
    typed_fields,
)

DIMS = ("N", "batch_size", "unk__12", "None", "floor(h/2)", "é", "batch size", "?")


def exported(model: onnx.ModelProto, build: Builder, rng: random.Random) -> Export:
    """The model with none to five habits."""
    export = Export(model, build, rng)
    for habit in dict.fromkeys(rng.sample(HABITS, rng.choice([0, 0, 1, 2, 3, 5]))):  # twice: more often
        if habit(export) is False:
            continue
        export.habits.append(habit.__name__)
    if rng.random() < 0.05:
        external_data(export)
        export.habits.append("external_data")
    return export


def stale_shapes(export: Export) -> bool:
    """Shapes of inner tensors from before the model was changed."""
    shapes = {n: s for n, s in export.shapes.items() if len(s) > 1}
    stated = {value.name for value in export.graph.output}
    made = [n for node in export.graph.node for n in node.output if n in shapes and n not in stated]
    for name in export.rng.sample(made, min(len(made), export.rng.choice([1, 3, 100]))):
        dims: list[int | str] = list(shapes[name])
        place = export.rng.randrange(len(dims))
        dims[place] = export.rng.choice([int(dims[place]) + 1, 1, 2 * int(dims[place]), "old"])
        export.graph.value_info.append(helper.make_tensor_value_info(name, export.floats, dims))
    return bool(made)


def true_shapes(export: Export) -> None:
    try:
        inferred = onnx.shape_inference.infer_shapes(export.model)
    except Exception:  # onnx raises several kinds
        return
    del export.graph.value_info[:]
    export.graph.value_info.extend(inferred.graph.value_info)


def names_twice(export: Export) -> bool:
    """Which onnxruntime refuses, and other runtimes take."""
    if export.rng.random() < 0.6:
        return False
    names = export.rng.choice([["node"], ["Conv_0", "node", ""], ["a", "b"]])
    for node in export.graph.node:
        if export.rng.random() < 0.5:
            node.name = export.rng.choice(names)
    return True


def names_empty(export: Export) -> None:
    for node in export.graph.node:
        node.name = ""


def odd_tensor_names(export: Export) -> None:
    """Numbers, colons and slashes, as TensorFlow and older PyTorch name tensors."""
    stated = {value.name for value in export.graph.output}
    made = [n for node in export.graph.node for n in node.output if n not in stated]
    form = export.rng.choice(["{}", "net/{}:0", "blocks.0 {}", "[{}]", "é{}"])
    names = {name: form.format(i) for i, name in enumerate(made)}
    for node in export.graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    for value in export.graph.value_info:
        value.name = names.get(value.name, value.name)
    export.shapes = {names.get(n, n): s for n, s in export.shapes.items()}


def initializers_as_inputs(export: Export) -> None:
    every = export.rng.random() < 0.2  # sizes, too: onnxruntime then knows none of them
    for tensor in export.graph.initializer:
        if not every and (tensor.data_type != TensorProto.FLOAT or 0 in tensor.dims):
            continue
        export.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def local_function(export: Export) -> bool:
    """One operator, or an activation, as a function of the model's own."""
    kinds = {"Relu", "Sigmoid", "Add", "Mul", "Softmax", "Tanh", "Conv", "MatMul"}
    found = [n for n in export.graph.node if n.op_type in kinds and not n.domain]
    if not found:
        return False
    node = export.rng.choice(found)
    inputs, outputs = [f"in{i}" for i in range(len(node.input))], ["out"]
    inner = onnx.NodeProto.FromString(node.SerializeToString())
    inner.input[:], inner.output[:] = inputs, outputs
    ids = [helper.make_opsetid("", export.build.opset)]
    export.model.functions.append(
        helper.make_function("pkg.torch", f"my_{node.op_type}", inputs, outputs, [inner], ids)
    )
    node.op_type, node.domain = f"my_{node.op_type}", "pkg.torch"
    del node.attribute[:]
    export.model.opset_import.append(helper.make_opsetid("pkg.torch", 1))
    export.model.ir_version = max(export.model.ir_version, 8)
    return True


def bytes_input(export: Export) -> bool:
    """Pixels as uint8, cast within the graph."""
    value = export.graph.input[0]
    if value.type.tensor_type.elem_type != TensorProto.FLOAT or len(value.type.tensor_type.shape.dim) != 4:
        return False
    value.type.tensor_type.elem_type = TensorProto.UINT8
    export.reads(value.name, f"{value.name}_float")
    export.insert(0, helper.make_node("Cast", [value.name], [f"{value.name}_float"], to=TensorProto.FLOAT))
    export.ordinary = False
    return True


def unused_nodes(export: Export) -> None:
    """Work that nobody reads: a mask, the indices of a pool, a branch that was cut off."""
    name = export.graph.input[0].name
    rank = len(export.graph.input[0].type.tensor_type.shape.dim)
    kind = export.rng.choice(["Shape", "Relu", "Conv", "initializer"])
    if kind == "Conv" and rank == 4 and export.weights():
        layers = [n for n in export.graph.node if n.op_type == "Conv" and n.input[0] in export.shapes]
        if layers:
            copy = export.graph.node.add()
            copy.CopyFrom(export.rng.choice(layers))
            copy.output[0], copy.name = "cut_off", "cut_off"
            return
    if kind == "initializer":
        export.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4, 3, 3), np.float32), "left_over"))
        return
    export.graph.node.append(helper.make_node("Shape", [name], ["nobody"], name="nobody"))


def more_outputs(export: Export) -> bool:
    """An inner tensor as an output, too."""
    known = [n for node in export.graph.node for n in node.output if n in export.shapes and node.op_type == "Conv"]
    stated = {v.name for v in export.graph.output}
    known = [n for n in known if n not in stated]
    if not known or export.build.varying:
        return False
    name = export.rng.choice(known)
    dims = [None] * len(export.shapes[name]) if export.rng.random() < 0.8 else None
    export.graph.output.append(helper.make_tensor_value_info(name, export.floats, dims))
    return True


def identities(export: Export) -> None:
    """Chains of Identity, and Dropout of a network that is never trained again."""
    for _ in range(export.rng.choice([1, 3])):
        at = export.rng.randrange(len(export.graph.node))
        node = export.graph.node[at]
        if not node.input or not node.input[0] or node.op_type == "Constant" or node.domain:
            continue
        source = node.input[0]
        for _ in range(export.rng.choice([1, 1, 3])):
            export.build.count += 1
            name = f"same_{export.build.count}"
            floats = source in export.shapes and len(export.shapes[source]) > 1
            dropped = floats and export.rng.random() < 0.4 and not export.build.varying
            export.insert(at, helper.make_node("Dropout" if dropped else "Identity", [source], [name], name=name))
            at, source = at + 1, name
        export.graph.node[at].input[0] = source


def texts(export: Export) -> None:
    """Doc strings, metadata, and where things came from."""
    export.model.doc_string = export.graph.doc_string = "exported [bold]by hand[/bold]\n" * 3
    export.model.producer_name, export.model.producer_version = "pytorch", "2.1.0"
    export.model.metadata_props.add(key="names", value="{0: 'person', 1: 'bicycle'}")
    export.model.metadata_props.add(key="stride", value="32")
    for node in export.graph.node:
        node.doc_string = "train.py(12): forward"
    for value in (*export.graph.input, *export.graph.output):
        value.doc_string = "é\u202e"


def unused_imports(export: Export) -> None:
    for domain in ("ai.onnx.ml", "com.microsoft", "org.pytorch.aten", "ai.onnx.training")[: export.rng.choice([1, 4])]:
        export.model.opset_import.append(helper.make_opsetid(domain, 1))


def open_dims(export: Export) -> None:
    """A batch, or sizes, by name; sizes then have to be given."""
    batch, sides = export.rng.choice(DIMS), export.rng.random() < 0.3
    for value in export.graph.input:
        if any(t.name == value.name for t in export.graph.initializer):
            continue
        dims = value.type.tensor_type.shape.dim
        given = [dim.dim_value for dim in dims]
        dims[0].dim_param = batch
        if sides and len(given) > 2:
            dims[-1].dim_param = export.rng.choice(["width", "", "W*8"])
            export.input_shapes.append(f"{value.name}:{'x'.join(map(str, given))}")
    bare = export.rng.random() < 0.3
    for value in export.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_value")
        if bare:
            value.type.tensor_type.ClearField("shape")
    del export.graph.value_info[:]


def empty_inputs(export: Export) -> None:
    """Optional inputs that are left out, said so."""
    for node in export.graph.node:
        if node.op_type == "Conv" and len(node.input) == 2 and not node.domain:
            node.input.append("")


def aliased_output(export: Export) -> None:
    """The output is an Identity of what is known by another name inside."""
    name = export.graph.output[0].name
    export.renames(name, f"{name}_inside")
    export.graph.node.append(helper.make_node("Identity", [f"{name}_inside"], [name], name="the_output"))


HABITS: list[Callable[[Export], bool | None]] = [
    *(stale_shapes, true_shapes, names_twice, names_empty, odd_tensor_names, initializers_as_inputs, local_function),
    *(half_precision, half_precision, bytes_input, unused_nodes, more_outputs, identities, constants),
    *(computed_weights, texts, unused_imports, open_dims, open_dims, typed_fields, empty_inputs, aliased_output),
    quantized_before,
]
