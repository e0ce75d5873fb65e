"""How close a quantized network is to its float original: accuracy, agreement, SQNR."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType

import msgspec
import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import ModelError, OptionError, shown
from dfmpc_onnx.evaluation.class_answers import ClassAnswers
from dfmpc_onnx.evaluation.output_differences import NetworkDifference, OutputFidelity, Part, StatedOutput, rounded_down
from dfmpc_onnx.graph.output_branches import ScoreChannels
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.image_stream import IMAGE_VALUES_AT_ONCE, ImageStream
from dfmpc_onnx.inputs.samples import Samples
from dfmpc_onnx.runtime.session import Session

BATCH = 50
FLOAT_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}
INPUT_TYPES: Mapping[str, type[np.generic]] = {**FLOAT_TYPES, "tensor(uint8)": np.uint8}
MOST_KEPT = 2**28  # bytes of outputs that are kept while another network runs


class Fidelity(msgspec.Struct, frozen=True):
    """Two networks on the same images.

    agreement: per cent of rows of the same class, agreeing of rows, where an output is a vector of class scores for
    each row, or a label; None where none is, as of detectors, maps and sequences. tangent: how far the scores are apart
    (`numerics.changed_answers`); None of labels. sqnr_db: 10 log10 of signal over noise, of the worst output and in it
    of the worst channels where they are of unlike scale; of whole numbers, such as labels, the share that is not equal
    counts as noise, and only where there is no other output. max_error: largest absolute difference.
    outputs: each by itself, and which are not compared. The first output is the first of those that are.
    Agreement and decibels are rounded down, so that what is below a threshold does not reach it.
    top1, float_top1: per cent correct where labels are known, else None. not_known: why the figures say nothing of real
    inputs, where these were made up at a scale that nothing tells; `--json` then leaves them out.
    """

    images: int
    origin: str
    agreement: float | None
    sqnr_db: float
    max_error: float
    top1: float | None = None
    float_top1: float | None = None
    agreeing: int = 0
    rows: int = 0
    outputs: tuple[OutputFidelity, ...] = ()
    not_known: str = ""
    tangent: float | None = None

    @property
    def drop(self) -> float | None:
        """Points of top-1 lost."""
        if self.top1 is None or self.float_top1 is None:
            return None
        return round(self.float_top1 - self.top1, 2)

    @property
    def judged_by(self) -> OutputFidelity | None:
        """The output that `sqnr_db` is of."""
        return next((output for output in self.outputs if output.sqnr_db == self.sqnr_db), None)

    @property
    def worst(self) -> OutputFidelity | None:
        """The same, where others are compared beside it."""
        compared = [output for output in self.outputs if output.sqnr_db is not None]
        return self.judged_by if len(compared) > 1 else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Which outputs are not compared, by reason."""
        by_reason: dict[str, list[str]] = {}
        for output in self.outputs:
            if output.why_not:
                by_reason.setdefault(output.why_not, []).append(f"'{shown(output.name)}'")
        return tuple(f"not compared: output {', '.join(names)}: {why}" for why, names in by_reason.items())


def outputs(
    session: Session, x: npt.NDArray[np.float32] | Mapping[str, npt.NDArray[np.generic]]
) -> list[npt.NDArray[np.float64]]:
    """Every output of a network, ``[n, ...]`` each.

    x: for a network with one input all images, fed batch by batch; otherwise by input name what each run is fed.
    """
    try:
        parts = (run.rows() for run in _runs(session, x))
        return [np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True)]
    except (ValueError, TypeError):
        raise _no_numbers(session.label) from None


