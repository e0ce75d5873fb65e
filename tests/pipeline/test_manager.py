import dataclasses
from typing import ClassVar

import msgspec
import numpy as np
import onnx
import pytest

from dfmpc_onnx.errors import DfmpcError, ModelError, PassError, PipelineError
from dfmpc_onnx.evaluation.instruments import FidelityAfterEachPass
from dfmpc_onnx.pipeline.facts import Layers
from dfmpc_onnx.pipeline.instruments import Dump, PassSteps, Timing
from dfmpc_onnx.pipeline.manager import CannotGoOn, Pass, PassManager, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.progress import Progress
from dfmpc_onnx.pipeline.refusals import UNSTATED, Reason
from tests import graphs


@dataclasses.dataclass(frozen=True)
class Egg:
    """A fact."""


@dataclasses.dataclass(frozen=True)
class Chick:
    """Another."""


class Recording(Pass):
    """Base of the passes below: notes its name when it runs."""

    ran: ClassVar[list[str]] = []

    def run(self, workspace):
        self.ran.append(self.name)
        for fact in self.provides:
            workspace.put(fact())
        return PassResult(self.name)


class Lay(Recording):
    name = "lay"
    provides = (Egg,)


class Hatch(Recording):
    name = "hatch"
    requires = (Egg,)
    provides = (Chick,)
    discards = (Egg,)


class Fry(Recording):
    name = "fry"
    requires = (Egg,)


class Empty(Recording):
    name = "empty"
    provides = (Egg,)

    def run(self, workspace):
        return PassResult(self.name)


class Broken(Recording):
    name = "broken"

    def run(self, workspace):
        raise ZeroDivisionError("three over nothing")


class Picky(Recording):
    name = "picky"

    def run(self, workspace):
        raise ModelError("the model is not to my taste")


@pytest.fixture(autouse=True)
def ran():
    Recording.ran = []
    return Recording.ran


def run(*passes, instruments=(), known=None):
    return PassManager(passes, instruments, known or {}).run(graphs.workspace(graphs.chain()))


def test_passes_run_in_order_and_hand_back_their_results():
    assert [result.name for result in run(Lay(), Hatch())] == ["lay", "hatch"]


@pytest.mark.parametrize(
    ("order", "known", "message"),
    [
        ((Hatch, Lay), {}, r"pass hatch \(number 1\) requires Egg, which lay provides only behind it; put lay first"),
        ((Hatch,), {"lay": Lay}, r"hatch \(number 1\) requires Egg, .*; add lay before it"),
        ((Hatch,), {}, "no known pass provides it"),
        (
            (Lay, Hatch, Fry),
            {},
            r"fry \(number 3\) requires Egg, which hatch in front of it has used up; put fry before",
        ),
    ],
)
def test_a_wrong_order_is_refused_before_anything_runs_naming_the_pass_that_is_missing(order, known, message, ran):
    with pytest.raises(PipelineError, match=message):
        run(*(kind() for kind in order), known=known)
    assert ran == []


def test_facts_that_the_workspace_already_has_count():
    space = graphs.workspace(graphs.chain())
    space.put(Egg())
    assert [r.name for r in PassManager([Fry()]).run(space)] == ["fry"]


def test_a_discarded_fact_is_gone():
    space = graphs.workspace(graphs.chain())
    PassManager([Lay(), Hatch()]).run(space)
    assert space.known == {Chick}
    assert space.find(Egg) is None
    with pytest.raises(KeyError):
        space.get(Egg)


def test_a_defect_names_the_pass_and_those_done_and_keeps_its_cause(ran):
    with pytest.raises(
        PassError, match=r"pass broken failed \(ZeroDivisionError: three over nothing\).*: lay"
    ) as caught:
        run(Lay(), Broken(), Hatch())
    assert (caught.value.name, caught.value.done) == ("broken", ("lay",))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert ran == ["lay"]


def test_a_mistake_of_the_user_comes_through_as_it_is():
    with pytest.raises(ModelError, match="not to my taste"):
        run(Picky())


def test_a_broken_promise_is_a_defect():
    with pytest.raises(PassError, match=r"pass empty failed .* it promises Egg but did not provide it"):
        run(Empty())


def test_results_are_data_that_json_carries():
    result = PassResult("lay", (Rewrite("nest", "laid", {"eggs": 3}),))
    assert msgspec.json.decode(msgspec.json.encode(result), type=PassResult) == result


def test_options_have_defaults_and_can_be_given():
    kind = type(graphs.pipeline("assign_bits")[-1])
    assert kind().options.edges == 8
    assert kind(kind.Options(edges=4)).options.edges == 4


class Diary:
    def __init__(self):
        self.lines = []

    def before(self, name, workspace):
        self.lines.append(f"before {name}")

    def after(self, name, workspace, result):
        assert result.name == name
        self.lines.append(f"after {name}")


def test_instruments_see_every_pass_before_and_after():
    diary = Diary()
    run(Lay(), Hatch(), instruments=[diary])
    assert diary.lines == ["before lay", "after lay", "before hatch", "after hatch"]


def test_an_instrument_that_fails_is_a_defect_too():
    class Clumsy(Diary):
        def after(self, name, workspace, result):
            raise OSError("dropped the pen")

    with pytest.raises(PassError, match="dropped the pen"):
        run(Lay(), instruments=[Clumsy()])


