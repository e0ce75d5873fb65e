"""Learned images among what `quantize` is given: whether they fit the model and its preprocess."""

from __future__ import annotations

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.inputs.preprocess import AUTO, Preprocess
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.model.source import Source


def fed_as_learned(inputs: InputSpecs, preprocess: str) -> tuple[InputSpecs, str]:
    """The inputs, and the preprocess as the user wrote it: where it was left open, the one that was given when the
    images were learned."""
    found = inputs.learned if preprocess == AUTO else None
    if found is None or found.preprocess_by != "given":
        return inputs, preprocess
    return inputs.with_preprocess(Preprocess.parse(found.preprocess)), found.preprocess


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
