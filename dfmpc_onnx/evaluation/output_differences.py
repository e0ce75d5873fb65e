"""What the outputs of two networks differ by: each output by itself, and the worst of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import ModelError, shown

VALUES_COMPARED_AT_ONCE = 2**20  # numbers that are compared at a time
SQNR_CAP = 200.0  # dB; identical outputs have no noise to divide by
Part = list[npt.NDArray[np.generic]]  # every output of one run, rows of images first
StatedShape = Sequence[int | str | None]

NO_NUMBERS = "its values are not numbers of one size"
OTHER_SIZE = "its size depends on values, and is another in each network on the same input"
EMPTY = "it is empty on these inputs"


class OutputFidelity(msgspec.Struct, frozen=True):
    """One output in both networks. sqnr_db: 10 log10 of signal over noise, None where it is not compared.
    why_not: the reason for that."""

    name: str
    sqnr_db: float | None
    why_not: str = ""


@dataclasses.dataclass(frozen=True)
class StatedOutput:
    """An output as its network states it. shape: as onnxruntime has it, empty for a scalar and for what is unknown."""

    name: str
    shape: StatedShape

    def may_become(self, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        """Whether values may have both shapes, rows first: whether the network states no size where they differ."""
        if not self.shape:
            return True
        if len(a) != len(b):
            return not all(isinstance(size, int) for size in self.shape)
        sizes = zip(reversed(self.shape), reversed(a), reversed(b), strict=False)
        return all(x == y or not isinstance(size, int) for size, x, y in sizes)


class OutputDifference:
    """What one output comes to, run by run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.why_not = EMPTY
        self.floats = False
        self.largest: tuple[list[npt.NDArray[np.intp]], list[npt.NDArray[np.intp]]] = ([], [])  # of each row
        self.classes = 0
        self.signal = self.noise = self.worst = 0.0

    @property
    def compared(self) -> bool:
        return not self.why_not

    @property
    def sqnr_db(self) -> float:
        return decibels(self.signal, self.noise)

    def result(self) -> OutputFidelity:
        return OutputFidelity(self.name, round(self.sqnr_db, 2) if self.compared else None, self.why_not)

    def leave_out(self, why: str) -> None:
        """From now on; what was compared before counts no longer."""
        self.why_not = why
        self.largest = ([], [])

    def add(self, want: npt.NDArray[np.generic], got: npt.NDArray[np.generic]) -> None:
        """The same rows in both networks, of one shape."""
        if self.why_not not in ("", EMPTY):
            return
        if {want.dtype.kind, got.dtype.kind} & set("OUS"):
            self.leave_out(NO_NUMBERS)
            return
        if not want.size:
            return
        try:
            self._measure(want.reshape(-1), got.reshape(-1))
        except (ValueError, TypeError):
            self.leave_out(NO_NUMBERS)
            return
        self.why_not = ""
        self.floats = want.dtype.kind not in "biu"
        for chosen, out in zip(self.largest, (want, got), strict=True):
            rows = out.reshape(len(out), -1)
            chosen.append(rows.argmax(1))
            self.classes = rows.shape[1]

    def _measure(self, want: npt.NDArray[np.generic], got: npt.NDArray[np.generic]) -> None:
        """Flat values, in blocks: in double precision, with their difference and squares, large ones would swell."""
        for start in range(0, want.size, VALUES_COMPARED_AT_ONCE):
            a, b = (values[start : start + VALUES_COMPARED_AT_ONCE].astype(np.float64) for values in (want, got))
            with np.errstate(invalid="ignore", over="ignore"):  # outputs may be infinite; then so is the noise, or NaN
                self.signal += float(np.square(a).sum())
                self.noise += float(np.square(a - b).sum())
                self.worst = float(np.maximum(self.worst, np.abs(a - b).max()))


class NetworkDifference:
    """What all outputs of two networks come to, run by run."""

    def __init__(
        self, reference: str, candidate: str, stated: Sequence[StatedOutput], others: Sequence[StatedOutput]
    ) -> None:
        self._reference, self._candidate = reference, candidate
        self._stated = [*zip(stated, others, strict=False)]
        self.each = [OutputDifference(output.name) for output in stated]
        if len(stated) != len(others):
            raise self.shapes_differ()

    @property
    def compared(self) -> list[OutputDifference]:
        return [output for output in self.each if output.compared]

    @property
    def judged(self) -> list[OutputDifference]:
        """Those whose error says how good a network is: of whole numbers, as labels are, only where nothing else is."""
        compared = self.compared
        return [output for output in compared if output.floats] or compared

    def shapes_differ(self) -> ModelError:
        return ModelError(f"{self._candidate}: its outputs have other shapes than those of {self._reference}")

    def nothing_compared(self) -> ModelError:
        reasons = "; ".join(f"'{shown(output.name)}': {output.why_not}" for output in self.each)
        return ModelError(f"{self._reference}: no output can be compared ({reasons or 'it has none'})")

    def add(self, want: Part, got: Part) -> None:
        """The same rows of both networks' outputs."""
        for output, stated, a, b in zip(self.each, self._stated, want, got, strict=True):
            if a.shape[1:] == b.shape[1:]:
                output.add(a, b)
            elif all(network.may_become(a.shape, b.shape) for network in stated):
                output.leave_out(OTHER_SIZE)
            else:
                raise self.shapes_differ()


def sqnr(want: list[npt.NDArray[np.float64]], got: list[npt.NDArray[np.float64]]) -> float:
    """Signal to quantization noise in dB of the worst output; at most 200."""
    found = []
    for a, b in zip(want, got, strict=True):
        found.append(OutputDifference(""))
        found[-1].add(np.atleast_1d(a), np.atleast_1d(b))
    return min((output.sqnr_db for output in found if output.compared), default=SQNR_CAP)


def decibels(signal: float, noise: float) -> float:
    if noise == 0 or not np.isfinite(noise):
        return SQNR_CAP if noise == 0 else -SQNR_CAP
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / noise), -SQNR_CAP, SQNR_CAP))