def test_timing_and_progress_tell_the_passes_in_order():
    timing, steps = Timing(), []
    workspace = graphs.workspace(graphs.chain())
    workspace.progress = Progress(lambda done, total, name: steps.append((done, total, name)))
    workspace.progress.expect(2)
    PassManager([Lay(), Hatch()], [timing, PassSteps()]).run(workspace)
    assert steps == [(0, 2, "lay"), (1, 2, "hatch")]
    assert [name for name, _ in timing.seconds] == ["lay", "hatch"]
    assert all(seconds >= 0 for _, seconds in timing.seconds)


def test_dump_writes_the_graph_after_each_pass(tmp_path):
    PassManager(graphs.pipeline("quantize_weights"), [Dump(tmp_path)]).run(graphs.workspace(graphs.chain()))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files[0] == "01_normalize.onnx" and files[-1] == "09_quantize_weights.onnx"
    weights = [
        next(onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / f).graph.initializer if t.name == "conv2.w")
        for f in (files[0], files[-1])
    ]
    assert not np.array_equal(*weights)


def test_fidelity_after_each_pass_falls_where_weights_are_quantized():
    watch = FidelityAfterEachPass(graphs.input_of(graphs.chain()))
    PassManager(graphs.pipeline("quantize_weights"), [watch]).run(graphs.workspace(graphs.chain()))
    figures = dict(watch.sqnr_db)
    assert figures["normalize"] > 100
    assert figures["quantize_weights"] < 60


def test_the_tree_of_errors_has_one_root():
    assert issubclass(PipelineError, DfmpcError) and issubclass(PassError, DfmpcError)


def test_the_workspace_keeps_one_fact_of_a_type():
    space = graphs.workspace(graphs.chain())
    first, second = Layers(()), Layers(())
    space.put(first)
    space.put(second)
    assert space.get(Layers) is second


# Refusals


class Shy(Recording):
    name = "shy"

    def run(self, workspace):
        return PassResult(self.name, refusals=(Refusal("nest", "it is dark", "too-dark"), Refusal("tree", "no nest")))


def test_a_refusal_carries_the_pass_that_the_manager_fills_in():
    (result,) = run(Shy())
    assert result.refusals == (
        Refusal("nest", "it is dark", "too-dark", "shy"),
        Refusal("tree", "no nest", UNSTATED, "shy"),
    )
    assert msgspec.to_builtins(result.refusals[0]) == {
        "site": "nest",
        "reason": "it is dark",
        "code": "too-dark",
        "pass": "shy",
    }


# A pass that cannot go on, and what its step falls back to


class Brood(Recording):
    """Cannot go on."""

    name = "brood"
    requires = (Egg,)
    provides = (Chick,)
    discards = (Egg,)

    def run(self, workspace):
        raise CannotGoOn(Reason("cold", "the egg is cold"))


class Hollow(Recording):
    name = "hollow"
    provides = (Chick,)

    def run(self, workspace):
        return PassResult(self.name)


def falling(kind, *fallback):
    step = kind()
    step.fallback = fallback
    return step


def test_the_fallback_runs_in_place_of_a_pass_that_cannot_go_on_and_instruments_see_it():
    diary = Diary()
    results = run(Lay(), falling(Brood, Hatch()), Shy(), instruments=[diary])
    assert [result.name for result in results] == ["lay", "brood", "hatch", "shy"]
    assert results[1].fallback == ("hatch",)
    assert results[1].refusals == (Refusal("model", "the egg is cold", "cold", "brood"),)
    assert results[1].warnings == ("the egg is cold; in place of brood: hatch",)
    assert diary.lines[2:6] == ["before brood", "after brood", "before hatch", "after hatch"]


def test_facts_that_the_fallback_discards_are_gone_and_those_of_the_pass_itself_stay():
    class Wait(Recording):
        name = "wait"
        provides = (Chick,)

    for fallback, known in ((Hatch(), {Chick}), (Wait(), {Egg, Chick})):
        space = graphs.workspace(graphs.chain())
        PassManager([Lay(), falling(Brood, fallback)]).run(space)
        assert space.known == known


def test_a_fallback_may_fall_back_itself():
    assert [r.name for r in run(Lay(), falling(Brood, falling(Brood, Hatch())))] == ["lay", "brood", "brood", "hatch"]


def test_a_pass_that_goes_on_needs_no_fallback():
    assert [result.name for result in run(falling(Lay, Shy()))] == ["lay"]


def test_a_promise_that_the_fallback_breaks_is_a_defect():
    with pytest.raises(PassError, match=r"pass hollow failed .* promises Chick .*passes already run: lay, brood"):
        run(Lay(), falling(Brood, Hollow()))


def test_without_a_fallback_the_reason_is_an_error_in_one_line():
    with pytest.raises(ModelError, match="pass brood cannot go on: the egg is cold; name other passes as its fallback"):
        run(Lay(), Brood())


class Crow(Recording):
    name = "crow"
    requires = (Chick,)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((Lay, (Brood, Crow)), r"pass crow \(number 1 of the fallback of brood\) requires Chick, .* no known pass"),
        (
            (Lay, (Brood, Fry), Crow),
            r"pass crow \(number 3\) requires Chick, which brood provides but its fallback",
        ),
        ((Lay, (Fry, Hatch), Fry), r"pass fry \(number 3\) requires Egg, which the fallback of fry uses up; put fry"),
        (
            (Lay, Hatch, (Shy, Fry)),
            r"number 1 of the fallback of shy\) requires Egg, which hatch in front of it",
        ),
    ],
)
def test_the_order_is_checked_for_both_ways(steps, said, ran):
    built = [falling(step[0], *(kind() for kind in step[1:])) if isinstance(step, tuple) else step() for step in steps]
    with pytest.raises(PipelineError, match=said):
        run(*built)
    assert ran == []
