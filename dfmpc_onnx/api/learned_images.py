"""Learned images among what `quantize` is given: whether they fit the model and its preprocess."""

from __future__ import annotations

import os

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.inputs.learned_file import learned_record
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.model.source import Source


def preprocess_of_images(preprocess: str, images: str | os.PathLike[str] | None) -> str:
    """The preprocess to take where the user left it open: the one that the images were learned for, if it was given."""
    found = learned_record(images) if preprocess == AUTO else None
    return found.preprocess if found is not None and found.preprocess_by == "given" else preprocess


def check_learned(inputs: InputSpecs) -> None:
    """Raise OptionError where images were learned for another preprocess than the network is fed through."""
    if inputs.learned is None:
        return
    wanted, taken = inputs.learned.preprocess, inputs.image_input().preprocess.name
    if wanted != taken:
        raise OptionError(
            f"{shown(str(inputs.images))}: its images were learned for preprocess {shown(wanted)}, and the network is "
            f"fed through {shown(taken)}; give --preprocess {shown(wanted)}, or learn them again"
        )


def of_another_model(source: Source, inputs: InputSpecs) -> tuple[str, ...]:
    """What to warn of where images were learned from another model than the one that is quantized."""
    learned = inputs.learned
    if learned is None or learned.model_sha256 in ("", source.sha256):
        return ()
    return (f"{shown(str(inputs.images))}: its images were learned from another model than {source.label}",)
