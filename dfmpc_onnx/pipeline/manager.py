"""The pass manager: order checked before anything runs, promises checked after each pass, results as data."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Generic, Protocol, TypeVar

import msgspec

from dfmpc_onnx.errors import DfmpcError, ModelError, PassError, PipelineError
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.refusals import Refusal as Refusal
from dfmpc_onnx.pipeline.workspace import Workspace


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For passes that have nothing to set."""


OptionsT = TypeVar("OptionsT", bound=msgspec.Struct, covariant=True)
Figure = float | int | str


class Rewrite(msgspec.Struct, frozen=True):
    """One change: where, what, and the figures that describe it."""

    site: str
    action: str
    figures: dict[str, Figure] = msgspec.field(default_factory=dict)


class PassResult(msgspec.Struct, frozen=True):
    """What a pass did, as data. `notes` are facts about the whole run; `warnings` ask for the user's attention.

    fallback: where the pass could not go on, the names of those that ran in its place; their results follow.
    """

    name: str
    rewrites: tuple[Rewrite, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()


class CannotGoOn(Exception):
    """Raised by a pass that cannot treat the network at all, with the workspace as it was before it ran.

    The fallback of its step runs in its place; without one the reason is an error.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason


class Pass(ABC, Generic[OptionsT]):
    """One transformation of the workspace.

    A concrete pass sets `name`, the facts it `requires`, `provides` and `discards` (those that its change makes
    untrue), and its `Options`, whose fields are the keys that a recipe may give. Its docstring has the headings
    Before, After, Why, Requires, Refuses when, Reference.

    by_layer: whether it reports each layer to the workspace's progress, since it takes long.
    may_stop: whether it may raise CannotGoOn. fallback: what then runs in its place; a recipe gives it.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[type[object], ...]] = ()
    provides: ClassVar[tuple[type[object], ...]] = ()
    discards: ClassVar[tuple[type[object], ...]] = ()
    Options: ClassVar[type[msgspec.Struct]] = NoOptions
    by_layer: ClassVar[bool] = False
    may_stop: ClassVar[bool] = False
    fallback: tuple[Pass[msgspec.Struct], ...] = ()

    def __init__(self, options: OptionsT | None = None) -> None:
        self.options: OptionsT = options if options is not None else self.Options()  # type: ignore[assignment]

    def reads_images(self) -> bool:
        """Whether images that the user gives make a difference to this pass."""
        return False

    @property
    def may_read_images(self) -> bool:
        """Whether they make a difference to this pass, or to one that may run in its place."""
        return self.reads_images() or any(part.may_read_images for part in self.fallback)

    @abstractmethod
    def run(self, workspace: Workspace) -> PassResult:
        """Change the workspace and say what was done. May raise UserError for what the user can fix, and CannotGoOn."""


class Instrument(Protocol):
    """Watches a pipeline from outside; never changes the workspace."""

    def before(self, name: str, workspace: Workspace) -> None:
        """Called before each pass."""

    def after(self, name: str, workspace: Workspace, result: PassResult) -> None:
        """Called after each pass."""


