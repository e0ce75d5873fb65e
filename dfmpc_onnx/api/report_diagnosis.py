"""The diagnosis that a report holds, and why where there is none."""

from __future__ import annotations

from collections.abc import Callable

from dfmpc_onnx.api.diagnose import diagnose_files
from dfmpc_onnx.api.layers import errors_of_layers
from dfmpc_onnx.api.pairs import ComparedFiles
from dfmpc_onnx.api.report_page import Diagnosed
from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.evaluation.kernel_census import is_quantized
from dfmpc_onnx.evaluation.layer_errors import LAYER_INPUTS
from dfmpc_onnx.qdq.qonnx_nodes import holds_qonnx

OF_QONNX = "causes are looked for in files that onnxruntime runs, and it has no nodes of QONNX"


def diagnosis_of(
    files: ComparedFiles, right: str, images: str | None, *, blame: bool, tell: Callable[[int, int, str], None]
) -> Diagnosed:
    """Arguments are those of `diagnose_files`. Of a file that quantizes weights alone: errors, and no causes."""
    if files.not_known:
        return Diagnosed(why_not=files.not_known)
    if not is_quantized(files.source.model):
        errors, _ = errors_of_layers(files.float_source, files.runs, files.fed, "")
        why = OF_QONNX if holds_qonnx(files.source.model) else "the file quantizes weights alone"
        return Diagnosed(errors, why_not=f"{why}; the errors of the layers are listed above")
    try:
        found, _ = diagnose_files(files, LAYER_INPUTS, images, right, tell, blame=blame)
    except ModelError as error:
        return Diagnosed(why_not=str(error))
    return Diagnosed(found.layers, found)
