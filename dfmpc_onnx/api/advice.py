"""Advice that was tried: the file made again with a change, measured on the inputs of the diagnosis."""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
import onnx

from dfmpc_onnx import catalog
from dfmpc_onnx.api.command_again import command_again
from dfmpc_onnx.api.made_again import OptionsAgain, options_again, recorded_layers
from dfmpc_onnx.api.pairs import ComparedFiles, shapes_as_made
from dfmpc_onnx.api.provenance import gave_statistics, recorded_recipe
from dfmpc_onnx.api.quantize import quantize
from dfmpc_onnx.api.reference import output_kinds
from dfmpc_onnx.errors import ModelError, RecipeError, UserError
from dfmpc_onnx.evaluation.diagnosis.schema import BADLY_FIT, BROKEN, LEAST_HELP_DB, Advice, Diagnosis, Suspect
from dfmpc_onnx.evaluation.fidelity import compare
from dfmpc_onnx.model.metadata import metadata_of
from dfmpc_onnx.model.source import size_of
from dfmpc_onnx.pipeline.facts import FloatActivations
from dfmpc_onnx.pipeline.recipe import Recipe, Step
from dfmpc_onnx.pipeline.settings import LayerOverride
from dfmpc_onnx.qdq.decode_chains import DecodeChains
from dfmpc_onnx.qdq.stored_bits import nearest_width, stored_layers
from dfmpc_onnx.runtime.session import Session

MOST_LAYERS = 3  # that get more bits together
WIDE_BITS = 8
TERNARY_LEVELS = 3
WIDE_LEVELS = 128  # more values than these take 8 bits
SEVERE_DB = 10.0  # SQNR below which a file may be damaged in any way
SEVERE_GAIN_DB = 6.0  # of one thing restored, from which it may be damaged: half of the error's size
SAME_DB = 0.1


@dataclasses.dataclass(frozen=True)
class Trial:
    """A change to try. text: what it is; layers, preprocess, activations: as in `Advice`."""

    text: str
    layers: tuple[str, ...] = ()
    preprocess: str = ""
    activations: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Tried:
    """Advice, and the model that it gives."""

    advice: Advice
    model: onnx.ModelProto


class Trials:
    """Makes a file again as it was made, with changes. images: the user's, where there are any."""

    def __init__(self, files: ComparedFiles, images: str | None) -> None:
        self._files, self._images = files, images
        self.why_not = self._why_not()
        self._before: float | None = None

    def _why_not(self) -> str:
        """Why nothing can be tried; "" where it can."""
        try:
            recorded_recipe(self._files.source)
        except ModelError:
            return (
                "it was not written by dfmpc-onnx quantize, so no change of it can be tried; quantize the float model "
                "for a file of ours to compare with"
            )
        metadata = self._files.metadata
        if "budget" in metadata:
            return (
                f"it was made under a budget ({metadata['budget']}), under which more bits here are fewer elsewhere; "
                "give the budget more, or plan anew"
            )
        own = metadata.get("images_sha256")
        if own and (self._images is None or not gave_statistics(metadata, self._images)):
            return "its statistics came from images of yours; give the same ones with --images to try a change"
        return ""

    def run(self, trials: Sequence[Trial], tell: Callable[[int, int], None]) -> list[Tried]:
        """The trials that could be made, the one that helps most first."""
        found = []
        for number, trial in enumerate(trials):
            tell(number, len(trials))
            try:
                found.append(self._try(trial))
            except UserError:  # what cannot be made is no advice
                continue
        found.sort(key=lambda tried: (-round(tried.advice.after_db, 1), tried.advice.bytes))
        return found

    def _try(self, trial: Trial) -> Tried:
        model = self._make(trial)
        if self._before is None:
            self._before = self._sqnr(self._files.source.model)
        grown = size_of(model) - size_of(self._files.source.model)
        after, command = self._sqnr(model), "" if trial.activations else self._command(trial)
        advice = Advice(
            trial.text, self._before, after, grown, trial.layers, trial.preprocess, trial.activations, command
        )
        return Tried(advice, model)

    def _make(self, trial: Trial) -> onnx.ModelProto:
        """The file as it was made, but for the change."""
        files = self._files
        recipe = keeping(recorded_recipe(files.source), trial.activations)
        given = files.float_source.path or files.float_source.model
        made = quantize(given, None, recipe, layers=self._layers(trial), check=False, **self._options(trial))
        return made.model

    def _layers(self, trial: Trial) -> list[str]:
        """Overrides, of which the last that matches counts."""
        metadata, model = self._files.metadata, self._files.source.model
        return [*stored_widths(model), *recorded_layers(metadata), *trial.layers]

    def _options(self, trial: Trial) -> OptionsAgain:
        files = self._files
        free = dataclasses.replace(files.settings, input_shapes={})
        shapes = shapes_as_made(files.float_source, files.metadata, free) or files.settings.input_shapes
        return options_again(files.metadata, shapes, self._images, trial.preprocess)

    def _command(self, trial: Trial) -> str:
        path, recipe = self._files.float_source.path, recorded_recipe(self._files.source)
        if path is None:
            return ""
        names = [layer.name for layer in stored_layers(self._files.source.model)]
        return command_again(path, recipe, self._layers(trial), names, self._options(trial))

    def _sqnr(self, model: onnx.ModelProto) -> float:
        files = self._files
        session = Session(model, label="the changed file")
        return compare(files.reference, session, files.fed, *output_kinds(files.float_source.model)).sqnr_db


