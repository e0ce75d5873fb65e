"""A diagnosis as tables and sentences."""

from __future__ import annotations

from rich.console import Console

from dfmpc_onnx.errors import printable, shown
from dfmpc_onnx.evaluation.diagnosis.schema import Advice, Diagnosis, Suspect
from dfmpc_onnx.report.layer_error_text import layer_error_table, percent
from dfmpc_onnx.report.tables import listing, prose

MOST_SUSPECTS = 5  # that the terminal lists
MOST_BETWEEN = 5


def diagnosis_table(found: Diagnosis, console: Console, *, verbose: bool = False) -> None:
    """Both networks layer by layer, the suspects with their causes, what helps, and the finding as the last sentence.

    verbose: every tensor of both networks, and every suspect.
    """
    layer_error_table(found.layers, console, every=verbose)
    console.print()
    if found.enters:
        prose(console, f"most error is made at: {', '.join(map(shown, found.enters))}")
    if found.amplified:
        prose(console, f"errors that come in are multiplied most at: {', '.join(map(shown, found.amplified))}")
    console.print()
    _suspects(found, console, len(found.suspects) if verbose else MOST_SUSPECTS)
    for entry in found.between[: None if verbose else MOST_BETWEEN]:
        prose(console, f"speed: {shown(entry.layer)} computes in float between integer layers: {entry.why}")
    if len(found.between) > MOST_BETWEEN and not verbose:
        prose(console, f"speed: {len(found.between) - MOST_BETWEEN} more such layers, which -v lists")
    for advice in found.advice:
        prose(console, f"tried: {advice_sentence(advice)}")
    if found.blamed and not found.advice:
        prose(console, no_help(found))
    if found.output is not None:
        prose(console, f"written: {found.output}, with the first of what was tried")
    console.print()
    prose(console, f"diagnosis: {finding(found)}")


def no_help(found: Diagnosis) -> str:
    """Why there is no advice, of a diagnosis that looked for some."""
    if not found.tried:
        return f"nothing was tried: {found.no_advice or 'no change is known that could help'}"
    tries = "one change was" if found.tried == 1 else f"{found.tried} changes were"
    return f"{tries} tried, and none helps"


def _suspects(found: Diagnosis, console: Console, most: int) -> None:
    """The suspects in their order, each with its cause below it."""
    columns: tuple[str, ...] = ("largest errors of their own", "what", "own error %", "cause")
    if found.blamed:
        columns = ("restored to float", "what", "own error %", "SQNR dB", "gain dB", "gone %", "cause")
    rows = [_cells(suspect, found) for suspect in found.suspects[:most]]
    listing(console, columns, rows, columns[2:-1])


def _cells(suspect: Suspect, found: Diagnosis) -> tuple[str, ...]:
    cause = "" if suspect.cause is None else suspect.cause.text
    own = "-" if suspect.own_error is None else percent(suspect.own_error)
    name = suspect.layer if not suspect.others else f"{suspect.layer} + {suspect.others} more"
    if suspect.gain is None or suspect.sqnr_db is None or suspect.gain_db is None:
        return name, suspect.kind, own, cause
    gone = 100 * suspect.gain / found.damage if found.damage > 0 else 0.0
    return name, suspect.kind, own, f"{suspect.sqnr_db:.1f}", f"{suspect.gain_db:+.1f}", f"{gone:.0f}", cause


def finding(found: Diagnosis) -> str:
    """What is wrong, or that nothing stands out; one sentence."""
    culprit = found.culprit
    loss = f"SQNR {found.sqnr_db:.1f} dB on {shown(found.layers.origin)}"
    if found.unlike:
        return f"nothing could be told apart ({loss}): {found.unlike}; is it of this network?"
    if culprit is None or culprit.cause is None:
        if found.as_a_whole and not found.little:
            return f"no layer can be named ({loss}): integer operators are compared as a whole"
        first = next(iter(found.suspects), None)
        if first is not None and first.others and not found.little:
            return (
                f"no layer can be named ({loss}): the tensors of {first.others + 1} have other names in the quantized "
                "file; is it of this network?"
            )
        how = "" if found.blamed else "; --blame restores each layer in turn"
        return f"nothing stands out ({loss}){how}"
    what = "the weights of" if culprit.kind == "weights" else "the rounding of the output of"
    if culprit.kind == "activation" and culprit.layer == culprit.tensor:
        what = "the rounding of the input"
    gain = "" if culprit.sqnr_db is None else f"; without that error the SQNR is {culprit.sqnr_db:.1f} dB"
    return f"{what} {shown(culprit.layer)}: {culprit.cause.code}: {culprit.cause.text} ({loss}{gain})"


def advice_sentence(advice: Advice) -> str:
    """What was done, what it gains and what it costs."""
    kilobytes = advice.bytes / 1000
    size = (
        "the same size" if abs(kilobytes) < 0.05 else f"{abs(kilobytes):.1f} kB {'more' if kilobytes > 0 else 'less'}"
    )
    return f"{printable(advice.text)}: {advice.before_db:.1f} -> {advice.after_db:.1f} dB, {size}"
