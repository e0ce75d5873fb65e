"""What `quantize` writes into a file about its making."""

from __future__ import annotations

import onnx
import onnx.external_data_helper

METADATA_PREFIX = "dfmpc_onnx."


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """What `quantize` wrote into a file about its making; empty for a file of another origin."""
    props = {p.key: p.value for p in model.metadata_props}
    return {k.removeprefix(METADATA_PREFIX): v for k, v in props.items() if k.startswith(METADATA_PREFIX)}
