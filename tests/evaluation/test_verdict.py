"""What is said of a comparison: how much agreement to expect, how sure that is, and whether that is good."""

import io

import numpy as np
import pytest
from rich.console import Console

from dfmpc_onnx.api.reference import output_kinds
from dfmpc_onnx.evaluation.fidelity import Fidelity, compare
from dfmpc_onnx.evaluation.verdict import LEVEL_WORDS, Verdict, verdict_of
from dfmpc_onnx.graph.output_branches import score_channels
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.numerics.proportions import exact_interval
from dfmpc_onnx.report.verdict_text import low_verdict_warning, print_verdict, verdict_sentence
from dfmpc_onnx.runtime.session import Session
from tests import graphs

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (
            Verdict("good", "generated", 64, "64 generated images", 98.6, (96.3, 99.5), sqnr_db=31.2),
            "good: about 98.6 % of real inputs keep the float model's class (95 % interval 96.3 to 99.5 %); SQNR "
            "31.2 dB on 64 generated images",
        ),
        (
            Verdict("check", "images", 9, "9 images of a\nb/", boxes=(8, 9), sqnr_db=20.0),
            "CHECK before you use it: 8 of 9 boxes are found again; SQNR 20 dB on 9 images of a?b/",
        ),
        (
            Verdict("check", "generated", 64, "64 images", sqnr_db=20.0),
            "CHECK before you use it: SQNR 20 dB on 64 images",
        ),
        (Verdict("not known", "generated", 64, "64", not_known="nothing tells it"), "NOT KNOWN: nothing tells it"),
    ],
)
def test_a_verdict_is_printed_as_a_line(verdict, said):
    """`print(made.verdict)` is the first thing that a script does; all fields in brackets say nothing there."""
    assert str(verdict) == said


@pytest.mark.parametrize(
    ("level", "below", "head"),
    [
        ("good", False, "verdict: good - "),
        ("good", True, "verdict: BELOW what you asked for, else good - "),
        ("check", False, "verdict: CHECK before you use it - "),
        ("check", True, "verdict: CHECK before you use it - "),
        ("bad", False, "verdict: BAD, do not use it as it is - "),
        ("not known", False, "verdict: NOT KNOWN - "),
    ],
)
def test_the_last_line_needs_no_legend(level, below, head):
    """Coloured by how bad it is; nothing is good where a threshold is missed."""
    known = {"not_known": "nothing tells it"} if level == "not known" else {"sqnr_db": 20.0, "error_percent": 10.0}
    console = Console(width=400, file=io.StringIO(), force_terminal=True, color_system="standard")
    print_verdict(Verdict(level, "generated", 64, "64 images", **known), console, below=below)
    said = console.file.getvalue()
    colour = {"good": "31" if below else "32", "bad": "31"}.get(level, "33")
    assert said.startswith(f"\x1b[1;{colour}m{head.removesuffix(' - ')}\x1b[0m - ")


def test_who_counted_few_answers_hears_where_they_are_lost():
    assert "diagnose" in verdict_sentence(verdict_of(found(tangent=0.2, changed=14, rows=200), "images"))
    assert "diagnose" not in verdict_sentence(verdict_of(found(tangent=0.02, changed=1, rows=200), "images"))


def found(sqnr_db=30.0, tangent=0.03, changed=0, rows=64, **more):
    """A comparison of classifiers; `tangent` None as of labels, rows 0 as of what is no classifier."""
    agreement = 100 * (rows - changed) / rows if rows else None
    return Fidelity(
        64, "64 inputs", agreement, sqnr_db, 0.1, agreeing=rows - changed, rows=rows, tangent=tangent, **more
    )


def test_on_made_up_inputs_nothing_is_counted_and_the_range_is_wide():
    """A small network whose first answer changed on 2 of 16 procedural images keeps 98 % on real ones."""
    few, many = (verdict_of(found(changed=changed), "generated") for changed in (0, 8))
    assert (few.agreement, few.interval) == (many.agreement, many.interval)
    assert few.interval is not None and few.interval[0] < few.agreement < few.interval[1]
    assert (many.agreeing, many.rows) == (0, 0) and few.level == "good"
    sentence = verdict_sentence(few)
    assert sentence.startswith("good: about ") and " of 64" not in sentence and "(--images) narrow this" in sentence


def test_a_few_dozen_images_of_the_users_own_narrow_it():
    """On which the error is about half of that on generated ones."""
    wide = verdict_of(found(tangent=0.1), "generated").interval
    narrow = verdict_of(found(tangent=0.05, rows=36), "images").interval
    counted = [100 * end for end in exact_interval(36, 36)]
    assert narrow[1] - narrow[0] < wide[1] - wide[0] and narrow[1] - narrow[0] < counted[1] - counted[0]
    assert "36 of 36 answers on 64 inputs keep the float model's class" in verdict_sentence(
        verdict_of(found(rows=36), "images")
    )


