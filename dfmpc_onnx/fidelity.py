"""How close a quantized network is to its float original: accuracy, agreement, SQNR."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import ModelError, OptionError
from dfmpc_onnx.graph import shown
from dfmpc_onnx.imagefiles import Images
from dfmpc_onnx.images import Samples
from dfmpc_onnx.runtime import Session

BATCH = 50
INPUT_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
SQNR_CAP = 200.0  # dB; identical outputs have no noise to divide by


class Fidelity(msgspec.Struct, frozen=True):
    """Two networks on the same images.

    agreement: per cent of rows whose largest output is the same, agreeing of rows: a row is an image, or a run where
    the first output does not run along the batch. sqnr_db: 10 log10 of signal over noise, all outputs.
    top1, float_top1: per cent correct where labels are known, else None. max_error: largest absolute difference.
    """

    images: int
    origin: str
    agreement: float
    sqnr_db: float
    max_error: float
    top1: float | None = None
    float_top1: float | None = None
    agreeing: int = 0
    rows: int = 0

    @property
    def drop(self) -> float | None:
        """Points of top-1 lost."""
        if self.top1 is None or self.float_top1 is None:
            return None
        return round(self.float_top1 - self.top1, 2)


def outputs(
    session: Session, x: npt.NDArray[np.float32] | Mapping[str, npt.NDArray[np.generic]]
) -> list[npt.NDArray[np.float64]]:
    """Every output of a network, ``[n, ...]`` each.

    x: for a network with one input all images, fed batch by batch; otherwise by input name what each run is fed.
    """
    parts = _sampled(session, x) if isinstance(x, Mapping) else _pictured(session, x)
    try:
        return [np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True)]
    except (ValueError, TypeError):
        raise ModelError(f"{session.label}: its outputs are not numbers of one size; nothing to compare") from None


Parts = list[list[npt.NDArray[np.generic]]]


def _sampled(session: Session, feeds: Mapping[str, npt.NDArray[np.generic]]) -> Parts:
    names = {name for name, _, _ in session.inputs}
    if names != set(feeds):
        listed = ", ".join(sorted(map(shown, names)))
        raise ModelError(f"{session.label}: its inputs are {listed}; they differ from the other network's")
    parts: Parts = []
    for values in zip(*feeds.values(), strict=True):
        fed = {name: np.asarray(value) for name, value in zip(feeds, values, strict=True)}
        batches = {len(value) for value in fed.values() if value.ndim}
        parts.append([out if out.ndim and len(out) in batches else out[None] for out in _arrays(session, fed)])
    return parts


def _arrays(session: Session, feeds: Mapping[str, npt.NDArray[np.generic]]) -> list[npt.NDArray[np.generic]]:
    try:
        return [np.asarray(out) for out in session.run(feeds)]
    except ValueError:  # a sequence of tensors of several sizes
        raise ModelError(f"{session.label}: its outputs are not numbers of one size; nothing to compare") from None


def _pictured(session: Session, x: npt.NDArray[np.float32]) -> Parts:
    name, shape, kind = session.inputs[0]
    dtype = INPUT_TYPES.get(kind, np.float32)
    if (
        not shape
        or len(shape) != x.ndim
        or any(isinstance(d, int) and 0 < d != n for d, n in zip(shape[1:], x.shape[1:], strict=True))
    ):
        raise OptionError(
            f"images of shape {x.shape[1:]} do not fit the input '{shown(name)}' {shape} of {session.label}"
        )
    fixed = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    parts: Parts = []
    for batch, real in _batches(x, fixed or BATCH, pad=fixed is not None):
        parts.append(
            [_rows(out, len(batch), real) for out in _arrays(session, {name: batch.astype(dtype, copy=False)})]
        )
    return parts


def first_feeds(session: Session, images: Images | Samples) -> dict[str, npt.NDArray[np.generic]]:
    """What a network is fed first when it is compared."""
    if isinstance(images, Images):
        name, shape, kind = session.inputs[0]
        fixed = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        batch, _ = next(iter(_batches(images.x, fixed or BATCH, pad=fixed is not None)))
        return {name: batch.astype(INPUT_TYPES.get(kind, np.float32), copy=False)}
    return {name: np.asarray(values[0]) for name, values in images.feeds.items()}


def _batches(x: npt.NDArray[np.float32], size: int, pad: bool) -> Iterator[tuple[npt.NDArray[np.float32], int]]:
    for start in range(0, len(x), size):
        batch = x[start : start + size]
        real = len(batch)
        if pad and real < size:
            batch = np.concatenate([batch, np.repeat(batch[-1:], size - real, axis=0)])
        yield batch, real


def _rows(out: npt.NDArray[np.generic], batch: int, real: int) -> npt.NDArray[np.generic]:
    """The rows of an output that belong to real images; an output that does not run along the batch counts whole."""
    return out[:real] if out.ndim and len(out) == batch else out[None]


@dataclasses.dataclass(frozen=True)
class Expected:
    """Every output of a network on the images that it is compared on, kept when its session may go."""

    label: str
    outputs: list[npt.NDArray[np.float64]]


def expected(reference: Session, images: Images | Samples) -> Expected:
    """Run the network that another is compared with."""
    return Expected(reference.label, outputs(reference, _fed(images)))


def _fed(images: Images | Samples) -> npt.NDArray[np.float32] | Mapping[str, npt.NDArray[np.generic]]:
    return images.x if isinstance(images, Images) else images.feeds


def compare(reference: Session | Expected, candidate: Session, images: Images | Samples) -> Fidelity:
    """Run networks on the images; raises ModelError where their outputs do not have the same shapes."""
    y = images.y if isinstance(images, Images) else None
    count = len(images.x) if isinstance(images, Images) else images.runs
    known = reference if isinstance(reference, Expected) else expected(reference, images)
    want, got = known.outputs, outputs(candidate, _fed(images))
    if [a.shape for a in want] != [a.shape for a in got]:
        raise ModelError(f"{candidate.label}: its outputs have other shapes than those of {reference.label}")
    if not want or want[0].size == 0:
        raise ModelError(f"{reference.label}: its first output is empty on these images; there is nothing to compare")
    first_want, first_got = (a[0].reshape(len(a[0]), -1) for a in (want, got))
    scores: list[float | None] = [None, None]
    if y is not None:
        classes = first_want.shape[1]
        lowest, highest = int(y.min()), int(y.max())
        if first_want.shape[0] != len(y) or lowest < 0 or highest >= classes:
            raise ModelError(
                f"{reference.label}: its first output is no table of class scores for labels from {lowest} to {highest}"
            )
        scores = [round(100 * float((a.argmax(1) == y).mean()), 2) for a in (first_got, first_want)]
    same = first_want.argmax(1) == first_got.argmax(1)
    with np.errstate(invalid="ignore"):  # infinite outputs of both have a difference of NaN
        worst = max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(want, got, strict=True))
    return Fidelity(
        images=count,
        origin=images.origin,
        agreement=round(100 * float(same.mean()), 2),
        sqnr_db=round(sqnr(want, got), 2),
        max_error=worst,
        top1=scores[0],
        float_top1=scores[1],
        agreeing=int(same.sum()),
        rows=len(same),
    )


def sqnr(want: list[npt.NDArray[np.float64]], got: list[npt.NDArray[np.float64]]) -> float:
    """Signal to quantization noise in dB over all outputs together; at most 200."""
    with np.errstate(invalid="ignore", over="ignore"):  # outputs may be infinite; then so is the noise, or NaN
        signal = sum(float(np.square(a).sum()) for a in want)
        noise = sum(float(np.square(a - b).sum()) for a, b in zip(want, got, strict=True))
    if noise == 0 or not np.isfinite(noise):
        return SQNR_CAP if noise == 0 else -SQNR_CAP
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / noise), -SQNR_CAP, SQNR_CAP))
