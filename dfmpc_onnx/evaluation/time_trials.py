"""How long the file takes that a workspace would become, beside the float model: what a time limit is judged by."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import onnx

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.evaluation.fidelity import as_taken
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.runtime.latency import run_times
from dfmpc_onnx.runtime.session import Feeds, Loadable, Session


@dataclasses.dataclass(frozen=True)
class TimeLimit:
    """Milliseconds that a run may take, or per cent of what the float model takes; one of them is None."""

    milliseconds: float | None
    percent: float | None

    @classmethod
    def parse(cls, text: str) -> TimeLimit:
        """``12.5``, ``12.5ms`` or ``80%``; raises OptionError for anything else."""
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(ms|%)?", text.strip())
        number = float(found[1]) if found else 0.0
        if found is None or number <= 0:
            raise OptionError(
                f"max-latency '{shown(text)}': not understood; give milliseconds such as 12.5, or per cent of the "
                "float model's time such as 80%"
            )
        return cls(None, number) if found[2] == "%" else cls(number, None)

    def seconds(self, of_float: float) -> float:
        """Seconds, where the float model takes so many."""
        return self.milliseconds / 1000 if self.milliseconds is not None else of_float * (self.percent or 0.0) / 100

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.percent is not None else f"{self.milliseconds:g} ms"


Clock = Callable[[Sequence[Loadable], Feeds], list[list[float]]]


def session_times(models: Sequence[Loadable], feeds: Feeds) -> list[list[float]]:
    """Seconds of whole runs of models in onnxruntime in each round, ``[models][rounds]``, measured in turns."""
    sessions = [Session(model, label="a model to be timed", spinning=True) for model in models]
    return run_times([(session, as_taken(session, feeds)) for session in sessions])


@dataclasses.dataclass(frozen=True)
class TimeTrials:
    """A fact: what times of files can be measured with.

    reference: the float model. finish: the file that the passes behind make of a workspace, which stays as it was.
    clock: seconds of models in each round.
    """

    reference: Loadable
    finish: Callable[[Workspace], onnx.ModelProto]
    clock: Clock = session_times

    def beside_float(self, models: Sequence[Loadable], feeds: Feeds) -> list[float]:
        """Median seconds of the float model, and of each of these."""
        return [float(np.median(taken)) for taken in self.clock([self.reference, *models], feeds)]

    def gain(self, model: Loadable, other: Loadable, feeds: Feeds) -> float:
        """Seconds that `other` is faster than `model`: the median of the differences round by round."""
        first, second = self.clock([model, other], feeds)
        return float(np.median(np.asarray(first) - np.asarray(second)))


class ClosedIsland(msgspec.Struct, frozen=True):
    """Layers and tensors that compute in integers for the time that it saves.

    sqnr_db: of the worst output where this island alone is closed. saves_ms: measured alone, too.
    """

    layers: tuple[str, ...]
    tensors: tuple[str, ...]
    saves_ms: float
    sqnr_db: float | None


class LatencyReport(msgspec.Struct, frozen=True):
    """What a limit on time came to, on the machine that quantized, in milliseconds of a run.

    limit: as it was given; limit_ms: what that is. before_ms: with everything in float that accuracy or estimated time
    wanted there; after_ms: as written. fastest_ms: the least of what was tried. sqnr_before, sqnr_after: what rounding
    activations leaves of the worst output, in dB, on `images`; agreeing_before, agreeing_after: of so many of the
    user's images the largest output is that of float activations; None without such images.
    """

    limit: str
    limit_ms: float
    float_ms: float
    before_ms: float
    after_ms: float
    fastest_ms: float
    met: bool
    closed: tuple[ClosedIsland, ...] = ()
    sqnr_before: float | None = None
    sqnr_after: float | None = None
    images: int = 0
    agreeing_before: int | None = None
    agreeing_after: int | None = None


@dataclasses.dataclass(frozen=True)
class LimitJudged:
    """A fact: what a limit on time came to; None where nothing could be timed."""

    report: LatencyReport | None
