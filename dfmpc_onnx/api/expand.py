"""expand(): the plain-int8 form of a quantized file."""

from __future__ import annotations

import dataclasses

import onnx

from dfmpc_onnx.api.boundary import Path, public
from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.model.metadata import METADATA_PREFIX, metadata_of
from dfmpc_onnx.model.protos import standard_opset
from dfmpc_onnx.model.resource_limits import check_claims
from dfmpc_onnx.model.source import ModelSource, load, size_of
from dfmpc_onnx.model.write import check_target, save
from dfmpc_onnx.qdq.activation_grids import rounds_to_4_bits
from dfmpc_onnx.qdq.code_formats import PLAIN, oldest_runtime
from dfmpc_onnx.qdq.expansion import expand as unpacked
from dfmpc_onnx.report.schema import Expansion


@dataclasses.dataclass(frozen=True)
class Expanded:
    """A quantized model with its weights unpacked, and the report on it."""

    model: onnx.ModelProto
    report: Expansion


@public
def expand(model: ModelSource, output: Path | None = None, *, force: bool = False) -> Expanded:
    """The plain-int8 form of a file that `quantize` wrote, for tools that parse ONNX themselves.

    Every packed weight becomes an INT8 initializer with a DequantizeLinear, of the same values bit for bit; opset and
    IR version become the lowest that the rest needs. output: where to write it, whole or not at all; None to get it
    in memory only. force: whether a file that is no ONNX model may be written over. Needs no onnxruntime. Raises
    ModelError for a file of other origin or with nothing packed.
    """
    source = load(model)
    target = None if output is None else check_target(output, source, force=force)
    check_claims(source.model, {}, source.label)
    stated = metadata_of(source.model)
    if "version" not in stated:
        raise ModelError(f"{source.label}: was not written by dfmpc-onnx quantize; there is nothing to expand")
    done = unpacked(source.model, source.label)
    onnx.helper.set_model_props(
        done.model,
        {p.key: p.value for p in source.model.metadata_props} | {f"{METADATA_PREFIX}expanded": "yes"},
    )
    size = size_of(done.model) if target is None else save(done.model, target, source.external)
    opset = standard_opset(done.model)
    oldest = oldest_runtime([PLAIN], opset, few_bits=rounds_to_4_bits(done.model))
    report = Expansion(done.layers, source.size, size, opset, done.model.ir_version, oldest)
    return Expanded(done.model, report)
