"""The pass manager: order checked before anything runs, promises checked after each pass, results as data."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Generic, Protocol, TypeVar

import msgspec

from dfmpc_onnx.errors import DfmpcError, PassError, PipelineError
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


class Refusal(msgspec.Struct, frozen=True):
    """One site that the pass left alone, and why."""

    site: str
    reason: str


class PassResult(msgspec.Struct, frozen=True):
    """What a pass did, as data. `notes` are facts about the whole run; `warnings` ask for the user's attention."""

    name: str
    rewrites: tuple[Rewrite, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Pass(ABC, Generic[OptionsT]):
    """One transformation of the workspace.

    A concrete pass sets `name`, the facts it `requires`, `provides` and `discards` (those that its change makes
    untrue), and its `Options`, whose fields are the keys that a recipe may give. Its docstring has the headings
    Before, After, Why, Requires, Refuses when, Reference.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[type[object], ...]] = ()
    provides: ClassVar[tuple[type[object], ...]] = ()
    discards: ClassVar[tuple[type[object], ...]] = ()
    Options: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self, options: OptionsT | None = None) -> None:
        self.options: OptionsT = options if options is not None else self.Options()  # type: ignore[assignment]

    def reads_images(self) -> bool:
        """Whether images that the user gives make a difference to this pass."""
        return False

    @abstractmethod
    def run(self, workspace: Workspace) -> PassResult:
        """Change the workspace and say what was done. May raise UserError for what the user can mend."""


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
        """Raise PipelineError where a pass requires a fact that no earlier pass provides."""
        facts = set(given)
        for position, step in enumerate(self.passes):
            for fact in step.requires:
                if fact not in facts:
                    raise PipelineError(self._missing(position, step, fact))
            facts -= set(step.discards)
            facts |= set(step.provides)

    def _missing(self, position: int, step: Pass[msgspec.Struct], fact: type[object]) -> str:
        where = f"pass {step.name} (number {position + 1}) requires {fact.__name__}"
        for earlier in reversed(self.passes[:position]):
            if fact in earlier.discards:
                return (
                    f"{where}, which {earlier.name} in front of it has used up; put {step.name} before {earlier.name}"
                )
        for later in self.passes[position + 1 :]:
            if fact in later.provides:
                return f"{where}, which {later.name} provides only behind it; put {later.name} first"
        # A pass that itself needs the fact, and changes it, does not help.
        providers = [n for n, kind in self.known.items() if fact in kind.provides and fact not in kind.requires]
        remedy = f"add {' or '.join(sorted(providers))} before it" if providers else "no known pass provides it"
        return f"{where}, which no pass in front of it provides; {remedy}"

    def run(self, workspace: Workspace) -> tuple[PassResult, ...]:
        """Run every pass. Raises PipelineError before the first, UserError as passes do, PassError for a defect."""
        self.check(workspace.known)
        results: list[PassResult] = []
        for step in self.passes:
            done = tuple(result.name for result in results)
            try:
                for instrument in self.instruments:
                    instrument.before(step.name, workspace)
                result = step.run(workspace)
                for fact in step.discards:
                    workspace.discard(fact)
                broken = [fact.__name__ for fact in step.provides if workspace.find(fact) is None]
                if broken:
                    raise RuntimeError(f"it promises {', '.join(broken)} but did not provide it")
                for instrument in self.instruments:
                    instrument.after(step.name, workspace, result)
            except (DfmpcError, MemoryError):
                raise
            except Exception as error:
                raise PassError(step.name, done, error) from error
            results.append(result)
        return tuple(results)
