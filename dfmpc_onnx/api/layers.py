"""What each layer loses, for the commands that compare two networks, and what to say where nothing can be measured."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.evaluation.layer_errors import LAYER_INPUTS, LayerErrors, layer_errors
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.image_stream import ImageStream
from dfmpc_onnx.inputs.samples import Samples, few_of
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.pipeline.progress import ProgressReport


def errors_of_layers(
    source: Source,
    quantized: onnx.ModelProto,
    fed: Images | Samples | ImageStream,
    not_known: str,
    tell: Callable[[int, int], None] = lambda done, of: None,
    most: int = LAYER_INPUTS,
) -> tuple[LayerErrors | None, tuple[str, ...]]:
    """The errors of the layers on a few of the inputs, or None, and what to warn of.

    source: the float model. not_known: why figures say nothing of real inputs, if so. tell: as in `layer_errors`.
    most: inputs to compare on.
    """
    if not_known:
        return None, (f"layers not compared: {not_known}",)
    try:
        found = layer_errors(source.model, quantized, few_of(fed, most), source.label, tell)
    except ModelError as error:
        return None, (f"layers not compared: {error}",)
    return found, (found.note,) if found.note else ()


def layer_progress(progress: ProgressReport | None) -> Callable[[int, int], None]:
    """What a comparison of layers calls, as the user's own function takes it."""

    def tell(done: int, of: int) -> None:
        if progress is not None:
            progress(done, of, f"layers: {done} of {of} inputs")

    return tell
