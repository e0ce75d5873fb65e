"""What to say where a quantized file is larger than the model that it was made from."""

from __future__ import annotations

import onnx

from dfmpc_onnx.model.protos import op_of
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.pipeline.settings import Settings

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def larger_than_its_source(source: Source, result: onnx.ModelProto, size: int, settings: Settings) -> tuple[str, ...]:
    """One line where the result takes more bytes than the model; nothing elsewhere. size: bytes of the result."""
    if size <= source.size:
        return ()
    larger = f"the file takes {size} bytes, {size - source.size} more than the float model"
    quantizers = sum(node.ByteSize() for node in result.graph.node if op_of(node) in QUANTIZERS)
    if settings.activations == "none" or not quantizers:
        return (f"{larger}: its weights are too small for codes to save what nodes cost; the float model is as good",)
    return (
        f"{larger}: the nodes that quantize activations and decode weights take {quantizers}; --activations none leaves"
        " most of them out",
    )
