"""A limit on the time of a run, as the user gives it: a step of the recipe, and what that step measures with."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import onnx

from dfmpc_onnx import catalog
from dfmpc_onnx.api.intake import Intake
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.evaluation.time_trials import LimitJudged, TimeLimit, TimeTrials
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.pipeline.facts import Placement
from dfmpc_onnx.pipeline.manager import Pass, PassManager
from dfmpc_onnx.pipeline.recipe import Recipe, Step
from dfmpc_onnx.pipeline.settings import Settings
from dfmpc_onnx.pipeline.workspace import Workspace


def _providers(fact: type[object]) -> list[str]:
    """The names of the passes that provide a fact."""
    return [name for name, kind in catalog.passes().items() if fact in kind.provides]


def with_time_limit(recipe: Recipe, limit: str | float | None) -> Recipe:
    """The recipe with a step that meets a limit, in front of what puts integers into the graph; as it is without one.

    Raises OptionError.
    """
    if limit is None:
        return recipe
    limit = str(limit)
    TimeLimit.parse(limit)
    limiting, placing = _providers(LimitJudged), _providers(Placement)
    step = Step(limiting[0], {"limit": limit.strip()}, "max-latency")
    steps = [own for own in recipe.steps if catalog.current_name(own.use) not in limiting]
    places = [index for index, own in enumerate(steps) if catalog.current_name(own.use) in placing]
    if not places:
        raise OptionError(f"max-latency: recipe {recipe.name} has no {placing[0]}, so nothing computes in integers")
    return msgspec.structs.replace(recipe, steps=(*steps[: places[0]], step, *steps[places[0] :]))


def check_timed(settings: Settings) -> None:
    """Raise OptionError where a limit on time can change nothing."""
    if settings.few_bits is not None:
        raise OptionError(
            "max-latency: layers that read few bits compute in float, so none can be made faster; leave it out"
        )
    if not settings.target.between:
        raise OptionError(
            f"max-latency: times are measured on the CPU provider, and the file is for {settings.target.name}; leave "
            "it out"
        )
    if settings.activations == "none":
        raise OptionError("max-latency: activations stay in float, so nothing can be made faster; leave it out")


def allow_trials(taken: Intake) -> None:
    """Let the pass that meets a limit, where the recipe has one, build and time the files that would result."""
    places = [index for index, step in enumerate(taken.pipeline) if LimitJudged in step.provides]
    if not places:
        return
    behind = taken.pipeline[places[-1] + 1 :]
    source = taken.source
    taken.workspace.put(TimeTrials(source.path or source.model, lambda workspace: _finished(workspace, behind)))


def _finished(workspace: Workspace, steps: Sequence[Pass[msgspec.Struct]]) -> onnx.ModelProto:
    """The file that steps make of a workspace, which is left as it was."""
    before = workspace.snapshot()
    try:
        PassManager(steps).run(workspace)
        return to_model(workspace.graph)
    finally:
        workspace.restore(before)
