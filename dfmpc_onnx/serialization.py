"""Models in and out: read from a path, bytes or a ModelProto; written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Callable

import onnx
import onnx.external_data_helper
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError, EncodeError
from onnx_graphsurgeon.logger import G_LOGGER

from dfmpc_onnx.claims import check_functions, check_variadic, check_windows
from dfmpc_onnx.errors import ModelError, OptionError
from dfmpc_onnx.external_data import external_tensors, read_external
from dfmpc_onnx.graph import detached_weights, ir_version_for, nested_nodes, shown
from dfmpc_onnx.sparse import densified, has_sparse
from dfmpc_onnx.tensors import TYPES, UNKNOWN_TYPE, all_tensors, check_data, check_sparse, check_tensor, sparse_tensors

ModelSource = str | os.PathLike[str] | bytes | onnx.ModelProto
PROTOBUF_LIMIT = 2**31  # bytes that protobuf reads less than
EXTERNAL_LIMIT = PROTOBUF_LIMIT - 2**20
NEWEST_OPSET = 26  # of the standard domain, that onnxruntime 1.31 runs
NEWEST_IR = 13
METADATA_PREFIX = "dfmpc_onnx."
STANDARD = ("", "ai.onnx")

# graphsurgeon prints to standard output; what matters in its messages is said by our own errors.
G_LOGGER.severity = G_LOGGER.CRITICAL


@dataclasses.dataclass(frozen=True)
class Source:
    """A model as read, with what is known of where it came from."""

    model: onnx.ModelProto
    path: pathlib.Path | None
    size: int
    sha256: str
    external: bool
    data_files: tuple[pathlib.Path, ...] = ()

    @property
    def label(self) -> str:
        return shown(str(self.path)) if self.path else "the given model"


def load(source: ModelSource) -> Source:
    """Read a model, external data included.

    Raises ModelError where the file is missing, is not ONNX, is cut short, lacks its external data, or is of a
    newer opset than onnxruntime runs. The source is never written to.
    """
    if isinstance(source, onnx.ModelProto):
        if external_tensors(source):
            raise ModelError("the given model: weights lie in external files; give the model's path instead")
        size = size_of(source)
        content = source.SerializeToString(deterministic=True) if size < EXTERNAL_LIMIT else b""
        digest = hashlib.sha256(content).hexdigest() if content else ""
        return _checked(Source(source, None, size, digest, external=False))
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        model = _parse(data, "the given bytes")
        if external_tensors(model):
            raise ModelError("the given bytes: weights lie in external files; give the model's path instead")
        return _checked(Source(model, None, len(data), hashlib.sha256(data).hexdigest(), external=False))
    path = pathlib.Path(source)
    where = shown(str(path))
    try:
        if path.stat().st_size >= PROTOBUF_LIMIT:
            raise ModelError(f"{where}: no ONNX file is larger than 2 GiB; keep the weights in a file beside it")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{where}: no such file") from None
    except IsADirectoryError:
        raise ModelError(f"{where}: is a folder; give the path of an .onnx file") from None
    except ValueError:
        raise ModelError(f"{where}: no file has such a name") from None
    except OSError as error:
        raise ModelError(f"{where}: cannot be read ({error.strerror})") from None
    model = _parse(data, where)
    hasher = hashlib.sha256(data)
    external = external_tensors(model)
    files = read_external(model, external, path.parent, where, hasher) if external else ()
    size = len(data) + sum(file.stat().st_size for file in files)
    return _checked(Source(model, path, size, hasher.hexdigest(), bool(external), files))


def size_of(model: onnx.ModelProto) -> int:
    """Bytes of a model as one file; those of its weights where no file can hold it, since protobuf ends at 2 GiB."""
    try:
        return int(model.ByteSize())
    except EncodeError:
        return sum(len(t.raw_data) for t in all_tensors(model))


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{where}: not an ONNX model, or cut short; export or copy it again") from None
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{where}: not an ONNX model (it declares no graph or no opset)")
    return model


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return shown(text[0]) if text else type(error).__name__


def _checked(source: Source) -> Source:
    """Refuse what neither this package nor onnxruntime can work with."""
    where = source.label
    for opset in source.model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > NEWEST_OPSET:
            raise ModelError(
                f"{where}: opset {opset.version} is newer than onnxruntime runs ({NEWEST_OPSET}); "
                f"export it with opset {NEWEST_OPSET} or lower"
            )
        if opset.domain in ("", "ai.onnx") and opset.version < 1:
            raise ModelError(f"{where}: opset {opset.version} is none; the file is damaged, or was written wrongly")
    check_functions(source.model, where)
    check_windows(source.model, where)
    check_variadic(source.model, where)
    for tensor in all_tensors(source.model):
        check_tensor(tensor, where)
        check_data(tensor, where)
    for sparse in sparse_tensors(source.model):
        check_sparse(sparse, where)
    if not source.model.graph.node:
        raise ModelError(f"{where}: the graph has no nodes; nothing to quantize")
    return source


def to_graph(source: Source) -> gs.Graph:
    """The model as an editable graph, checked for validity against the specification.

    Weights are not copied: they are read from the source when first looked at.
    """
    where = source.label
    for value in (*source.model.graph.input, *source.model.graph.output):
        if value.type.tensor_type.elem_type not in TYPES | {onnx.TensorProto.UNDEFINED}:
            raise ModelError(f"{where}: '{shown(value.name)}' is of a type that {UNKNOWN_TYPE}")
        kind = value.type.WhichOneof("value")
        if kind in ("optional_type", "map_type", "sparse_tensor_type"):
            held = kind.removesuffix("_type").replace("_", " ")
            raise ModelError(
                f"{where}: input or output '{shown(value.name)}' is of {held} type, which is not supported"
            )
    standard = {opset.version for opset in source.model.opset_import if opset.domain in STANDARD}
    if len(standard) > 1:
        raise ModelError(f"{where}: declares opsets {', '.join(map(str, sorted(standard)))} at once; export it again")
    model = densified(source.model, where) if has_sparse(source.model) else source.model
    try:
        graph = gs.import_onnx(model)
    except Exception as error:  # graphsurgeon has no error tree of its own
        raise ModelError(f"{where}: the graph cannot be read ({_first_line(error)})") from None
    # One name for the standard domain, which has two.
    foreign = [opset for opset in model.opset_import if opset.domain not in STANDARD]
    graph.import_domains = [*foreign, onnx.helper.make_opsetid("", graph.opset)]
    for node in (*graph.nodes, *(inner for _, _, inner in nested_nodes(graph))):
        node.domain = None if node.domain in STANDARD else node.domain
    tensors = graph.tensors()
    for value in source.model.graph.output:
        # What a model states of an output twice, as some exporters leave behind, counts as said of the output.
        stated = value.type.tensor_type.elem_type
        if stated and value.name in tensors and not isinstance(tensors[value.name], gs.Constant):
            tensors[value.name].dtype = onnx.helper.tensor_dtype_to_np_dtype(stated)
    # graphsurgeon exports this number whatever it is told; IR version 3 wants initializers listed as inputs.
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


def check(graph: gs.Graph, where: str) -> None:
    """Raise ModelError where the graph breaks the ONNX specification. No weights are copied for it."""
    try:
        with detached_weights(graph):
            skeleton = gs.export_onnx(graph, ir_version=graph.ir_version)
    except UnicodeDecodeError:  # protobuf reads such names, but does not let them be copied
        raise ModelError(f"{where}: not a valid ONNX model (a name in it is not UTF-8)") from None
    except Exception as error:  # graphsurgeon trips over what the checker would have named
        raise ModelError(f"{where}: not a valid ONNX model ({_first_line(error)})") from None
    for value in skeleton.graph.output:
        # The checker wants a shape here, of any rank; runtimes do without one.
        if value.type.WhichOneof("value") == "tensor_type" and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(skeleton)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{where}: not a valid ONNX model ({_first_line(error)})") from None


def to_model(graph: gs.Graph, source: Source | None = None, metadata: dict[str, str] | None = None) -> onnx.ModelProto:
    """The graph as a ModelProto with the lowest IR version that its opset allows, and the source's properties."""
    model: onnx.ModelProto = gs.export_onnx(graph, ir_version=NEWEST_IR)
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


