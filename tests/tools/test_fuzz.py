"""A sample of what `python -m tools.fuzz` tries: every model is quantized and agrees, or refused in one line.

Hypothesis draws the cases, so what fails is shrunk to the smallest network that does.
"""

from __future__ import annotations

import os
import pathlib
import random
import signal
import sys
from multiprocessing.connection import Connection

import hypothesis
import hypothesis.strategies as st
import numpy as np
import onnx
import pytest

from dfmpc_onnx import memory
from tests.graphs import ALL, Net
from tools.fuzz import trial
from tools.fuzz.__main__ import main
from tools.fuzz.control_flow import control
from tools.fuzz.drawing import Drawing
from tools.fuzz.grammars import GRAPHS, drawer
from tools.fuzz.layers import conv
from tools.fuzz.mutations import mutated
from tools.fuzz.networks import Network, finished, network
from tools.fuzz.trial import AGREEING, ALONE, ERROR, GOOD, REFUSED, Case, drawn, of_network, tried

SETTINGS = st.sampled_from(trial.SETTINGS)
# A network that fails takes a few minutes to shrink; `hypothesis` would otherwise complain of slow cases.
CHECKS = {"suppress_health_check": list(hypothesis.HealthCheck), "print_blob": False}


MOST_MEMORY = 6 << 30  # of a case: tests run side by side


@pytest.fixture(autouse=True)
def within_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: MOST_MEMORY)


def judge(case: Case) -> None:
    with memory.limit_memory():  # as the command line does: a damaged model may ask for all there is
        found = tried(case)
    assert found.outcome in GOOD, f"{found.place}: {found.detail}"


@hypothesis.settings(max_examples=130, **CHECKS)
@hypothesis.given(rng=st.randoms(use_true_random=False), setting=SETTINGS)
def test_a_random_network_is_quantized_and_agrees_or_is_refused(
    rng: random.Random, setting: tuple[dict[str, object], float | None]
) -> None:
    judge(of_network("network", network(rng), *setting))


@hypothesis.settings(max_examples=90, **CHECKS)
@hypothesis.given(rng=st.randoms(use_true_random=False), name=st.sampled_from(sorted(ALL)), setting=SETTINGS)
def test_a_damaged_network_is_quantized_or_refused(
    rng: random.Random, name: str, setting: tuple[dict[str, object], float | None]
) -> None:
    data = mutated(ALL[name]().SerializeToString(), rng)
    judge(Case("damaged", name, data, setting[0], None))


SMALL = [path for path in trial.files() if path.stat().st_size < 100_000]


@hypothesis.settings(max_examples=80, **CHECKS)
@hypothesis.given(rng=st.randoms(use_true_random=False), file=st.sampled_from(SMALL), setting=SETTINGS)
def test_a_damaged_file_is_quantized_or_refused(
    rng: random.Random, file: pathlib.Path, setting: tuple[dict[str, object], float | None]
) -> None:
    judge(Case("damaged", file.name, mutated(trial.recent(file.read_bytes()), rng), setting[0], None))


# The tool itself


def test_a_number_makes_the_same_case_again():
    sources = trial.files()
    for number in range(20):
        assert drawn(7, number, sources) == drawn(7, number, sources)
    assert drawn(7, 1, sources) != drawn(8, 1, sources)


def test_any_model_can_be_damaged():
    """Flags and strings have no opposite, and what lies in another file no values: no reason to give up."""
    model = ALL["chain"]()
    del model.graph.initializer[:]
    for kind in (np.array([True, False]), np.array(["a", "b"], object)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(kind, "k"))
    outside = onnx.TensorProto(name="o", data_type=onnx.TensorProto.FLOAT, dims=[1])
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value=".")
    model.graph.initializer.append(outside)
    for number in range(300):
        assert mutated(model.SerializeToString(), random.Random(number))


def test_most_random_networks_are_valid_and_most_damaged_ones_are_not():
    """Or neither would try anything."""
    found = [
        tried(of_network("network", network(random.Random(seed)), {"recipe": "paper"}, None)) for seed in range(30)
    ]
    assert sum(outcome.outcome in (AGREEING, REFUSED) for outcome in found) > 15
    data = ALL["chain"]().SerializeToString()
    broken = [tried(Case("", "", mutated(data, random.Random(seed)), {"recipe": "paper"}, None)) for seed in range(30)]
    assert sum(outcome.outcome in (ERROR, ALONE) for outcome in broken) > 10


def test_control_flow_is_drawn_of_every_kind_and_ends_or_is_stopped(monkeypatch):
    monkeypatch.setattr(trial, "LOOP_SECONDS", 0.1)
    found: dict[str, list[trial.Outcome]] = {"If": [], "Loop": [], "Scan": []}
    said = set()
    for number in range(30):
        draw = Drawing(random.Random(number), spoiled=False)
        draw.input(4)
        conv(draw)
        control(draw)
        made = Network(finished(draw), draw.ordinary, tuple(draw.given))
        outcome = tried(of_network("", made, {"recipe": "int8", "preprocess": "imagenet"}, None))
        assert outcome.outcome in GOOD, f"{outcome.place}: {outcome.detail}"
        said.add(outcome.place)
        for node in made.model.graph.node:
            if node.op_type in found:
                found[node.op_type].append(outcome)
    for kind, outcomes in found.items():
        assert sum(outcome.outcome == AGREEING for outcome in outcomes) > 2, kind
    assert any("did not end within" in place for place in said)
    assert any("computes nothing" in place for place in said)