@dataclasses.dataclass(frozen=True)
class PassManager:
    """Runs passes in order. `known` names, for messages, other passes that could provide a missing fact."""

    passes: Sequence[Pass[msgspec.Struct]]
    instruments: Sequence[Instrument] = ()
    known: Mapping[str, type[Pass[msgspec.Struct]]] = dataclasses.field(default_factory=dict)

    def check(self, given: Iterable[type[object]] = ()) -> None:
        """Raise PipelineError where a pass requires a fact that no earlier pass provides, whichever way it goes."""
        self._known_after(self.passes, frozenset(given), (), "")

    def _known_after(
        self, steps: Steps, given: frozenset[type[object]], earlier: Steps, place: str
    ) -> frozenset[type[object]]:
        """The facts that are known behind the steps; a step with a fallback leaves those that both ways leave.

        earlier: what ran in front of the steps; place: of what they are the fallback; both for messages.
        """
        known = given
        for position, step in enumerate(steps):
            for fact in step.requires:
                if fact not in known:
                    in_front = (*earlier, *steps[:position])
                    raise PipelineError(self._missing(steps, position, fact, in_front, place))
            after = (known - set(step.discards)) | set(step.provides)
            if step.fallback:
                in_front = (*earlier, *steps[:position])
                after &= self._known_after(step.fallback, known, in_front, f" of the fallback of {step.name}")
            known = after
        return known

    def _missing(self, steps: Steps, position: int, fact: type[object], in_front: Steps, place: str) -> str:
        step = steps[position]
        where = f"pass {step.name} (number {position + 1}{place}) requires {fact.__name__}"
        for earlier in reversed(in_front):
            if fact in earlier.discards:
                return (
                    f"{where}, which {earlier.name} in front of it has used up; put {step.name} before {earlier.name}"
                )
            if fact in earlier.provides:
                return f"{where}, which {earlier.name} provides but its fallback does not; add one that does to that"
            if any(fact in part.discards for part in earlier.fallback):
                return f"{where}, which the fallback of {earlier.name} uses up; put {step.name} before {earlier.name}"
        for later in steps[position + 1 :]:
            if fact in later.provides and fact not in later.requires:
                return f"{where}, which {later.name} provides only behind it; put {later.name} first"
        # A pass that itself needs the fact, and changes it, does not help.
        providers = [n for n, kind in self.known.items() if fact in kind.provides and fact not in kind.requires]
        remedy = f"add {' or '.join(sorted(providers))} before it" if providers else "no known pass provides it"
        return f"{where}, which no pass in front of it provides; {remedy}"

    def run(self, workspace: Workspace) -> tuple[PassResult, ...]:
        """Run every pass; where one falls back, its result stands in front of those of its fallback.

        Raises PipelineError before the first, UserError as passes do, ModelError where one cannot go on and has no
        fallback, PassError for a defect.
        """
        self.check(workspace.known)
        results: list[PassResult] = []
        for step in self.passes:
            self._run(step, workspace, results)
        return tuple(results)

    def _run(self, step: Pass[msgspec.Struct], workspace: Workspace, results: list[PassResult]) -> None:
        """Run a step, or what it falls back to; adds to the results."""
        try:
            for instrument in self.instruments:
                instrument.before(step.name, workspace)
            result = _result(step, workspace)
            for instrument in self.instruments:
                instrument.after(step.name, workspace, result)
        except (DfmpcError, MemoryError):
            raise
        except Exception as error:
            raise PassError(step.name, tuple(done.name for done in results), error) from error
        results.append(result)
        for part in step.fallback if result.fallback else ():
            self._run(part, workspace, results)


Steps = Sequence[Pass[msgspec.Struct]]


def _result(step: Pass[msgspec.Struct], workspace: Workspace) -> PassResult:
    """Run a pass, keep its promises, and put its name to what it refuses."""
    before = workspace.snapshot() if step.fallback else None
    try:
        result = step.run(workspace)
    except CannotGoOn as stop:
        if before is not None:
            workspace.restore(before)
        return _fallen_back(step, stop.reason, workspace)
    for fact in step.discards:
        workspace.discard(fact)
    broken = [fact.__name__ for fact in step.provides if workspace.find(fact) is None]
    if broken:
        raise RuntimeError(f"it promises {', '.join(broken)} but did not provide it")
    refusals = tuple(msgspec.structs.replace(refusal, by=step.name) for refusal in result.refusals)
    return msgspec.structs.replace(result, refusals=refusals)


def _fallen_back(step: Pass[msgspec.Struct], reason: Reason, workspace: Workspace) -> PassResult:
    if not step.fallback:
        raise ModelError(
            f"{workspace.label}: pass {step.name} cannot go on: {reason.text}; name other passes as its fallback in "
            "the recipe, or take another recipe"
        )
    names = tuple(part.name for part in step.fallback)
    refusal = Refusal("model", reason.text, reason.code, step.name)
    return PassResult(
        step.name,
        (),
        (refusal,),
        warnings=(f"{reason.text}; in place of {step.name}: {', '.join(names)}",),
        fallback=names,
    )
