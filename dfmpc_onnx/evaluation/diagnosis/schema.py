"""What a diagnosis finds: frozen data that tables, JSON and the report read alike."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from dfmpc_onnx.evaluation.layer_errors import LayerErrors
from dfmpc_onnx.evaluation.verdict import GOOD_DB_OF_OTHERS

SuspectKind = Literal["weights", "activation"]
CauseCode = Literal[
    "channel-negated",
    "channel-scaled",
    "channels-swapped",
    "too-few-bits",
    "unlike-channels",
    "unequal-concat",
    "cut-negative-range",
    "clipped-range",
    "range-too-wide",
    "wrong-preprocess",
    "no-single-cause",
]
COMPARED_AS_A_WHOLE = "integer_layers"  # the figure of a cause that names operators on integers
WRONG_INPUT: CauseCode = "wrong-preprocess"
BROKEN: frozenset[CauseCode] = frozenset({"channel-negated", "channel-scaled", "channels-swapped"})  # by no rounding
BADLY_FIT: frozenset[CauseCode] = frozenset({"clipped-range", "range-too-wide"})  # where the error is beyond the usual
LEAST_HELP_DB = 0.5  # what advice is worth at least
LEAST_DAMAGE = 0.01  # of the outputs, below which nothing needs a culprit
ANOTHER_TENSOR = 0.5  # own error of a layer, which ternary weights of a normal distribution stay below, with 0.44
SHARE_OF_CULPRIT = 0.5  # of the damage that one restored layer or activation takes away before it stands out
SHARE_OF_FEW_BITS = 0.3  # the same of weights in few levels, which are a cause by themselves; or of all error made
NOT_ALONE = 0.5  # of the gain of one layer of few bits, from which another shares the loss with it, as in a plan
SHARE_OF_BROKEN = 0.3  # the same of a layer with a broken channel, which no rounding explains
LEAST_GAIN_DB = 3.0  # of restoring what is broken, from which it is named though little is lost
USUAL_ROUNDING = 0.05  # own error of an activation of 8 bits, which a range that fits it stays below
SHARE_UNEXPLAINED = 0.75  # the same where nothing explains it: errors make up for each other by chance


class Cause(msgspec.Struct, frozen=True):
    """What is wrong with a layer or an activation. text: in words, with the evidence; figures: the same as numbers."""

    code: CauseCode
    text: str
    figures: dict[str, float] = {}


class Suspect(msgspec.Struct, frozen=True):
    """A layer's weights or a rounded activation, and what is lost end to end without its error.

    tensor: what it computes, or what is rounded. layer: of weights, its name; of an activation the node that computes
    it, or the input. others: how many more layers are restored with it, as their tensors have other names in the
    quantized file. damage, sqnr_db: of the outputs with it restored; gain: the damage that goes away, below 0 where
    its error makes up for others; gain_db: the same in decibels. All four are None where nothing was restored.
    cause: of those that are looked into, the first few.
    """

    kind: SuspectKind
    tensor: str
    layer: str
    others: int = 0
    own_error: float | None = None
    damage: float | None = None
    sqnr_db: float | None = None
    gain: float | None = None
    gain_db: float | None = None
    cause: Cause | None = None


def has_few_bits(suspect: Suspect) -> bool:
    """Whether that is the cause of a suspect that was looked into."""
    return suspect.cause is not None and suspect.cause.code == "too-few-bits"


def makes_much(suspect: Suspect, errors: LayerErrors) -> bool:
    """Whether a suspect makes SHARE_OF_FEW_BITS of the power of the error that all places make, each beside its own
    signal."""
    whole = sum(row.own_error**2 for row in errors.rows)
    return suspect.own_error is not None and suspect.own_error**2 >= SHARE_OF_FEW_BITS * whole > 0


def is_broken(suspect: Suspect, damage: float) -> bool:
    """Whether a suspect has what rounding never does to weights, and restoring it takes much of the damage away."""
    cause, gain = suspect.cause, suspect.gain
    return cause is not None and cause.code in BROKEN and gain is not None and gain >= SHARE_OF_BROKEN * damage > 0


class FloatBetween(msgspec.Struct, frozen=True):
    """A layer that computes in float although integers surround it, which costs time. why: what keeps it there."""

    layer: str
    why: str


class Advice(msgspec.Struct, frozen=True):
    """A change that was made and measured on the same inputs.

    text: what was done; before_db, after_db: SQNR of the worst output; bytes: what the file grows by, below 0 where it
    shrinks. layers: the overrides that it takes, as ``NAME=BITS``; preprocess: the one that it takes, "" for that of
    the file; activations: the tensors that stay in float. command: what makes that file, with all settings; "" where no
    command does.
    """

    text: str
    before_db: float
    after_db: float
    bytes: int
    layers: tuple[str, ...] = ()
    preprocess: str = ""
    activations: tuple[str, ...] = ()
    command: str = ""

    @property
    def helps(self) -> bool:
        return self.after_db >= self.before_db + LEAST_HELP_DB


class Diagnosis(msgspec.Struct, frozen=True):
    """Why a quantized network loses what it loses.

    damage: the share of what inputs differ by that is error at the output that suffers most (`numerics.output_loss`),
    0 to 1 and beyond; sqnr_db: of the worst output. layers: both networks, layer by layer. enters: the layers at which
    most error enters, beside the signal there, the worst first; amplified: those that multiply what comes in the most.
    blamed: whether each layer and activation was restored in turn; suspects are then ranked by what that gained, else
    by their own error. between: layers in float between integers. advice: what helps, as it was tried, the best first;
    tried: how many changes were. no_advice: why none was. preprocess: what the inputs went through; warnings: what to
    hear of the files and of what is not compared. model, quantized, images: where they came from; output: where the
    better file was written; version: this package's.
    """

    damage: float
    sqnr_db: float
    layers: LayerErrors
    enters: tuple[str, ...]
    amplified: tuple[str, ...]
    suspects: tuple[Suspect, ...]
    blamed: bool
    between: tuple[FloatBetween, ...] = ()
    advice: tuple[Advice, ...] = ()
    tried: int = 0
    no_advice: str = ""
    preprocess: str = ""
    warnings: tuple[str, ...] = ()
    model: str = ""
    quantized: str = ""
    images: str | None = None
    output: str | None = None
    version: str = ""

    def __repr__(self) -> str:
        found = self.culprit
        if self.unlike:
            return f"Diagnosis(SQNR {self.sqnr_db} dB, nothing could be told apart)"
        said = "nothing stands out" if found is None or found.cause is None else f"{found.layer}: {found.cause.code}"
        return f"Diagnosis(SQNR {self.sqnr_db} dB, {said})"

    @property
    def little(self) -> bool:
        """Whether so little is lost that nothing needs a culprit."""
        return self.damage < LEAST_DAMAGE or self.sqnr_db >= GOOD_DB_OF_OTHERS

    @property
    def as_a_whole(self) -> bool:
        """Whether layers are operators on integers, between which nothing can be compared."""
        return any(s.cause is not None and COMPARED_AS_A_WHOLE in s.cause.figures for s in self.suspects)

    @property
    def unlike(self) -> str:
        """Why nothing can be told apart, where most layers are not those of the float network; "" elsewhere."""
        errors = self.layers
        if self.little or self.as_a_whole:
            return ""
        missing, of = len(errors.unmatched), errors.float_layers
        if 2 * missing > of:
            return f"{missing} of {of} layers could not be matched"
        found = [row for row in errors.rows if row.layers]
        other = sum(row.own_error >= ANOTHER_TENSOR for row in found)
        if len(found) > 1 and 2 * other >= len(found):
            return f"{other} of the {len(found)} layers that could be matched compute something else"
        return ""

    @property
    def culprit(self) -> Suspect | None:
        """The first suspect, where it stands out from the rest; None where nothing does, or little is lost."""
        first = next(iter(self.suspects), None)
        if first is None or first.cause is None or first.others:
            return None
        if is_broken(first, self.damage) and (not self.little or (first.gain_db or 0.0) >= LEAST_GAIN_DB):
            return first
        if self.little or self.unlike:
            return None
        unexplained = first.cause.code == "no-single-cause" and (first.own_error or 0.0) < ANOTHER_TENSOR
        if first.gain is None:
            return None if unexplained else first
        if first.cause.code == WRONG_INPUT:
            return first
        if first.cause.code in BADLY_FIT and not self._errs_beyond_usual(first):
            return None
        few = has_few_bits(first)
        if few and any(has_few_bits(s) and (s.gain or 0.0) >= NOT_ALONE * first.gain for s in self.suspects[1:]):
            return None
        if few and makes_much(first, self.layers):
            return first
        share = SHARE_UNEXPLAINED if unexplained else SHARE_OF_FEW_BITS if few else SHARE_OF_CULPRIT
        return first if first.gain >= share * self.damage else None

    def _errs_beyond_usual(self, suspect: Suspect) -> bool:
        """Whether an activation is rounded worse than ranges that fit round it: some values are clipped on purpose."""
        return (suspect.own_error or 0.0) >= USUAL_ROUNDING or makes_much(suspect, self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as ``--json`` prints them."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found
