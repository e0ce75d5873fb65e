"""Two networks compared layer by layer, suspects restored in turn, and the causes of the first few named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import onnx

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.evaluation.diagnosis.blame import Blame, Loss, Restorable
from dfmpc_onnx.evaluation.diagnosis.causes import rounding_cause, weight_cause
from dfmpc_onnx.evaluation.diagnosis.evidence import Evidence, RoundingEvidence, WeightEvidence
from dfmpc_onnx.evaluation.diagnosis.roundings import roundings
from dfmpc_onnx.evaluation.diagnosis.schema import (
    COMPARED_AS_A_WHOLE,
    SHARE_OF_CULPRIT,
    SHARE_OF_FEW_BITS,
    WRONG_INPUT,
    Cause,
    Diagnosis,
    Suspect,
    has_few_bits,
    is_broken,
    makes_much,
)
from dfmpc_onnx.evaluation.layer_errors import LayerErrors, errors_of
from dfmpc_onnx.evaluation.paired_networks import PairedNetworks
from dfmpc_onnx.evaluation.taken_back import TakenBack
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.image_stream import ImageStream
from dfmpc_onnx.inputs.samples import Samples
from dfmpc_onnx.model.protos import fed_names

EXPLAINED = 5  # suspects whose cause is looked for
NEARLY = 0.8  # of the gain of the first, with which a suspect that has a cause comes before one that has none
NAMED = 3  # layers that are named where error enters, and where it is amplified


def diagnose_networks(
    float_model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    inputs: Images | Samples | ImageStream,
    outputs: Sequence[str],
    label: str = "the model",
    *,
    blame: bool = False,
    tell: Callable[[int, int, str], None] = lambda done, of, name: None,
) -> Diagnosis:
    """Why the quantized network loses what it loses.

    outputs: names of the float network's tensors that count as its outputs; those that the quantized one does not have
    are left out. blame: restore each layer and activation in turn. tell: called with how many steps are done, of how
    many, and the name of what is at work. Raises ModelError as `layer_errors`.
    """
    pair = PairedNetworks(float_model, quantized, inputs, label)
    factors = TakenBack(pair).found()
    errors = errors_of(pair, factors, inputs, lambda done, of: tell(done, of, "layers"))
    judged = [name for name in outputs if name in pair.kinds]
    if not judged:
        raise ModelError(f"{label}: no output of floats that both networks have; nothing tells what an error costs")
    blamer = Blame(pair, factors, quantized, float_model, judged)
    given = fed_names(quantized.graph)
    found = blamer.candidates(roundings(quantized, {*pair.kinds, *given}))
    if blame:
        measured = blamer.measure(found, lambda done, of: tell(done, of, "restoring"))
        suspects = [(c, _suspect(c, errors, given, blamer.loss, left)) for c, left in measured]
        suspects.sort(key=lambda entry: (-(entry[1].gain or 0.0), -(entry[1].gain_db or 0.0)))
    else:
        suspects = [(c, _suspect(c, errors, given, blamer.loss, None)) for c in found]
        suspects.sort(key=lambda entry: -(entry[1].own_error or 0.0))
    evidence = Evidence(pair, factors, quantized, float_model)
    fed = [entry for entry in suspects[EXPLAINED:] if entry[0].rounding is not None and entry[0].tensor in given]
    # Inputs always: of a wrong preprocess no part is to blame. And the weights that err most: layers behind may be
    # fitted to them, so that to restore them alone gains little.
    worst = max((e for e in suspects if e[1].kind == "weights"), key=lambda e: e[1].own_error or 0.0, default=None)
    more = [entry for entry in suspects[EXPLAINED:] if entry in fed or entry is worst]
    looked_into = [*suspects[:EXPLAINED], *more]
    explained = dict(zip((e[0] for e in looked_into), _explained(looked_into, evidence, given), strict=True))
    in_order = tuple(explained.get(candidate, suspect) for candidate, suspect in suspects)
    named = _ranked_by_cause(in_order, blamer.loss, errors)
    return Diagnosis(
        damage=blamer.loss.damage,
        sqnr_db=blamer.loss.sqnr_db,
        layers=errors,
        enters=_worst(errors, "own_error"),
        amplified=_worst(errors, "amplification"),
        suspects=named,
        blamed=blame,
    )


def _suspect(
    candidate: Restorable, errors: LayerErrors, given: Sequence[str], before: Loss, left: Loss | None
) -> Suspect:
    row = next((row for row in errors.rows if row.tensor == candidate.tensor), None)
    if candidate.kind == "weights":
        layer = candidate.layers[0]
    else:
        layer = candidate.tensor if candidate.tensor in given or row is None else row.node
    suspect = Suspect(
        kind="weights" if candidate.kind == "weights" else "activation",
        tensor=candidate.tensor,
        layer=layer,
        others=max(len(candidate.layers) - 1, 0),
        own_error=None if row is None else row.own_error,
    )
    if left is None or (suspect.others and left.damage == 0):  # all that errs is restored, which tells nothing
        return suspect
    return msgspec.structs.replace(
        suspect,
        damage=left.damage,
        sqnr_db=left.sqnr_db,
        gain=before.damage - left.damage,
        gain_db=round(left.sqnr_db - before.sqnr_db, 2),
    )


def _explained(
    suspects: Sequence[tuple[Restorable, Suspect]], evidence: Evidence, given: Sequence[str]
) -> tuple[Suspect, ...]:
    """The suspects with their causes."""
    alone = [candidate for candidate, suspect in suspects if not suspect.others]
    found = dict(zip(alone, evidence.of(alone), strict=True))
    return tuple(
        msgspec.structs.replace(
            suspect,
            cause=_cause(candidate, found[candidate], given)
            if candidate in found
            else _cause_of_several(suspect.others + 1, evidence.is_integer(suspect.layer)),
        )
        for candidate, suspect in suspects
    )


def _ranked_by_cause(named: tuple[Suspect, ...], loss: Loss, errors: LayerErrors) -> tuple[Suspect, ...]:
    """The suspects, with another in front where the cause of the first is not the first cause.

    A layer with a channel that no rounding makes comes first, if that takes much of the damage away: healthy files have
    none. Where nothing explains the first, one that gains nearly as much and has a cause comes before it: what is
    restored behind a fault, or in front of it, may make up for that. Where none gains much, an input of another
    preprocess comes first: all that was measured behind it is wrong alike, so no part by itself gains anything. Then
    the layer of few bits that makes much of all error: layers behind are fitted to it.
    """
    first = next(iter(named), None)
    if first is None or first.gain is None:
        return named
    before = [s for s in named if is_broken(s, loss.damage)]
    if not before and first.gain < SHARE_OF_CULPRIT * loss.damage:
        before = [s for s in named if s.cause is not None and s.cause.code == WRONG_INPUT]
    least = SHARE_OF_CULPRIT if not _is_explained(first) else SHARE_OF_FEW_BITS
    if not before and first.gain < least * loss.damage:
        before = [s for s in named if has_few_bits(s) and makes_much(s, errors)]
    if not before and first.gain > 0 and not _is_explained(first):
        before = [s for s in named if _is_explained(s) and (s.gain or 0.0) >= NEARLY * first.gain]
    return (*before[:1], *(s for s in named if s not in before[:1]))


def _is_explained(suspect: Suspect) -> bool:
    return suspect.cause is not None and suspect.cause.code != "no-single-cause"


def _cause(candidate: Restorable, found: WeightEvidence | RoundingEvidence, given: Sequence[str]) -> Cause:
    if isinstance(found, WeightEvidence):
        return weight_cause(found)
    assert candidate.rounding is not None  # what the other evidence is of
    return rounding_cause(found, candidate.rounding, is_input=candidate.tensor in given)


def _cause_of_several(count: int, integer: bool) -> Cause:
    """What is said of layers between which no tensor can be compared."""
    if integer:
        text = f"{count} layers together: integer operators are compared as a whole, with no float tensor between them"
        return Cause("no-single-cause", text, {COMPARED_AS_A_WHOLE: count})
    return Cause(
        "no-single-cause", f"{count} layers together, which nothing tells apart: their tensors have other names there"
    )


def _worst(errors: LayerErrors, figure: str) -> tuple[str, ...]:
    """The layers with the largest of a figure, the largest first."""
    rows = [row for row in errors.rows if row.layers and getattr(row, figure)]
    rows.sort(key=lambda row: -float(getattr(row, figure)))
    return tuple(row.layers[0] for row in rows[:NAMED])
