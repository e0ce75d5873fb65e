"""From a model file to an editable graph and back."""

from __future__ import annotations

import onnx
import onnx.external_data_helper
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.importers.onnx_importer import get_onnx_tensor_shape
from onnx_graphsurgeon.logger import G_LOGGER

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.graph.edit import detached_weights
from dfmpc_onnx.graph.operators import name_domains
from dfmpc_onnx.graph.opset import ir_version_for
from dfmpc_onnx.graph.outer_constants import hoist
from dfmpc_onnx.model.metadata import METADATA_PREFIX
from dfmpc_onnx.model.protos import STANDARD_DOMAINS
from dfmpc_onnx.model.shadowed_names import shadows, unshadowed
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.model.sparse import densify, has_sparse
from dfmpc_onnx.model.tensor_checks import ELEMENT_TYPES, UNKNOWN_TYPE

NEWEST_IR = 13

# graphsurgeon prints to standard output; what matters in its messages is said by our own errors.
G_LOGGER.severity = G_LOGGER.CRITICAL


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return shown(text[0]) if text else type(error).__name__


def to_graph(source: Source) -> gs.Graph:
    """The model as an editable graph, checked for validity against the specification.

    Weights are not copied: they are read from the source when first looked at.
    """
    where = source.label
    for value in (*source.model.graph.input, *source.model.graph.output):
        if value.type.tensor_type.elem_type not in ELEMENT_TYPES | {onnx.TensorProto.UNDEFINED}:
            raise ModelError(f"{where}: '{shown(value.name)}' is of a type that {UNKNOWN_TYPE}")
        kind = value.type.WhichOneof("value")
        if kind in ("optional_type", "map_type", "sparse_tensor_type"):
            held = kind.removesuffix("_type").replace("_", " ")
            raise ModelError(
                f"{where}: input or output '{shown(value.name)}' is of {held} type, which is not supported"
            )
    standard = {opset.version for opset in source.model.opset_import if opset.domain in STANDARD_DOMAINS}
    if len(standard) > 1:
        raise ModelError(f"{where}: declares opsets {', '.join(map(str, sorted(standard)))} at once; export it again")
    model = densify(source.model, where) if has_sparse(source.model) else source.model
    model = unshadowed(model) if shadows(model) else model
    try:
        graph = gs.import_onnx(model)
    except Exception as error:  # graphsurgeon has no error tree of its own
        raise ModelError(f"{where}: the graph cannot be read ({first_line(error)})") from None
    # One name for the standard domain, which has two.
    foreign = [opset for opset in model.opset_import if opset.domain not in STANDARD_DOMAINS]
    graph.import_domains = [*foreign, onnx.helper.make_opsetid("", graph.opset)]
    name_domains(graph)
    _state_ends(graph, source.model.graph)
    # graphsurgeon exports this number whatever it is given; IR version 3 wants initializers listed as inputs.
    graph.ir_version = min(max(graph.ir_version or 0, ir_version_for(graph.opset), 4), NEWEST_IR)
    for tensor in (*graph.inputs, *graph.outputs):
        untyped = tensor.dtype == 0 or (tensor.dtype is None and tensor.shape is None)
        if untyped and getattr(tensor, "type", "") == "tensor_type":
            raise ModelError(f"{where}: input or output '{shown(tensor.name)}' has no type; export the model again")
    for tensor in graph.inputs:
        if tensor.shape is None and getattr(tensor, "type", "") == "tensor_type":
            raise ModelError(
                f"{where}: input '{shown(tensor.name)}' has no shape; export the model with one, in which sizes may be "
                "dynamic"
            )
    check(graph, where)
    return graph


def _state_ends(graph: gs.Graph, stated: onnx.GraphProto) -> None:
    """Give inputs and outputs the types and shapes that a model states of them, not those among its inner tensors.

    Some exporters leave them there, too. Those may be stale, or know less; runtimes go by the input and output itself.
    """
    tensors = graph.tensors()
    for value in stated.output:
        kind = value.type.tensor_type
        if kind.elem_type and value.name in tensors and not isinstance(tensors[value.name], gs.Constant):
            tensors[value.name].dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if tensors[value.name].shape is None and kind.HasField("shape"):
                tensors[value.name].shape = get_onnx_tensor_shape(value)
    said_again = {value.name for value in stated.value_info}
    if _says_otherwise(stated):
        ends = {value.name for value in (*stated.input, *stated.output)}
        for name in (said_again & tensors.keys()) - ends:
            if isinstance(tensors[name], gs.Variable):
                tensors[name].shape = None
    for value in stated.input:
        if value.name in said_again and value.type.HasField("tensor_type") and value.name in tensors:
            tensors[value.name].shape = get_onnx_tensor_shape(value)


def _says_otherwise(stated: onnx.GraphProto) -> bool:
    """Whether a model gives one inner tensor two shapes: some are stale, and nothing says which."""
    shapes: dict[str, bytes] = {}
    return any(
        shapes.setdefault(value.name, shape) != shape
        for value in stated.value_info
        for shape in (value.type.tensor_type.shape.SerializeToString(deterministic=True),)
    )


def check(graph: gs.Graph, where: str) -> None:
    """Raise ModelError where the graph breaks the ONNX specification. No weights are copied for it."""
    try:
        with detached_weights(graph):
            skeleton = gs.export_onnx(graph, ir_version=graph.ir_version)
    except UnicodeDecodeError:  # protobuf reads such names, but does not let them be copied
        raise ModelError(f"{where}: not a valid ONNX model (a name in it is not UTF-8)") from None
    except Exception as error:  # graphsurgeon trips over what the checker would have named
        raise ModelError(f"{where}: not a valid ONNX model ({first_line(error)})") from None
    for value in skeleton.graph.output:
        # The checker wants a shape here, of any rank; runtimes do without one.
        if value.type.WhichOneof("value") == "tensor_type" and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(skeleton)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{where}: not a valid ONNX model ({first_line(error)})") from None


def to_model(graph: gs.Graph, source: Source | None = None, metadata: dict[str, str] | None = None) -> onnx.ModelProto:
    """The graph as a ModelProto with the lowest IR version that its opset allows, and the source's properties."""
    model: onnx.ModelProto = gs.export_onnx(graph, ir_version=NEWEST_IR)
    hoist(model)
    _restate_types(model, source)
    model.ir_version = lowest_ir_version(model)
    properties: dict[str, str] = {}
    if source is not None:
        model.domain, model.model_version = source.model.domain, source.model.model_version
        model.doc_string = source.model.doc_string
        properties = {p.key: p.value for p in source.model.metadata_props}
    properties.update({METADATA_PREFIX + key: value for key, value in (metadata or {}).items()})
    if properties:
        onnx.helper.set_model_props(model, properties)
    return model


def _restate_types(model: onnx.ModelProto, source: Source | None) -> None:
    """Give outputs whose type graphsurgeon does not know, as a sequence of maps, that of the source; else none."""
    stated = {} if source is None else {value.name: value.type for value in source.model.graph.output}
    for value in model.graph.output:
        held = value.type.sequence_type.elem_type
        if value.type.HasField("sequence_type") and not held.tensor_type.elem_type:
            value.ClearField("type")
            if value.name in stated:
                value.type.CopyFrom(stated[value.name])


def lowest_ir_version(model: onnx.ModelProto) -> int:
    """The lowest IR version that has what a model uses, but not below 4: before, initializers had to be inputs."""
    overloaded = any(function.overload for function in model.functions)
    needed: int = onnx.helper.find_min_ir_version_for(model.opset_import, True)
    return max(needed, 4, 10 if overloaded else 8 if model.functions else 0)