def test_counted_labels_have_the_interval_of_a_count_and_made_up_ones_none():
    verdict = verdict_of(found(tangent=None, changed=4, rows=100), "images")
    low, high = exact_interval(96, 100)
    assert verdict.interval == pytest.approx((100 * low, 100 * high), abs=0.11)
    assert verdict_of(found(tangent=None), "generated").agreement is None


@pytest.mark.parametrize(
    ("given", "basis", "level", "low"),
    [
        ({"tangent": 0.03}, "generated", "good", False),
        ({"tangent": 0.4, "sqnr_db": 14.0}, "generated", "check", False),
        ({"tangent": 0.8, "sqnr_db": 8.0}, "generated", "check", True),
        ({"tangent": 1e3, "sqnr_db": 3.0}, "generated", "bad", True),
        ({"tangent": 1e3, "sqnr_db": 20.0}, "generated", "bad", True),
        ({"tangent": 0.02, "rows": 200, "changed": 1}, "images", "good", False),
        ({"tangent": 0.2, "rows": 200, "changed": 14}, "images", "check", False),
        ({"tangent": 0.2, "rows": 200, "changed": 25}, "images", "check", True),
        ({"tangent": 0.2, "rows": 200, "changed": 60}, "images", "bad", True),
        ({"tangent": None, "rows": 0, "sqnr_db": 30.0}, "images", "good", False),
        ({"tangent": None, "rows": 0, "sqnr_db": 15.0}, "images", "check", False),
        ({"tangent": None, "rows": 0, "sqnr_db": 5.0}, "images", "bad", True),
    ],
)
def test_the_level_and_whether_the_user_is_warned(given, basis, level, low):
    verdict = verdict_of(found(**given), basis)
    assert (verdict.level, verdict.is_low) == (level, low), verdict
    if low:
        of_classifiers = verdict.sqnr_db < 10 and given["tangent"] is not None
        assert ("classifiers" in low_verdict_warning(verdict, "")) == of_classifiers
        warning = low_verdict_warning(verdict, "see to it")
        assert ("above their error" in warning) == (verdict.sqnr_db < 10) and warning.endswith(": see to it")


def test_what_nobody_knows_has_no_figures():
    verdict = verdict_of(found(not_known="nothing tells the scale of 'x'"), "generated")
    assert verdict_sentence(verdict) == "NOT KNOWN: nothing tells the scale of 'x'"
    assert verdict.agreement is verdict.interval is verdict.sqnr_db is None and not verdict.is_low


def network(*ends, shape=(0, 3)):
    net = graphs.Net(("n", 4))
    weight = np.random.default_rng(1).standard_normal((4, 12)).astype(np.float32)
    y = net.node("MatMul", "x", net.weight("w", weight))
    y = net.node("Reshape", y, net.weight("shape", np.array(shape)))
    for op, attributes in ends:
        y = net.node(op, y, **attributes)
    return Session(net.model(y))


def images(count=70):
    return Images(RANDOM.standard_normal((count, 4)).astype(np.float32), None, "")


@pytest.mark.parametrize("shape", [(0, 3, 4), (0, 3, 2, 2), (0, 12, 1, 1), (0, 12), (0, 1, 12)])
def test_only_a_vector_of_scores_for_each_image_has_an_answer(shape):
    """Of a detector it said "the largest output is the same in 0 of 16"."""
    got = compare(network(shape=shape), network(shape=shape), images())
    counted = 70 if shape in ((0, 12), (0, 12, 1, 1)) else 0
    assert (got.agreement, got.rows) == (100.0 if counted else None, counted)
    assert "no class scores" in verdict_sentence(verdict_of(got, "images")) or counted


def test_an_embedding_has_no_answer_but_where_images_have_labels():
    pair = network(shape=(0, 12)), network(shape=(0, 12))
    x, name = images(), pair[0].outputs[0]
    assert compare(*pair, x, without_classes=[name]).agreement is None
    labelled = Images(x.x, np.zeros(70, np.int64), "")
    assert compare(*pair, labelled, without_classes=[name]).agreement == 100.0


def test_labels_are_answers_too():
    pair = [network(("ArgMax", {"axis": 1, "keepdims": keep}), shape=(0, 12)) for keep in (0, 0)]
    got = compare(*pair, images())
    assert (got.agreement, got.rows, got.tangent) == (100.0, 70, None)


def test_probabilities_are_as_far_apart_as_the_scores_in_front_of_them():
    found = []
    for ends in ((), (("Softmax", {"axis": 1}),)):
        net = [graphs.Net(("n", 12)) for _ in range(2)]
        both = []
        for one, factor in zip(net, (1.0, 1.1), strict=True):
            y = one.node("Mul", "x", one.weight("f", np.linspace(1, factor, 12).astype(np.float32)))
            for op, attributes in ends:
                y = one.node(op, y, **attributes)
            both.append(Session(one.model(y)))
        x = Images(np.sin(np.arange(600, dtype=np.float32)).reshape(50, 12), None, "")
        found.append(compare(*both, x).tangent)
    assert found[0] == pytest.approx(found[1], rel=1e-3) and found[0] > 0.01


