"""Models read from a path, bytes or a ModelProto, and refused where nothing can work with them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib

import onnx
import onnx.external_data_helper
from google.protobuf.message import DecodeError, EncodeError

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.model.external_data import external_tensors, read_external
from dfmpc_onnx.model.malformed import check_depth, check_functions, check_variadic, check_windows
from dfmpc_onnx.model.plain_files import is_utf8, why_unreadable
from dfmpc_onnx.model.protos import STANDARD_DOMAINS, all_tensors, sparse_tensors
from dfmpc_onnx.model.tensor_checks import check_data, check_sparse, check_tensor

ModelSource = str | os.PathLike[str] | bytes | onnx.ModelProto
PROTOBUF_LIMIT = 2**31  # bytes that protobuf reads less than
EXTERNAL_LIMIT = PROTOBUF_LIMIT - 2**20
NEWEST_OPSET = 26  # of the standard domain, that onnxruntime 1.31 runs


@dataclasses.dataclass(frozen=True)
class Source:
    """A model as read, with what is known of where it came from.

    size: bytes of the file and of what its tensors take in the files beside it.
    """

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
        return _check(Source(source, None, size, digest, external=False))
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        model = _parse(data, "the given bytes")
        if external_tensors(model):
            raise ModelError("the given bytes: weights lie in external files; give the model's path instead")
        return _check(Source(model, None, len(data), hashlib.sha256(data).hexdigest(), external=False))
    path = pathlib.Path(source)
    where = shown(str(path))
    reason = why_unreadable(path)
    if reason is not None:
        wanted = "; give the path of an .onnx file" if reason.startswith("is a") else ""
        raise ModelError(f"{where}: {reason}{wanted}")
    if not is_utf8(path):
        raise ModelError(f"{where}: its name is not UTF-8, which onnxruntime cannot open; rename it")
    try:
        if path.stat().st_size >= PROTOBUF_LIMIT:
            raise ModelError(f"{where}: no ONNX file is larger than 2 GiB; keep the weights in a file beside it")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{where}: cannot be read ({error.strerror})") from None
    model = _parse(data, where)
    hasher = hashlib.sha256(data)
    external = external_tensors(model)
    files, read = read_external(model, external, path, where, hasher) if external else ((), 0)
    return _check(Source(model, path, len(data) + read, hasher.hexdigest(), bool(external), files))


def may_be_replaced(path: pathlib.Path) -> bool:
    """Whether a file is empty or an ONNX model, its weights aside: nothing that somebody keeps for something else."""
    try:
        data = path.read_bytes() if path.stat().st_size < PROTOBUF_LIMIT else b""
        return not data or bool(_parse(data, "").graph)
    except (OSError, ModelError):
        return False


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
    except DecodeError as error:
        if "MaxDepth" in str(error):
            raise ModelError(f"{where}: nested more deeply than protobuf reads (100 levels); refused") from None
        raise ModelError(f"{where}: not an ONNX model, or cut short; export or copy it again") from None
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{where}: not an ONNX model (it declares no graph or no opset); export or copy it again")
    return model


def _check_text(model: onnx.ModelProto, where: str) -> None:
    """Raise ModelError where what a model says of itself is not UTF-8: protobuf gives bytes, but takes none."""
    try:
        texts: list[object] = [model.domain, model.producer_name, model.producer_version, model.doc_string]
        texts += [text for entry in model.metadata_props for text in (entry.key, entry.value)]
        texts += [opset.domain for opset in model.opset_import]
    except UnicodeDecodeError:
        texts = [None]
    if not all(isinstance(text, str) for text in texts):
        raise ModelError(f"{where}: not a valid ONNX model (a name or text in it is not UTF-8)")


def _check(source: Source) -> Source:
    """Refuse what neither this package nor onnxruntime can work with."""
    where = source.label
    _check_text(source.model, where)
    for opset in source.model.opset_import:
        if opset.domain in STANDARD_DOMAINS and opset.version > NEWEST_OPSET:
            raise ModelError(
                f"{where}: opset {opset.version} is newer than onnxruntime runs ({NEWEST_OPSET}); "
                f"export it with opset {NEWEST_OPSET} or lower"
            )
        if opset.domain in STANDARD_DOMAINS and opset.version < 1:
            raise ModelError(f"{where}: opset {opset.version} is none; the file is damaged, or was written wrongly")
    check_depth(source.model, where)
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