def lowest_ir_version(model: onnx.ModelProto) -> int:
    """The lowest IR version that has what a model uses, but not below 4: before, initializers had to be inputs."""
    overloaded = any(function.overload for function in model.functions)
    needed: int = onnx.helper.find_min_ir_version_for(model.opset_import, True)
    return max(needed, 4, 10 if overloaded else 8 if model.functions else 0)


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """What `quantize` wrote into a file about its making; empty for a file of another origin."""
    props = {p.key: p.value for p in model.metadata_props}
    return {k.removeprefix(METADATA_PREFIX): v for k, v in props.items() if k.startswith(METADATA_PREFIX)}


def check_target(output: str | os.PathLike[str], source: Source | None) -> pathlib.Path:
    """The output path, refused where writing there is impossible or would destroy the input."""
    path = pathlib.Path(output)
    where = shown(str(path))
    if "\0" in str(path):
        raise OptionError(f"{where}: no file has such a name")
    if path.is_dir():
        raise OptionError(f"{where}: is a folder; give a file name")
    if path.exists() and not path.is_file():  # a rename would put a file in its place
        raise OptionError(f"{where}: is a device or a pipe; give the name of a file")
    if not path.parent.is_dir():
        raise OptionError(f"{where}: folder '{shown(str(path.parent))}' does not exist; make it first")
    if (
        source is not None
        and source.path is not None
        and path.exists()
        and any(map(path.samefile, (source.path, *source.data_files)))
    ):
        raise OptionError(f"{where}: is the input itself; choose another output")
    if not os.access(path.parent, os.W_OK):
        raise OptionError(f"{where}: folder '{shown(str(path.parent))}' cannot be written to")
    return path