def dying(seed: int, pipe: Connection) -> None:
    """A worker that a case takes with it."""
    while (number := pipe.recv()) is not None:
        pipe.send(Case("kind", "", b"model", {}, None))
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        pipe.send(trial.Outcome(AGREEING))


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals and limits of memory")
def test_a_case_that_kills_its_process_is_told_and_the_others_go_on():
    from tools.fuzz import pool

    found = {number: (case.model, outcome) for number, case, outcome in pool.results(1, range(4), 1, dying)}
    assert [found[number][1].outcome for number in (0, 2, 3)] == [AGREEING] * 3
    model, outcome = found[1]
    assert (model, outcome.outcome, outcome.place) == (b"model", "defect", "crash")
    assert str(-signal.SIGKILL) in outcome.detail


@pytest.mark.parametrize("fault", ["raises", "warns", "swells", "writes to the input", "disagrees", "leaves a file"])
def test_what_is_no_good_outcome_is_told(monkeypatch, fault):
    quantize = trial.dfmpc_onnx.quantize

    def broken(source, target, **options):
        if fault == "raises":
            raise ValueError("a slip")
        if fault == "warns":
            trial.warnings.warn("a slip", RuntimeWarning, stacklevel=1)
        if fault == "swells":
            raise MemoryError
        if fault == "leaves a file":
            (target.parent / "left").touch()
            raise trial.UserError("no")
        made = quantize(source, target, **options)
        if fault == "writes to the input":
            source.write_bytes(b"")
        if fault == "disagrees":
            model = onnx.load(target)
            model.graph.node[-1].op_type = "MatMul" if model.graph.node[-1].op_type == "Gemm" else "Gemm"
            target.write_bytes(model.SerializeToString())
        return made

    monkeypatch.setattr(trial.dfmpc_onnx, "quantize", broken)
    case = Case("", "", ALL["chain"]().SerializeToString(), {"recipe": "paper"}, 0.0)
    assert tried(case).outcome == (trial.MEMORY if fault == "swells" else "defect")


@pytest.mark.parametrize("cancels", [True, False])
def test_an_output_whose_terms_cancel_is_judged_by_what_rounding_its_weights_leaves(monkeypatch, cancels):
    """Nothing is wrong with a tool that loses there what any rounding of the weights loses."""
    net = Net((1, 3, 4, 4))
    halves = net.node("HardSigmoid", net.node("Mul", net.conv("x", 8), net.weight("small", np.float32(0.01))))
    weight = np.random.default_rng(3).standard_normal((1, 128)).astype(np.float32)
    weight -= weight.mean() * np.float32(cancels)
    model = net.model(net.node("Gemm", net.node("Flatten", halves), net.weight("w", weight), transB=1))
    case = Case(
        "", "", model.SerializeToString(), {"recipe": "per-channel", "weights": "8", "activations": "none"}, 40.0
    )
    assert tried(case).outcome == AGREEING
    monkeypatch.setattr(trial, "rounded", lambda model: model)
    assert tried(case).outcome == ("defect" if cancels else AGREEING)


def looping(seed: int, pipe: Connection) -> None:
    """A worker that a case never lets go."""
    while (number := pipe.recv()) is not None:
        pipe.send(Case("kind", "", b"model", {}, None))
        while number == 1:
            pass
        pipe.send(trial.Outcome(AGREEING))


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals and limits of memory")
@pytest.mark.parametrize("strict", [False, True])
def test_what_8_bit_activations_lose_on_inputs_that_they_were_made_for_is_judged(monkeypatch, strict):
    if strict:
        monkeypatch.setattr(trial, "LEAST_CHECKED", 120.0)
        monkeypatch.setattr(trial, "LEEWAY", 0.0)
    options = {"recipe": "int8", "activations": "8"}
    net = Net()
    model = net.model(net.conv(net.relu(net.conv("x", 8, bias=True)), 4)).SerializeToString()
    found = tried(Case("network", "network", model, options, None, ordinary=True))
    assert found.outcome == ("defect" if strict else AGREEING), found.detail
    assert not strict or (found.place == "activations" and "with float activations" in found.detail)
    assert tried(Case("network", "network", model, options, None)).outcome == AGREEING
    measured_on_others = ALL["chain"]().SerializeToString()
    assert Case("network", "network", measured_on_others, options, None, ordinary=True).least_checked is None


def test_a_case_that_never_ends_is_told_and_the_others_go_on(monkeypatch):
    from tools.fuzz import pool

    monkeypatch.setattr(pool, "SECONDS", 0.2)
    monkeypatch.setattr(pool, "PATIENCE", 1000.0)
    found = {number: outcome for number, _, outcome in pool.results(1, range(3), 1, looping)}
    assert (found[1].outcome, found[1].place) == ("defect", "hang")
    assert found[2].outcome == AGREEING


def test_models_of_cases_are_written_for_a_batch(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["fuzz", "--seed", "7", "--cases", "3", "--models", str(tmp_path / "models")])
    assert main() == 0
    files = sorted((tmp_path / "models").iterdir())
    assert [file.name for file in files] == ["7_0.onnx", "7_1.onnx", "7_2.onnx"]
    assert files[0].read_bytes() == drawer(GRAPHS)(7, 0).model
