"""The verdict as one plain sentence."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from dfmpc_onnx.errors import shown
from dfmpc_onnx.evaluation.verdict import DOUBTFUL_DB, KEEP_CLASS, LEVEL_WORDS, NETWORKS_OF_LAWS, Verdict
from dfmpc_onnx.report.tables import printable_lines

HOW_TO_NARROW = "a few dozen images of yours (--images) narrow this"
HOW_TO_CHECK = "check it on a few dozen images of yours (--images), which narrow this"
SHOWN_BY_IMAGES = "images of yours (--images) show"
WHERE_IT_IS_LOST = "`dfmpc-onnx diagnose` says which layers lose it"
ENOUGH_IMAGES = 200  # rows, from which more narrow an interval little
COLOURS_OF_LEVELS = {"good": "bold green", "check": "bold yellow", "bad": "bold red", "not known": "bold yellow"}
BELOW = "BELOW what you asked for"


def print_verdict(verdict: Verdict, console: Console, *, below: bool = False) -> None:
    """The sentence, as the last thing that a command says.

    below: whether a threshold of the user's is not met; then nothing is called good in front of that.
    """
    head, colour = f"verdict: {LEVEL_WORDS[verdict.level]}", COLOURS_OF_LEVELS[verdict.level]
    if below and verdict.level == "good":
        head, colour = f"verdict: {BELOW}, else good", COLOURS_OF_LEVELS["bad"]
    for number, line in enumerate(printable_lines(f"{head} - {finding_of(verdict)}", console.width, 0)):
        text = Text(line)
        if number == 0:
            text.stylize(colour, 0, len(head))
        console.print(text, soft_wrap=True)


def verdict_sentence(verdict: Verdict) -> str:
    """The level in words, and what was found; one sentence."""
    return f"{LEVEL_WORDS[verdict.level]}: {finding_of(verdict)}"


def finding_of(verdict: Verdict) -> str:
    """Agreement to expect with its interval, what it rests on, and how to know more."""
    if verdict.level == "not known":
        return verdict.not_known
    if verdict.kind == "labels" and verdict.agreement is None:
        return f"{_labels(verdict)}; on real inputs more or fewer may be, which {SHOWN_BY_IMAGES}"
    error = f"an output error of {verdict.error_percent:g} % (SQNR {verdict.sqnr_db:g} dB) on {shown(verdict.origin)}"
    if verdict.agreement is None or verdict.interval is None:
        return _without_classes(verdict, error)
    low, high = verdict.interval
    share, interval = f"about {verdict.agreement:g} % of real inputs should", f"(95 % interval {low:g} to {high:g} %)"
    if verdict.basis == "generated":
        more = HOW_TO_CHECK if verdict.level == "check" else HOW_TO_NARROW
        rests = f"estimated from {error} and from {NETWORKS_OF_LAWS} measured networks"
        return f"{share} {KEEP_CLASS} {interval}, {rests}; {more}"
    decibels = f", SQNR {verdict.sqnr_db:g} dB" if verdict.kind != "labels" else ""
    origin = shown(verdict.origin)
    whole = origin.startswith(f"{verdict.rows} ")  # the origin has the count already
    counted = f"{verdict.agreeing} of {origin if whole else f'{verdict.rows} answers on {origin}'} {KEEP_CLASS}"
    return f"{counted}{decibels}; {share} {interval}{_next_step(verdict)}"


def _next_step(verdict: Verdict) -> str:
    """What to do where real answers were counted."""
    narrow = "; more images narrow this" if verdict.rows < ENOUGH_IMAGES else ""
    return narrow if verdict.level == "good" else f"{narrow}; {WHERE_IT_IS_LOST}"


def _labels(verdict: Verdict) -> str:
    return f"{verdict.agreeing} of {verdict.rows} labels are the same on {shown(verdict.origin)}"


def _without_classes(verdict: Verdict, error: str) -> str:
    if verdict.boxes is not None:
        return f"{verdict.boxes[0]} of {verdict.boxes[1]} boxes are found again, with {error}"
    own = "" if verdict.basis != "generated" else f"; {SHOWN_BY_IMAGES} what it does to what you need"
    if verdict.basis == "generated" and verdict.inputs == 1:  # of class scores, too, one row tells nothing
        return f"{error}; one input is too few to estimate the agreement from{own}"
    return f"{error}; the outputs are no class scores, so no agreement is counted{own}"


def low_verdict_warning(verdict: Verdict, ways: str) -> str:
    """One line where so much is lost that the user must hear of it. ways: what may help."""
    if verdict.kind == "labels" and verdict.agreement is None:
        lost = f"the quantized model gives other labels: {_labels(verdict)}"
    elif verdict.kind != "labels" and verdict.sqnr_db is not None and verdict.sqnr_db < DOUBTFUL_DB:
        lost = f"the quantized model's outputs are only {verdict.sqnr_db:.1f} dB above their error; "
        if verdict.kind == "class scores":
            lost += f"below {DOUBTFUL_DB:g} dB classifiers lost 5 points and more"
        else:
            lost += f"the error is {verdict.error_percent:g} % of their values"
    elif verdict.agreement is None and verdict.boxes is not None:
        lost = f"the quantized model finds only {verdict.boxes[0]} of {verdict.boxes[1]} boxes again"
    else:
        where = "real inputs" if verdict.basis == "generated" else verdict.origin
        lost = f"the quantized model keeps the class of only about {verdict.agreement:g} % of {shown(where)}"
    return f"{lost}: {ways}"