def save(
    model: onnx.ModelProto,
    path: pathlib.Path,
    external: bool,
    check: Callable[[pathlib.Path], None] = lambda staged: None,
) -> int:
    """Write a model under its name at once, by a temporary file in the same folder and a rename.

    external: whether weights go to a file of their own beside it. That file's name carries a digest of its
    content, so that a model that stands under the old name keeps the weights it was written with. check: called
    with the temporary file, which can be loaded from where it is; where it raises, the folder stays as it was.
    Returns the bytes written. Raises OptionError where the disk refuses.
    """
    external = external or size_of(model) >= EXTERNAL_LIMIT
    renames: list[tuple[pathlib.Path, pathlib.Path]] = []
    written = 0
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}.", dir=path.parent) as scratch:
            staged = pathlib.Path(scratch) / path.name
            if external:
                renames.extend(_stage_external(model, staged, path))
            with staged.open("wb") as stream:
                stream.write(model.SerializeToString(deterministic=True))
                stream.flush()
                os.fsync(stream.fileno())
            check(staged)
            # The weights first: the model that names them appears last, and with it the whole.
            renames.append((staged, path))
            fresh = [target for _, target in renames[:-1] if not target.exists()]
            written = sum(source.stat().st_size for source, _ in renames)
            try:
                for source, target in renames:
                    source.chmod(0o666 & ~_umask())
                    source.replace(target)
            except OSError:
                for target in fresh:
                    target.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise OptionError(f"{shown(str(path))}: cannot be written ({error.strerror})") from None
    if external:
        onnx.load_external_data_for_model(model, str(path.parent))
    return written


def _stage_external(
    model: onnx.ModelProto, staged: pathlib.Path, path: pathlib.Path
) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Write the weights beside the staged model; returns the file and the name that it is to get."""
    onnx.convert_model_to_external_data(model, True, "weights", size_threshold=DATA_THRESHOLD)
    onnx.external_data_helper.write_external_data_tensors(model, str(staged.parent))
    data = staged.parent / "weights"
    if not data.exists():
        return []
    with data.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
        os.fsync(stream.fileno())
    name = f"{path.name}.{digest}.data"
    for tensor in external_tensors(model):
        next(entry for entry in tensor.external_data if entry.key == "location").value = name
    return [(data.rename(data.with_name(name)), path.parent / name)]


DATA_THRESHOLD = 1024


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