def _no_numbers(label: str) -> ModelError:
    return ModelError(f"{label}: its outputs are not numbers of one size; nothing to compare")


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run of a network gave.

    values: its outputs. batches: how many rows they have where they run along the batch. real: how many of these are
    of images, where others only fill the batch up.
    """

    values: Part
    batches: frozenset[int]
    real: int | None = None

    def along(self) -> frozenset[int]:
        """The places of the outputs that have as many rows as there are inputs."""
        return frozenset(i for i, out in enumerate(self.values) if out.ndim and len(out) in self.batches)

    def rows(self, along: frozenset[int] | None = None) -> Part:
        """Rows of images first; an output that does not run along the batch counts whole. along: those that do."""
        along = self.along() if along is None else along
        return [out[: self.real] if i in along else out[None] for i, out in enumerate(self.values)]

    def fed_as(self, other: Run) -> bool:
        """Whether both networks ran on the same inputs, as far as their numbers say."""
        return (self.batches, self.real, len(self.values)) == (other.batches, other.real, len(other.values))


def _runs(session: Session, x: npt.NDArray[np.float32] | Mapping[str, npt.NDArray[np.generic]]) -> Iterator[Run]:
    return _sample_runs(session, x) if isinstance(x, Mapping) else _image_runs(session, x)


def _sample_runs(session: Session, feeds: Mapping[str, npt.NDArray[np.generic]]) -> Iterator[Run]:
    names = {name for name, _, _ in session.inputs}
    if names != set(feeds):
        listed = ", ".join(sorted(map(shown, names)))
        raise ModelError(f"{session.label}: its inputs are {listed}; they differ from the other network's")
    for values in zip(*feeds.values(), strict=True):
        fed = as_taken(session, dict(zip(feeds, values, strict=True)))
        yield Run(_arrays(session, fed), frozenset(len(value) for value in fed.values() if value.ndim))


def _arrays(session: Session, feeds: Mapping[str, npt.NDArray[np.generic]]) -> Part:
    return [_array(out) for out in session.run(feeds)]


def _array(output: object) -> npt.NDArray[np.generic]:
    """An output as one array: a row of each map, where they have the same keys, as ZipMap makes them; else objects."""
    values = output
    if isinstance(output, list) and output and all(isinstance(entry, dict) for entry in output):
        keys = sorted(output[0])
        if all(entry.keys() == output[0].keys() for entry in output):
            values = [[entry[key] for key in keys] for entry in output]
    try:
        return np.asarray(values)
    except ValueError:  # a sequence of tensors of several sizes
        return np.empty(1, object)


@dataclasses.dataclass(frozen=True)
class SessionInput:
    """What a loaded network states of its first input; a quantized file need not state what its original does.

    shape: as onnxruntime has it. batch: how many images it wants at once; None for any number.
    """

    name: str
    shape: list[int | str | None]
    dtype: type[np.generic]
    batch: int | None

    @classmethod
    def of(cls, session: Session) -> SessionInput:
        name, shape, kind = session.inputs[0]
        first = shape[0] if shape else None
        batch = first if isinstance(first, int) and first > 0 else None
        return cls(name, shape, INPUT_TYPES.get(kind, np.float32), batch)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether images ``[n, ...]`` of a shape may be fed to it."""
        if not self.shape or len(self.shape) != len(shape):
            return False
        return not any(isinstance(d, int) and 0 < d != n for d, n in zip(self.shape[1:], shape[1:], strict=True))

    def batches(self, x: npt.NDArray[np.float32]) -> Iterator[tuple[dict[str, npt.NDArray[np.generic]], int]]:
        """What to feed for images ``[n, ...]``, batch by batch, and how many of a batch are real."""
        for batch, real in _batches(x, self.batch or _at_once(x), pad=self.batch is not None):
            yield {self.name: batch.astype(self.dtype, copy=False)}, real


def _image_runs(session: Session, x: npt.NDArray[np.float32]) -> Iterator[Run]:
    given = SessionInput.of(session)
    if not given.fits(x.shape):
        raise OptionError(
            f"images of shape {x.shape[1:]} do not fit the input '{shown(given.name)}' {given.shape} of {session.label}"
        )
    for feeds, real in given.batches(x):
        yield Run(_arrays(session, feeds), frozenset({len(feeds[given.name])}), real)


def output_runs(session: Session, images: Images | Samples | ImageStream) -> Iterator[Run]:
    """Every output of a network, run by run."""
    for chunk in chunks_of(images):
        yield from _runs(session, chunk.x if isinstance(chunk, Images) else chunk.feeds)