def detector(shift=0.0):
    """A head of four channels of a box and two of classes, ``[n, 6, 3]`` of x ``[n, 18]``."""
    net = graphs.Net(("n", 18))
    x = net.node("Reshape", "x", net.weight("shape", np.array([0, 6, 3])))
    places = net.node("Slice", x, *(net.weight(k, np.array([v])) for k, v in (("a", 0), ("b", 4), ("c", 1))))
    scores = net.node("Slice", x, *(net.weight(k, np.array([v])) for k, v in (("d", 4), ("e", 6), ("f", 1))))
    scores = net.node("Sigmoid", net.node("Add", scores, net.weight("s", np.float32(shift))))
    return net.model(net.node("Concat", places, scores, axis=1))


def test_a_detector_is_judged_by_the_boxes_that_are_found_again():
    x = np.zeros((40, 6, 3), np.float32)
    x[:, :4] = np.array([[10, 10, 30, 30], [100, 100, 140, 120], [50, 50, 70, 90]], np.float32).T
    x[:, 4:] = -9
    x[:, 4, 0], x[:, 5, 1] = 1.0, 0.0  # two boxes, of scores 0.73 and 0.5
    fed, places = Images(x.reshape(40, 18), None, "pictures"), score_channels(detector())
    assert places
    for shift, again, level in ((0.1, 80, "good"), (-1.5, 40, "bad")):
        pair = Session(detector()), Session(detector(shift))
        verdict = verdict_of(compare(*pair, fed, (), places), "images")
        assert verdict.boxes == (again, 80) and verdict.level == level
        assert verdict_sentence(verdict).startswith(f"{LEVEL_WORDS[level]}: {again} of 80 boxes are found again")
        assert verdict_of(compare(*pair, fed, (), places), "generated").boxes is None


def test_a_count_beside_a_map_is_no_label():
    """Of a detector it said "0 % of real inputs keep their class" where the numbers of detections differed."""
    net = graphs.Net(("n", 3, 8, 8))
    scores = net.conv("x", 2)
    count = net.node("ReduceSum", net.node("Cast", net.relu(scores), to=7), net.weight("axes", np.array([1, 2, 3])))
    model = net.model(count, scores)
    x = Images(RANDOM.standard_normal((36, 3, 8, 8)).astype(np.float32), None, "")
    got = compare(Session(model), Session(model), x, *output_kinds(model))
    assert (got.agreement, got.rows) == (None, 0)


def test_a_single_generated_input_is_too_few_whatever_the_outputs_are():
    """Under `--max-seconds` it said of a classifier that its outputs were no class scores."""
    verdict = Verdict("check", "generated", 1, "1 generated image of 8x8", sqnr_db=21.3, error_percent=8.6)
    sentence = verdict_sentence(verdict)
    assert "1 generated image of 8x8; one input is too few to estimate the agreement from; images of yours" in sentence
    assert "no class scores" not in sentence


@pytest.mark.parametrize(("changed", "level", "low"), [(0, "check", False), (2, "check", False), (40, "bad", True)])
def test_labels_on_made_up_inputs_are_no_map_of_scores(changed, level, low):
    """It said "an output error of 18 %" of 2 labels of 64, and that the outputs were no class scores."""
    verdict = verdict_of(found(tangent=None, changed=changed, sqnr_db=15.05), "generated")
    assert (verdict.kind, verdict.level, verdict.is_low) == ("labels", level, low)
    sentence = verdict_sentence(verdict)
    assert sentence.startswith(f"{LEVEL_WORDS[level]}: {64 - changed} of 64 labels are the same on 64 inputs; ")
    assert "dB" not in sentence and "no class scores" not in sentence
    if low:
        assert "24 of 64 labels are the same" in low_verdict_warning(verdict, "see to it")


def test_labels_on_images_of_the_users_own_have_no_decibels():
    verdict = verdict_of(found(tangent=None, changed=20, rows=100, sqnr_db=7.0), "images")
    said = verdict_sentence(verdict)
    assert (
        said.startswith("BAD, do not use it as it is: 80 of 100 answers on 64 inputs keep the float model's class; ")
        and verdict.is_low
    )
    assert "; more images narrow this; `dfmpc-onnx diagnose`" in said and "dB" not in said
    assert "keeps the class of only about 80 % of 64 inputs" in low_verdict_warning(verdict, "see to it")


def test_the_number_of_images_is_said_once():
    verdict = Verdict(
        "good", "images", 500, "500 images of photos/", 98.6, (97.1, 99.3), 493, 500, sqnr_db=31.2, error_percent=2.8
    )
    assert (
        "493 of 500 images of photos/ keep the float model's class, SQNR 31.2 dB; about 98.6 % of real inputs should ("
        in verdict_sentence(verdict)
    )