def stored_widths(model: onnx.ModelProto) -> Iterator[str]:
    """The width that each layer of a file of ours has, as overrides: a change shall change nothing else.

    Few weights of few bits may stand there in whole bytes, which says nothing of their width.
    """
    chains = DecodeChains(model.graph)
    for node in model.graph.node:
        chain = chains.of_layer(node)
        if chain is None:
            continue
        levels = int(np.unique(chain.codes()).size)
        if levels <= TERNARY_LEVELS:
            yield f"{glob.escape(node.name)}=ternary"
        elif not chain.plain:
            bits = chain.stored_bits / max(math.prod(chain.shape), 1)
            yield f"{glob.escape(node.name)}={nearest_width(bits):g}"
        elif levels > WIDE_LEVELS:
            yield f"{glob.escape(node.name)}={WIDE_BITS}"


def worth_their_bytes(found: Sequence[Tried]) -> list[Tried]:
    """Those that no other gives as much as for less, but for a tenth of a decibel; in their order."""
    return [
        one
        for one in found
        if not any(
            other.advice.bytes < one.advice.bytes and other.advice.after_db >= one.advice.after_db - SAME_DB
            for other in found
        )
    ]


def trials_for(found: Diagnosis, quantized: onnx.ModelProto, right_preprocess: str) -> list[Trial]:
    """What to try. right_preprocess: what the float model's own parameters tell, where the file states another."""
    if right_preprocess:
        return [Trial(f"make it again with --preprocess {right_preprocess}", (), right_preprocess)]
    again = Trial("make it again from the float model, with the settings that it records")
    culprit = found.culprit
    if culprit is not None and culprit.cause is not None and culprit.cause.code != "too-few-bits":
        broken = culprit.cause.code in BROKEN | BADLY_FIT
        if broken:
            return [again]
    severe = found.sqnr_db < SEVERE_DB or any((s.gain_db or 0.0) > SEVERE_GAIN_DB for s in found.suspects)
    first = [again] if severe and not found.little else []
    return [*first, *_more_bits(found.suspects, quantized), *_float_activation(found.suspects)]


def _more_bits(suspects: Sequence[Suspect], quantized: onnx.ModelProto) -> Iterator[Trial]:
    """Eight bits for the first, the first two and the first three of the layers that have fewer."""
    narrow = narrow_layers(quantized)
    wanted = [s.layer for s in suspects if s.kind == "weights" and s.layer in narrow and (s.gain or 0.0) > 0]
    for count in range(1, min(MOST_LAYERS, len(wanted)) + 1):
        names = wanted[:count]
        these = "this layer" if count == 1 else f"these {count} layers"
        layers = tuple(f"{glob.escape(name)}={WIDE_BITS}" for name in names)
        yield Trial(f"give {these} {WIDE_BITS} bits: {', '.join(names)}", layers)


def _float_activation(suspects: Sequence[Suspect]) -> Iterator[Trial]:
    """The one activation in float whose rounding costs most, where that is worth it."""
    for suspect in suspects:
        if suspect.kind == "activation" and (suspect.gain_db or 0.0) >= LEAST_HELP_DB:
            what = "the input" if suspect.layer == suspect.tensor else f"the output of {suspect.layer}"
            yield Trial(f"keep {what} in float, which costs time", activations=(suspect.tensor,))
            return


def keeping(recipe: Recipe, tensors: Sequence[str]) -> Recipe:
    """The recipe with some activations in float, beside those that it leaves there already.

    Raises RecipeError where it has no pass for that.
    """
    if not tensors:
        return recipe
    keepers = {kind.name for kind in catalog.passes().values() if FloatActivations in kind.provides}
    if all(step.use not in keepers for step in recipe.steps):
        raise RecipeError(f"recipe {recipe.name}: has no pass that keeps activations in float")
    steps = [
        msgspec.structs.replace(step, options={**step.options, "tensors": [*_tensors_of(step), *tensors]})
        if step.use in keepers
        else step
        for step in recipe.steps
    ]
    return msgspec.structs.replace(recipe, steps=tuple(steps))


def _tensors_of(step: Step) -> list[str]:
    found = step.options.get("tensors", [])
    return [str(name) for name in found] if isinstance(found, (list, tuple)) else []


def narrow_layers(model: onnx.ModelProto) -> set[str]:
    """The layers of a file of ours whose weights have fewer than eight bits, or may have: of few weights that stand
    there in whole bytes only the settings tell."""
    chains, metadata = DecodeChains(model.graph), metadata_of(model)
    overrides = [LayerOverride.parse(text) for text in recorded_layers(metadata)]
    found = set()
    for node in model.graph.node:
        chain = chains.of_layer(node)
        if chain is None:
            continue
        last = next((override for override in reversed(overrides) if override.matches(node.name)), None)
        wide = metadata.get("weights") == str(WIDE_BITS) if last is None else last.bits == WIDE_BITS
        if not chain.plain or (not wide and np.unique(chain.codes()).size <= WIDE_LEVELS):
            found.add(node.name)
    return found
