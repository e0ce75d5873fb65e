"""What is written into a file about its making, and what it tells of a file that it is compared with."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping

import msgspec
import numpy as np
import onnx

from dfmpc_onnx import catalog
from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.inputs.files import digest
from dfmpc_onnx.inputs.normalization import PreprocessChoice
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.model.metadata import metadata_of
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.pipeline.deadline import Deadline
from dfmpc_onnx.pipeline.manager import PassResult
from dfmpc_onnx.pipeline.recipe import Recipe, Step, recorded_steps, to_record
from dfmpc_onnx.pipeline.settings import Settings
from dfmpc_onnx.qdq.kernel_pairs import LIMITED_OUTPUTS
from dfmpc_onnx.runtime.session import version as runtime_version


def version() -> str:
    """The installed version of this package."""
    try:
        return importlib.metadata.version("dfmpc-onnx")
    except importlib.metadata.PackageNotFoundError:
        return "unknown (not installed)"


def _statistics(inputs: InputSpecs) -> str:
    """What statistics came from."""
    if inputs.learned is not None:
        return f"learned images ({inputs.learned.objective})"
    return "the user's images" if inputs.images else "none of the user's"


def provenance(
    source: Source,
    recipe: Recipe,
    settings: Settings,
    inputs: InputSpecs,
    choice: PreprocessChoice,
    results: tuple[PassResult, ...],
    deadline: Deadline,
) -> dict[str, str]:
    """What is written into the file: enough to make it again, and for `verify` to feed it rightly.

    A value that is a list or a mapping is JSON, since names from a model may hold any character. `fallbacks`: the
    passes that could not go on, each with those that ran in its place. `pair_sums`: where no two products leave 16
    bits, how many layers have other codes for that. `max_seconds`, `cut_short`: where a limit on
    the time has cut anything short before the closing check, and what, in words.
    """
    versions = {"onnx": onnx.__version__, "onnxruntime": runtime_version(), "numpy": np.__version__}
    stated = {
        "version": version(),
        "recipe": recipe.name,
        "weights": str(settings.weights),
        "activations": settings.activations,
        "target": settings.target.name,
        "layers": _json([str(item) for item in settings.layers]),
        "preprocess": inputs.preprocess.name,
        "preprocess_choice": f"{choice.by}: {choice.reason}",
        "reduce_range": "yes" if settings.reduce_range else "no",
        "seed": str(settings.seed),
        "statistics": _statistics(inputs),
        "source_sha256": source.sha256,
        "input_shapes": _json(inputs.shapes),
        "passes": _json([to_record(step) for step in recipe.steps]),
        "versions": _json(versions),
    }
    if settings.limits_pairs:
        changed = {r.site for result in results for r in result.rewrites if LIMITED_OUTPUTS in r.figures}
        stated["pair_sums"] = str(len(changed))
    if settings.float16:
        stated["float_type"] = "float16"
    if settings.input_ranges:
        stated["input_ranges"] = _json(settings.input_ranges)
    if settings.budget.asked:
        stated["budget"] = str(settings.budget)
    if deadline.seconds is not None and deadline.cuts:  # with time enough the file is that without a limit
        stated["max_seconds"] = repr(float(deadline.seconds))
        stated["cut_short"] = "; ".join(deadline.cuts)
    if choice.unknown:
        stated["unknown_inputs"] = _json([entry.name for entry in choice.unknown])
    fallen = [{result.name: result.fallback} for result in results if result.fallback]
    if fallen:
        stated["fallbacks"] = _json(fallen)
    if inputs.images is not None:
        stated["images_sha256"] = digest(inputs.images)
    return stated


def gave_statistics(metadata: Mapping[str, str], images: str | os.PathLike[str]) -> bool:
    """Whether a quantized file's statistics came from these images. Raises OptionError where they cannot be read."""
    recorded = metadata.get("images_sha256")
    return recorded is not None and digest(images) == recorded


def recorded_recipe(source: Source) -> Recipe:
    """The recipe that a quantized file was made with, as its metadata states it, by this version's names.

    Raises ModelError where the file states none.
    """
    stated = metadata_of(source.model)
    try:
        steps = recorded_steps(stated["passes"])
        weights, activations = stated["weights"], stated["activations"]
    except (KeyError, ValueError, RecursionError):
        raise ModelError(f"{source.label}: states no recipe; it was not written by dfmpc-onnx quantize") from None
    summary = f"{stated.get('recipe', 'unnamed')}, as {source.label} was made"
    reduced = stated.get("reduce_range") == "yes"
    return Recipe(stated.get("recipe", "unnamed"), summary, weights, activations, _with_current_names(steps), reduced)


def _with_current_names(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    return tuple(
        msgspec.structs.replace(step, use=catalog.current_name(step.use), fallback=_with_current_names(step.fallback))
        for step in steps
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def origin_warnings(float_source: Source, quantized: Source, preprocess: str) -> tuple[str, ...]:
    """What is odd about a pair of files that are to be compared: the wrong way round, the same, or of another model.

    preprocess: what both are about to be fed through.
    """
    stated = metadata_of(quantized.model)
    ours = "version" in stated
    if "version" in metadata_of(float_source.model) and not ours:
        return (
            f"{float_source.label} was written by quantize and {quantized.label} was not: the float model comes first",
        )
    found = []
    if float_source.sha256 and float_source.sha256 == quantized.sha256:
        found.append("both files are the same, so nothing is compared with anything")
    made_from = stated.get("source_sha256")
    # Of a model in memory the bytes may be others than those of the same model in a file.
    if made_from and float_source.path is not None and made_from != float_source.sha256:
        found.append(
            f"{quantized.label} was made from other bytes than {float_source.label}, of SHA-256 {made_from[:12]}...; "
            "if that is another model, the comparison says nothing"
        )
    if ours and stated.get("preprocess", preprocess) != preprocess:
        found.append(f"{quantized.label} was made for preprocess {stated['preprocess']}, not {preprocess}")
    return tuple(found)
