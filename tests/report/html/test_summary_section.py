"""The answers at the top of the page: each of what was measured, and no more."""

from __future__ import annotations

import msgspec
import pytest

from dfmpc_onnx.evaluation.activation_ranges import ActivationRange
from dfmpc_onnx.evaluation.diagnosis.schema import Advice, Cause, Diagnosis, Suspect
from dfmpc_onnx.evaluation.island_times import TimeTable
from dfmpc_onnx.evaluation.layer_errors import LayerErrors
from dfmpc_onnx.evaluation.verdict import Verdict
from dfmpc_onnx.report.html.blocks import Answers
from dfmpc_onnx.report.html.schema import FileFacts, PageLayer, Place, ReportPage, RunTimes, ShownImages, WidthStep
from dfmpc_onnx.report.html.summary_section import summary

MADE = (("statistics", "none of the user's"),)
CHECK = Verdict("check", "generated", 8, "8 made-up images", 96.0, (88.0, 99.0), sqnr_db=20.0, error_percent=10.0)
FEW = Suspect("weights", "b", "b", cause=Cause("too-few-bits", "its weights have 2 bits, too few"))


@pytest.fixture
def page() -> ReportPage:
    """A file of two layers; the second makes most of the error."""
    errors = LayerErrors((), 8, "8 made-up images", 0)
    return ReportPage(
        FileFacts("a.onnx", "a.onnx", 1000, {}),
        FileFacts("b.onnx", "b.onnx", 200, {}),
        CHECK,
        None,
        (),
        MADE,
        (PageLayer("a", "Conv", 80, "8", 8.0, "8-bit", "integers", place=1), low_layer()),
        (Place("a", "Conv", "8", 80, 30.0, 0.2, "a"), Place("b", "Conv", "2", 80, 12.0, 0.8, "b")),
        4.0,
        (),
        (),
        RunTimes(2.0, 1.0, 1),
        (),
        ShownImages("8 made-up images"),
        "1.0",
        Diagnosis(0.1, 20.0, errors, (), (), (), blamed=False),
        command="dfmpc-onnx quantize a.onnx --weights 2/8 -o b.onnx --report b.html",
    )


def low_layer(planned: float | None = None, more: WidthStep | None = None) -> PageLayer:
    return PageLayer("b", "Conv", 80, "2", 2.0, "low", "integers", planned=planned, place=2, more=more, alike=("b",))


def answers(page: ReportPage, **changes: object) -> list[tuple[str, list[str]]]:
    """What is said of quality, of the place and of what to change, each with its commands."""
    (block,) = summary(msgspec.structs.replace(page, **changes)).blocks
    assert isinstance(block, Answers)
    assert [question for question, *_ in block.entries] == [
        "How good is it?",
        "Where is the loss?",
        "What would you change?",
    ]
    return [(said, list(commands)) for _, said, commands in block.entries]


def diagnosed(page: ReportPage, **changes: object) -> Diagnosis:
    assert page.diagnosis is not None
    return msgspec.structs.replace(page.diagnosis, **changes)


def test_quality_is_the_share_with_its_interval_then_size_and_time(page: ReportPage) -> None:
    said, _ = answers(page)[0]
    assert said.startswith("Not sure yet. About 96 % of real inputs should keep the float model's class")
    assert "between 88 and 99 % (estimated without real images)" in said
    assert "5.0 times smaller than the float file, and a run on this machine is 2.00 times faster." in said


def test_a_file_without_integer_kernels_is_never_called_faster(page: ReportPage) -> None:
    times = RunTimes(2.0, 1.0, 1, TimeTable(1.0, 0.0, (), (), "x"))
    assert "as fast as in float, since no kernel computes in integers" in answers(page, times=times)[0][0]


def test_the_places_have_names_numbers_and_bits(page: ReportPage) -> None:
    said, _ = answers(page)[1]
    assert said == "b (no. 2, 2 bits) makes 80 % of the error that is made along the network."


def test_a_range_much_wider_than_its_values_is_said_of_the_place(page: ReportPage) -> None:
    said, _ = answers(page, ranges=(ActivationRange("b", 0, 10, 0, 2, 0, 0),))[1]
    assert "Its values use 20 % of the range that they are rounded in" in said


def test_few_bits_come_with_their_price_and_a_command_into_other_files(page: ReportPage) -> None:
    said, commands = answers(page, diagnosis=diagnosed(page, suspects=(FEW,)))[2]
    assert "Give b 8 bits. That costs about +0.1 kB (30 % of the file)." in said
    assert "It makes 80 % of the error" in said and "is not known before" in said
    (command,) = commands
    assert command == "dfmpc-onnx quantize a.onnx --weights 2/8 -o better.onnx --report better.html --layer b=8"


def test_what_was_measured_comes_before_what_is_supposed(page: ReportPage) -> None:
    tried = Advice("give b 8 bits", 20.0, 23.5, 60, command="dfmpc-onnx quantize a.onnx --layer b=8")
    said, commands = answers(page, diagnosis=diagnosed(page, suspects=(FEW,), advice=(tried,), blamed=True))[2]
    assert said == "Give b 8 bits: 20.0 to 23.5 dB of SQNR for +0.1 kB (30 % of the file), measured."
    assert commands == [tried.command]


def test_where_weights_make_little_of_the_loss_more_bits_are_not_proposed(page: ReportPage) -> None:
    layers = (page.layers[0], low_layer(0.001, WidthStep("3", 0.0005, 10)))
    places = (page.places[0], msgspec.structs.replace(page.places[1], effect=0.001))
    planned = {"layers": layers, "places": places, "effect_by": "plan", "plan_options": ("--recipe mixed", "")}
    _, (where, _), (change, commands) = answers(page, **planned)
    assert where.startswith("In rounded activations: the bits of the weights make only 1 % of the loss.")
    assert "Give images of yours" in change and "More bits for the weights gain little" in change
    assert commands == ["dfmpc-onnx quantize a.onnx -o better.onnx --report better.html --images FOLDER"]
    _, (where, _), (change, commands) = answers(page, **planned, diagnosis=diagnosed(page, damage=0.002))
    assert where.startswith("The bits of the weights lose 0.1 %, of 0.2 % that all errors together lose.")
    assert "Give b 3 bits in place of 2: predicted to take away 0.05 % of the 0.2 % that is lost" in change
    assert len(commands) == 2


def test_where_nothing_is_known_of_the_input_it_asks_for_that(page: ReportPage) -> None:
    unknown = Verdict("not known", "generated", 8, "8 made-up images", not_known="nothing tells the scale of 'x'")
    (quality, _), _, (change, commands) = answers(page, verdict=unknown, diagnosis=None)
    assert quality.startswith("Not known. Nothing tells the scale of 'x'. So the outputs")
    assert change.startswith("Say what the input holds") and "--images FOLDER" in commands[0]


def test_a_good_file_needs_no_change(page: ReportPage) -> None:
    said, commands = answers(page, verdict=msgspec.structs.replace(CHECK, level="good"))[2]
    assert said.startswith("Nothing has to change.") and "--blame" in commands[0]
    few = diagnosed(page, suspects=(FEW,))
    said, _ = answers(page, verdict=msgspec.structs.replace(CHECK, level="good"), diagnosis=few)[2]
    assert said.startswith("Nothing has to change. To lose less still: Give b 8 bits.")
