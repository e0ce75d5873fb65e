"""What to think of a quantized network: the agreement to expect on real inputs, how sure that is, and what it rests on.

On generated inputs, the class of an image changes far more, or less, often than on real ones, so nothing is
counted there. Their error tells more: how far the class scores are apart bounds what changes, within what was measured
on other networks (`LAW_OF_GENERATED`). On the user's own images the answers are counted, and the error on them says the
rest where they are few. `tools/experiments/verdict.py` measures both laws, and how often the interval holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from dfmpc_onnx.errors import printable
from dfmpc_onnx.evaluation.fidelity import Fidelity
from dfmpc_onnx.numerics.changed_answers import ErrorLaw, changed_share
from dfmpc_onnx.numerics.proportions import exact_interval

LAW_OF_GENERATED = ErrorLaw(mean=-0.87, deviation=0.29, freedom=10)
LAW_OF_IMAGES = ErrorLaw(mean=-0.41, deviation=0.28, freedom=10)
NETWORKS_OF_LAWS = 11

GOOD_AGREEMENT, LEAST_AGREEMENT = 95.0, 90.0  # per cent: what is expected, and where the interval of a good one begins
DOUBTFUL_DB = 10.0  # of the settings measured, those below lost 5 points of top-1 and more
RUINED_DB = 5.0  # a third of the outputs is error; 15 points and more
GOOD_DB_OF_OTHERS = 25.0  # of outputs that hold no classes: an error of 6 %
RUINED_SHARE = 0.5  # of labels on generated inputs: if fewer are the same, real inputs do not keep theirs either

Level = Literal["good", "check", "bad", "not known"]
Basis = Literal["generated", "images", "images of the statistics"]
OutputKind = Literal["class scores", "labels", "boxes", "other"]

LEVEL_WORDS: Mapping[Level, str] = {
    "good": "good",
    "check": "CHECK before you use it",
    "bad": "BAD, do not use it as it is",
    "not known": "NOT KNOWN",
}
KEEP_CLASS = "keep the float model's class"


class Verdict(msgspec.Struct, frozen=True):
    """How much of the float network is left.

    level: good; check (on images of one's own, before it is used); bad; not known, and then `not_known` says why and
    all figures are None. agreement: per cent of real inputs of which the class is expected to be the same; None where
    the outputs hold no classes, or nothing tells. interval: 95 % of it, per cent. basis: what it rests on: generated
    inputs, images of the user's that statistics did not see, or those that they saw. inputs: how many; origin: what
    they are. kind: of the outputs that it judges. agreeing, rows: how many answers were the same on images of the
    user's, or how many labels on generated inputs, of how many; 0 of 0 where none were counted. boxes: of a detector,
    how many of the float network's were found again on images of the user's, of how many; None where there were none.
    sqnr_db, error_percent: of the worst output, signal over noise and the error beside the values.
    """

    level: Level
    basis: Basis
    inputs: int
    origin: str
    agreement: float | None = None
    interval: tuple[float, float] | None = None
    agreeing: int = 0
    rows: int = 0
    boxes: tuple[int, int] | None = None
    sqnr_db: float | None = None
    error_percent: float | None = None
    kind: OutputKind = "other"
    not_known: str = ""

    @property
    def is_low(self) -> bool:
        """Whether so much is lost that the user must hear of it: for sure, or by what was counted."""
        few_decibels = self.kind != "labels" and self.sqnr_db is not None and self.sqnr_db < DOUBTFUL_DB
        few_agree = self.rows > 0 and self.agreement is not None and self.agreement < LEAST_AGREEMENT
        few_boxes = self.boxes is not None and _share(self.boxes) < LEAST_AGREEMENT
        return self.level == "bad" or few_decibels or few_agree or few_boxes

    def __str__(self) -> str:
        """In short, on one line; a command says it with what it rests on, and how to know more."""
        if self.level == "not known":
            return printable(f"{LEVEL_WORDS[self.level]}: {self.not_known}")
        found = f"SQNR {self.sqnr_db:g} dB on {self.origin}"
        if self.agreement is not None and self.interval is not None:
            low, high = self.interval
            found = (
                f"about {self.agreement:g} % of real inputs {KEEP_CLASS} (95 % interval {low:g} to {high:g} %); {found}"
            )
        elif self.boxes is not None:
            found = f"{self.boxes[0]} of {self.boxes[1]} boxes are found again; {found}"
        return printable(f"{LEVEL_WORDS[self.level]}: {found}")


def verdict_of(found: Fidelity, basis: Basis) -> Verdict:
    """The verdict that a comparison allows. basis: what kind of inputs it was made on."""
    if found.not_known:
        return Verdict("not known", basis, found.images, found.origin, not_known=found.not_known)
    own = basis != "generated"
    agreement, interval = _agreement(found, own)
    boxes = _boxes(found) if own else None
    kind = _kind(found, boxes)
    counted = own or kind == "labels"
    return Verdict(
        level=_level_of(found, kind, agreement, interval, boxes),
        boxes=boxes,
        basis=basis,
        inputs=found.images,
        origin=found.origin,
        agreement=agreement,
        interval=interval,
        agreeing=found.agreeing if counted else 0,
        rows=found.rows if counted else 0,
        sqnr_db=found.sqnr_db,
        error_percent=float(f"{100 * 10 ** (-found.sqnr_db / 20):.2g}"),
        kind=kind,
    )


def _kind(found: Fidelity, boxes: tuple[int, int] | None) -> OutputKind:
    """What the outputs hold; labels only where nothing beside them has an error in decibels."""
    if boxes is not None:
        return "boxes"
    if found.tangent is not None:
        return "class scores"
    return "labels" if found.rows and all(output.sqnr_db is None for output in found.outputs) else "other"


def _level_of(
    found: Fidelity,
    kind: OutputKind,
    agreement: float | None,
    interval: tuple[float, float] | None,
    boxes: tuple[int, int] | None,
) -> Level:
    if boxes is not None:
        return _level_of_boxes(found.sqnr_db, boxes)
    if kind == "labels" and agreement is None:  # on generated inputs, on which they change more, or less, often
        return "bad" if found.agreeing < RUINED_SHARE * found.rows else "check"
    return _level(found.sqnr_db, agreement, interval)


def _agreement(found: Fidelity, own: bool) -> tuple[float | None, tuple[float, float] | None]:
    """The agreement to expect and its interval, per cent; the interval rounded outwards, to a tenth."""
    if not found.rows:
        return None, None
    if found.tangent is not None:
        law = LAW_OF_IMAGES if own else LAW_OF_GENERATED
        counted = (found.rows - found.agreeing, found.rows) if own else (0, 0)
        low, middle, high = (1 - share for share in reversed(changed_share(law, found.tangent, *counted)))
    elif own:
        middle = found.agreeing / found.rows
        low, high = exact_interval(found.agreeing, found.rows)
    else:  # labels on generated inputs
        return None, None
    return round(100 * middle, 1), (math.floor(1000 * low) / 10, math.ceil(1000 * high) / 10)


def _level(sqnr_db: float, agreement: float | None, interval: tuple[float, float] | None) -> Level:
    if agreement is None or interval is None:
        return "good" if sqnr_db >= GOOD_DB_OF_OTHERS else "check" if sqnr_db >= DOUBTFUL_DB else "bad"
    if sqnr_db < RUINED_DB or interval[1] < LEAST_AGREEMENT:
        return "bad"
    sure = agreement >= GOOD_AGREEMENT and interval[0] >= LEAST_AGREEMENT
    return "good" if sure and sqnr_db >= DOUBTFUL_DB else "check"


def _boxes(found: Fidelity) -> tuple[int, int] | None:
    """Of all outputs together; None where the float network found none."""
    each = [output.boxes for output in found.outputs if output.boxes is not None]
    count = sum(of for _, of in each)
    return (sum(again for again, _ in each), count) if count else None


def _share(boxes: tuple[int, int]) -> float:
    """Per cent found again."""
    return 100 * boxes[0] / boxes[1]


def _level_of_boxes(sqnr_db: float, boxes: tuple[int, int]) -> Level:
    low, high = (100 * end for end in exact_interval(*boxes))
    if sqnr_db < RUINED_DB or high < LEAST_AGREEMENT:
        return "bad"
    return "good" if _share(boxes) >= GOOD_AGREEMENT and low >= LEAST_AGREEMENT else "check"
