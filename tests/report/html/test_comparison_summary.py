"""Which of several files the top of a comparison names, and why."""

from __future__ import annotations

import msgspec

from dfmpc_onnx.evaluation.fidelity import Fidelity
from dfmpc_onnx.evaluation.verdict import Level, Verdict
from dfmpc_onnx.report.html.blocks import Answers
from dfmpc_onnx.report.html.comparison_summary import summary
from dfmpc_onnx.report.html.schema import Comparison, QuantizedFile

ORIGIN = "8 made-up images"


def file(letter: str, size: int, decibels: float, level: Level) -> QuantizedFile:
    verdict = Verdict(level, "generated", 8, ORIGIN, 96.0, (88.0, 99.0), sqnr_db=decibels, error_percent=5.0)
    return QuantizedFile(
        letter, f"{letter}.onnx", size, 8.0, verdict, Fidelity(8, ORIGIN, 96.0, decibels, 0.1), 1.0, {}
    )


def said(*files: QuantizedFile, front: str) -> tuple[str, str]:
    """Of the choice, and the command."""
    (block,) = summary(Comparison("f.onnx", 4000, 2.0, files, tuple(front), ORIGIN, 1, ())).blocks
    assert isinstance(block, Answers)
    (_, choice, _), (_, _, (command,)) = block.entries
    return choice, command


def test_the_smallest_good_file_is_taken_and_the_others_have_their_price() -> None:
    files = file("A", 2000, 28.0, "good"), file("B", 1000, 22.0, "good"), file("C", 1100, 16.0, "check")
    choice, command = said(*files, front="AB")
    assert choice.startswith("Take B (B.onnx, 1.0 kB): the smallest that is good. About 96 %")
    assert "Beside it A has +6.0 dB of SQNR for +1.0 kB." in choice and "Leave C: another file" in choice
    assert command == "dfmpc-onnx report A.onnx B.onnx C.onnx --against f.onnx --images FOLDER -o compared.html"


def test_where_none_is_good_the_nearest_is_named_and_none_is_taken() -> None:
    choice, _ = said(file("A", 2000, 20.0, "check"), file("B", 1000, 9.0, "bad"), front="AB")
    assert choice.startswith("None is good for sure. A (A.onnx, 2.0 kB) is nearest to the float network.")
    assert "Take" not in choice


def test_where_nothing_is_known_nothing_is_taken() -> None:
    unknown = file("A", 2000, 0.0, "not known")
    unknown = msgspec.structs.replace(unknown, fidelity=msgspec.structs.replace(unknown.fidelity, not_known="no scale"))
    assert said(unknown, front="A")[0] == "Not known: what the files lose could not be measured."