def chunks_of(images: Images | Samples | ImageStream) -> Iterator[Images | Samples]:
    """What is held at a time: a stream of images a few of them, anything else the whole."""
    return images.chunks() if isinstance(images, ImageStream) else iter([images])


def first_feeds(session: Session, images: Images | Samples | ImageStream) -> dict[str, npt.NDArray[np.generic]]:
    """What a network is fed first when it is compared."""
    if isinstance(images, ImageStream):
        images = next(images.chunks())
    if isinstance(images, Images):
        return next(SessionInput.of(session).batches(images.x))[0]
    return as_taken(session, {name: values[0] for name, values in images.feeds.items()})


def as_taken(session: Session, feeds: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    """Inputs by name, those of floats in the precision that a network takes: of two networks one may be normalized."""
    types = {name: FLOAT_TYPES.get(kind) for name, _, kind in session.inputs}
    fed = {name: np.asarray(value) for name, value in feeds.items()}
    return {
        name: value if value.dtype.kind != "f" else value.astype(types.get(name) or value.dtype, copy=False)
        for name, value in fed.items()
    }


def _at_once(x: npt.NDArray[np.float32]) -> int:
    """How many images are fed together: fewer of large ones, whose maps take the memory."""
    values = int(np.prod(x.shape[1:], dtype=np.int64))
    return int(np.clip(IMAGE_VALUES_AT_ONCE // max(values, 1), 1, BATCH))


def _batches(x: npt.NDArray[np.float32], size: int, pad: bool) -> Iterator[tuple[npt.NDArray[np.float32], int]]:
    for start in range(0, len(x), size):
        batch = x[start : start + size]
        real = len(batch)
        if pad and real < size:
            batch = np.concatenate([batch, np.repeat(batch[-1:], size - real, axis=0)])
        yield batch, real


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a network makes of the images that another is compared with it on.

    stated: its outputs. runs: their values, by chunk of the images and run by run, kept when its session may go; None
    where they are too large for that, and the session runs once more.
    """

    label: str
    stated: tuple[StatedOutput, ...]
    runs: list[list[Run]] | None
    session: Session | None = None

    def again(self, chunk: Images | Samples, number: int) -> Iterator[Run]:
        """The outputs of a chunk of the images, which has this number."""
        if self.runs is not None:
            return iter(self.runs[number])
        assert self.session is not None  # one or the other is there
        return output_runs(self.session, chunk)


def expected_outputs(reference: Session, images: Images | Samples | ImageStream) -> Expected:
    """Run the network that another is compared with."""
    reference.check_types()
    runs, kept = list[list[Run]](), 0
    for chunk in chunks_of(images):
        runs.append([])
        for run in output_runs(reference, chunk):
            runs[-1].append(run)
            kept += sum(out.nbytes for out in run.values)
            if kept > MOST_KEPT:
                return Expected(reference.label, _stated(reference), None, reference)
    return Expected(reference.label, _stated(reference), runs)


def _stated(session: Session) -> tuple[StatedOutput, ...]:
    return tuple(StatedOutput(name, shape) for name, shape in session.output_shapes)


def _in_step(want: Iterator[Run], got: Iterator[Run], differ: Callable[[], ModelError]) -> Iterator[tuple[Part, Part]]:
    """The outputs of two networks cut to the same rows: one of them may take larger batches than the other.

    A list of finds may have as many rows as there are images by chance, and then seldom in both networks: where both
    ran on the same images, an output runs along the batch if it does in both.
    """
    a: Part = []
    b: Part = []
    while True:
        new_a = None if any(map(len, a)) else next(want, None)
        new_b = None if any(map(len, b)) else next(got, None)
        along = new_a.along() & new_b.along() if new_a and new_b and new_a.fed_as(new_b) else None
        a = a if new_a is None else new_a.rows(along)
        b = b if new_b is None else new_b.rows(along)
        ended = new_a is None and not any(map(len, a)), new_b is None and not any(map(len, b))
        if all(ended):
            return
        if any(ended) or len(a) != len(b):
            raise differ()
        counts = [min(len(x), len(y)) for x, y in zip(a, b, strict=True)]
        if not any(counts) and any(map(len, (*a, *b))):
            raise differ()
        yield [x[:n] for x, n in zip(a, counts, strict=True)], [y[:n] for y, n in zip(b, counts, strict=True)]
        a, b = ([x[n:] for x, n in zip(part, counts, strict=True)] for part in (a, b))


def compare(
    reference: Session | Expected,
    candidate: Session,
    images: Images | Samples | ImageStream,
    chosen: Collection[str] = (),
    score_places: Mapping[str, ScoreChannels] = MappingProxyType({}),
    without_classes: Collection[str] = (),
    tell: Callable[[int], None] = lambda done: None,
) -> Fidelity:
    """Run networks on the images, a chunk after another; each output is judged by itself.

    chosen: outputs of the reference whose rows are chosen by values (`chosen_outputs`), and come in any order.
    score_places: of outputs that hold scores beside other channels, which these are (`score_channels`).
    without_classes: outputs that hold no class scores (`outputs_without_classes`); where there are labels, all may.
    tell: called with how many images are done. What is no number, and what differs in size because the size depends on
    values, is left out. Raises ModelError where outputs have other shapes for another reason, or none is left.
    """
    y = _labels_of(images)
    known = reference
    if isinstance(known, Session):
        known = Expected(known.label, _stated(known), None, known)
    candidate.check_types()
    stated = [
        dataclasses.replace(
            output,
            chosen=output.name in chosen,
            scores=score_places.get(output.name),
            without_classes=y is None and output.name in without_classes,
        )
        for output in known.stated
    ]
    found = NetworkDifference(known.label, candidate.label, stated, _stated(candidate))
    done = 0
    for number, chunk in enumerate(chunks_of(images)):
        for want, got in _in_step(known.again(chunk, number), output_runs(candidate, chunk), found.shapes_differ):
            found.add(want, got)
        if y is not None and found.answers is not None:
            found.answers.check_labels(y, known.label)
        done += input_count(chunk)
        tell(done)
    if not found.compared:
        raise found.nothing_compared()
    answers = found.answers
    top1 = None if y is None else _scored(answers, y, known.label)
    same = np.zeros(0, bool) if answers is None else answers.same()
    return Fidelity(
        images=input_count(images),
        origin=images.origin,
        agreement=None if answers is None else 10_000 * int(same.sum()) // len(same) / 100,
        sqnr_db=min(rounded_down(output.sqnr_db) for output in found.judged),
        max_error=float(np.max([output.worst for output in found.compared])),
        top1=top1 and top1[1],
        float_top1=top1 and top1[0],
        agreeing=int(same.sum()),
        rows=len(same),
        outputs=tuple(output.result() for output in found.each),
        tangent=None if answers is None else answers.tangent,
    )


def input_count(images: Images | Samples | ImageStream) -> int:
    """How many images or runs there are."""
    if isinstance(images, Samples):
        return images.runs
    return len(images.x) if isinstance(images, Images) else images.count


def _labels_of(images: Images | Samples | ImageStream) -> npt.NDArray[np.int64] | None:
    if isinstance(images, Samples):
        return None
    return images.y if isinstance(images, Images) else images.labels


def _scored(answers: ClassAnswers | None, y: npt.NDArray[np.int64], label: str) -> tuple[float, float]:
    """Per cent correct, of the reference and of the candidate. Raises ModelError where labels are of other classes."""
    lowest, highest = int(y.min()), int(y.max())
    both = [np.zeros(0)] * 2 if answers is None else answers.joined()
    if answers is None or len(both[0]) != len(y) or lowest < 0:
        raise ModelError(f"{label}: its first output is no table of class scores for labels from {lowest} to {highest}")
    of_want, of_got = (round(100 * float((chosen == y).mean()), 2) for chosen in both)
    return of_want, of_got
