"""How far the tensors of a quantized network are from the float network's, and where the error enters.

Three runs give it: the float network, the quantized one, and the quantized one cut at the matched tensors, each piece
fed what the float network computes there. With float values y, quantized values q and those of the pieces p, all summed
over the values of a tensor:

    own error      sum (p - y)^2 / sum y^2     what the piece itself adds: its weights, and the rounding of its inputs
    carried error  sum (q - p)^2 / sum y^2     what came in with its inputs, as it leaves the piece
    error          sum (q - y)^2 / sum y^2

Some ways to quantize multiply channels by factors, or add to them, and the layers behind take that back. What such a
tensor holds is no error; a factor that nothing takes back is. The layers behind tell them apart: they are fed the
tensor once with the factors and once without.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.evaluation.fidelity import SessionInput, as_taken, chunks_of, input_count
from dfmpc_onnx.evaluation.matched_tensors import Matching, common_tensors, cut, match, standing, with_outputs
from dfmpc_onnx.evaluation.output_differences import decibels, rounded_down
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.image_stream import ImageStream
from dfmpc_onnx.inputs.samples import Samples
from dfmpc_onnx.model.protos import fed_names
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.runtime.session import Session

LAYER_INPUTS = 16  # on so many the tensors are compared: their values are many
FETCHED_BYTES = 2**27  # of one network's tensors that are held at a time
PROBED_AT_ONCE = 16  # tensors whose sizes are found out together
MOST_AT_ONCE = 16  # inputs of one run
LEAST_CHANGE = 0.1  # of a channel's gain, or of its mean beside its values, before it may be changed on purpose
LEAST_CORRELATION = 0.7  # of its values with the float network's: below, no factor explains them

Array = npt.NDArray[np.generic]
Feeds = dict[str, Array]


class LayerError(msgspec.Struct, frozen=True):
    """One tensor that stands in both networks.

    tensor: its name. node, op: what makes it in the quantized network; layers: the nodes with weights among what
    computes it from the matched tensors in front, which are `reads`. sqnr_db: signal over noise. error: the root of
    noise over signal. own_error: the same where what it is computed from is the float network's. carried_error: what
    the errors in front come to here. own_share: of the noise that these two add up to, what enters here, 0 to 1; 0
    where there is none. amplification: `carried_error` over the largest error of what it is computed from; None where
    there is none. rescaled: whether its channels are multiplied by factors that the layers behind take back; they are
    taken out before anything is compared. worst_channel: the one with most of the own noise; worst_share: its part of
    it. worst_gain: what its values of the piece are beside the float network's, by least squares: -1 of a negated one;
    the last three are None where nothing enters here.
    """

    tensor: str
    node: str
    op: str
    layers: tuple[str, ...]
    reads: tuple[str, ...]
    sqnr_db: float
    error: float
    own_error: float
    carried_error: float
    own_share: float
    amplification: float | None
    rescaled: bool
    channels: int
    worst_channel: int | None = None
    worst_share: float | None = None
    worst_gain: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as a table takes them."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


class LayerErrors(msgspec.Struct, frozen=True):
    """The tensors of both networks in the order of the quantized one, and what could not be compared.

    inputs, origin: on how many of what. float_layers: how many layers the float network has; unmatched: those behind
    which no tensor of both networks stands, by name.
    """

    rows: tuple[LayerError, ...]
    inputs: int
    origin: str
    float_layers: int
    unmatched: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """In a line, what is not compared; "" where everything is."""
        if not self.unmatched:
            return ""
        some = ", ".join(self.unmatched[:3]) + (", ..." if len(self.unmatched) > 3 else "")
        return (
            f"{len(self.unmatched)} of {self.float_layers} layers have no tensor of the same name in the quantized "
            f"file, so nothing tells their errors apart: {some}"
        )

    def of_layer(self, name: str) -> LayerError | None:
        """The row in which a layer's weight counts."""
        return next((row for row in self.rows if name in row.layers), None)

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as ``--json`` prints them."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def layer_errors(
    float_model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    inputs: Images | Samples | ImageStream,
    label: str = "the model",
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> LayerErrors:
    """Run both networks and compare the tensors that stand in both.

    inputs: of the float network; a few are enough (LAYER_INPUTS). label: what messages call the models. tell: called
    with how many inputs are done, of how many runs over them in all. Tensors are held for a few inputs at a time, and
    of large networks a few tensors at a time. Raises ModelError where the networks do not take the same inputs, or
    have no tensor in common.
    """
    pair = _Pair(float_model, quantized, inputs, label)
    factors = _Factors(pair).found()
    sums = {name: _Sums() for name in pair.kinds}
    count, done = input_count(inputs), 0
    groups = pair.groups()
    for group in groups:
        pieces = pair.pieces(group)
        for feeds, real in pair.feeds():
            both = pair.both(feeds, sorted({*group, *pieces.fed}))
            own = pieces.run(feeds, both.plain, factors)
            for name in group:
                factor = factors.get(name)
                sums[name].add(both.plain[name], both.hat[name], own[name], factor, real)
            done += real
            tell(done, count * len(groups))
    rows = _rows(pair.matching, sums, factors)
    found = pair.matching
    return LayerErrors(rows, count, inputs.origin, found.layers, found.unmatched)


@dataclasses.dataclass(frozen=True)
class _Affine:
    """What the channels of a tensor are multiplied by, and what is then added: ``[channels]`` each."""

    gain: Float
    shift: Float

    def put_in(self, values: Array) -> Float:
        axis = channel_axis(values.shape)
        wide = np.asarray(values, np.float64)
        found: Float = wide * _along(self.gain, wide.ndim, axis) + _along(self.shift, wide.ndim, axis)
        return found

    def take_out(self, values: Float) -> Float:
        axis = channel_axis(values.shape)
        found: Float = (values - _along(self.shift, values.ndim, axis)) / _along(self.gain, values.ndim, axis)
        return found


@dataclasses.dataclass(frozen=True)
class _Both:
    """Tensors by name, in the float network and in the quantized one."""

    plain: Feeds
    hat: Feeds


class _Pieces:
    """The quantized network cut at its matched tensors, as far as some of them need it."""

    def __init__(self, model: onnx.ModelProto, matching: Matching, kinds: Mapping[str, int], wanted: Sequence[str]):
        cut_model, self._ends, self.fed = cut(model, matching.tensors, kinds, wanted)
        self._types = {name: onnx.helper.tensor_dtype_to_np_dtype(kinds[name]) for name in self.fed}
        self._given = set(fed_names(cut_model.graph)) - set(self.fed.values())
        self._session = Session(cut_model, label="the quantized network in pieces")

    def run(self, feeds: Feeds, plain: Feeds, factors: Mapping[str, _Affine]) -> Feeds:
        """What the pieces give for the float network's tensors, multiplied by factors where there are any."""
        fed = {name: value for name, value in feeds.items() if name in self._given}
        for name, dtype in self._types.items():
            value = plain[name]
            if name in factors:
                value = factors[name].put_in(value)
            fed[self.fed[name]] = value.astype(dtype, copy=False)
        values = self._session.run(fed, list(self._ends.values()))
        return dict(zip(self._ends, values, strict=True))


class _Pair:
    """Both networks with their common tensors as outputs."""

    def __init__(
        self,
        float_model: onnx.ModelProto,
        quantized: onnx.ModelProto,
        inputs: Images | Samples | ImageStream,
        label: str,
    ) -> None:
        names = common_tensors(float_model, quantized)
        if not names:
            raise ModelError(f"{label}: the networks have no tensor of one name in common; nothing to compare inside")
        self._inputs, self._quantized = inputs, quantized
        self._stands = standing(quantized, names)
        self._float = Session(with_outputs(float_model, names), label=label)
        self._hat = Session(with_outputs(quantized, self._stands.values()), label=label)
        self._at_once = 1
        self.kinds: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        self._probe(names)
        if not self.kinds:
            raise ModelError(f"{label}: the tensors that both networks have are of other shapes; nothing to compare")
        self.matching = match(float_model, quantized, {name: self._stands[name] for name in self.kinds})
        held = sum(self._bytes.values())
        self._at_once = int(np.clip(FETCHED_BYTES // max(held, 1), 1, MOST_AT_ONCE))

    def _probe(self, names: Sequence[str]) -> None:
        """Find the types and sizes of the tensors that can be compared: those of floats, of one shape in both."""
        feeds, _ = next(self.feeds())
        for start in range(0, len(names), PROBED_AT_ONCE):
            part = names[start : start + PROBED_AT_ONCE]
            both = self.both(feeds, part)
            for name in part:
                a, b = both.plain[name], both.hat[name]
                arrays = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
                if arrays and a.dtype.kind == b.dtype.kind == "f" and a.shape == b.shape and a.ndim and a.size:
                    self.kinds[name] = onnx.helper.np_dtype_to_tensor_dtype(b.dtype)
                    self._bytes[name] = a.nbytes + b.nbytes

    def feeds(self) -> Iterator[tuple[Feeds, int]]:
        """What both networks are fed, run by run, and how many of it are inputs and no filling."""
        for chunk in chunks_of(self._inputs):
            if isinstance(chunk, Samples):
                for values in zip(*chunk.feeds.values(), strict=True):
                    yield dict(zip(chunk.feeds, values, strict=True)), 1
                continue
            yield from self._of_images(chunk.x)

    def _of_images(self, x: npt.NDArray[np.float32]) -> Iterator[tuple[Feeds, int]]:
        given, other = SessionInput.of(self._float), SessionInput.of(self._hat)
        if not (given.fits(x.shape) and other.fits(x.shape)) or given.name != other.name:
            raise ModelError(f"{self._hat.label}: the networks take other inputs; nothing to compare inside")
        fixed = given.batch or other.batch
        if given.batch and other.batch and given.batch != other.batch:
            raise ModelError(f"{self._hat.label}: the networks take {given.batch} and {other.batch} images at once")
        for start in range(0, len(x), fixed or self._at_once):
            part = x[start : start + (fixed or self._at_once)]
            real = len(part)
            if fixed and real < fixed:
                part = np.concatenate([part, np.repeat(part[-1:], fixed - real, axis=0)])
            yield {given.name: part}, real

    def both(self, feeds: Feeds, names: Sequence[str]) -> _Both:
        """Tensors of both networks."""
        plain = self._float.run(_typed(self._float, feeds), names)
        hat = self._hat.run(_typed(self._hat, feeds), [self._stands[name] for name in names])
        return _Both(dict(zip(names, plain, strict=True)), dict(zip(names, hat, strict=True)))

    def groups(self) -> list[list[str]]:
        """The tensors in order, as many together as may be held of one run; of most networks all."""
        found: list[list[str]] = []
        held = 0
        for tensor in self.matching.tensors:
            size = self._bytes[tensor.name] * self._at_once
            if not found or held + size > 2 * FETCHED_BYTES:
                found.append([])
                held = 0
            found[-1].append(tensor.name)
            held += size
        return found

    def pieces(self, wanted: Sequence[str]) -> _Pieces:
        return _Pieces(self._quantized, self.matching, self.kinds, wanted)


def _typed(session: Session, feeds: Feeds) -> Feeds:
    """What a network is fed, in the types that it states."""
    if len(session.inputs) == 1 and len(feeds) == 1:
        given = SessionInput.of(session)
        return {name: value.astype(given.dtype, copy=False) for name, value in feeds.items()}
    return as_taken(session, feeds)


class _Factors:
    """Which tensors hold channels multiplied by factors that the layers behind them take back."""

    def __init__(self, pair: _Pair) -> None:
        self._pair = pair
        self._candidates: dict[str, _Affine] = {}

    def found(self) -> dict[str, _Affine]:
        """The factors of each such tensor, ``[channels]``."""
        groups = self._pair.groups()
        for group in groups:
            sums = {name: _Sums() for name in group}
            for feeds, real in self._pair.feeds():
                both = self._pair.both(feeds, group)
                for name in group:
                    sums[name].add(both.plain[name], both.hat[name], both.hat[name], None, real)
            for name in group:
                factors = sums[name].factors()
                if factors is not None:
                    self._candidates[name] = factors
        return self._taken_back() if self._candidates else {}

    def _taken_back(self) -> dict[str, _Affine]:
        """The readers are asked from the last to the first: what they shall give depends on those behind them."""
        readers: dict[str, list[str]] = {}
        for tensor in self._pair.matching.tensors:
            for read in tensor.reads:
                if read in self._candidates:
                    readers.setdefault(read, []).append(tensor.name)
        noise = self._noise(sorted({reader for found in readers.values() for reader in found}))
        kept: dict[str, _Affine] = {}
        for tensor in reversed(self._pair.matching.tensors):
            if tensor.name not in self._candidates:
                continue
            votes = [noise[reader, reader in kept] for reader in readers.get(tensor.name, ())]
            if votes and sum(scaled for scaled, _ in votes) < sum(plain for _, plain in votes):
                kept[tensor.name] = self._candidates[tensor.name]
        return kept

    def _noise(self, wanted: Sequence[str]) -> dict[tuple[str, bool], tuple[float, float]]:
        """What each reader's error is with its inputs multiplied and not, where its own output shall be and not."""
        feeds, real = next(self._pair.feeds())
        found: dict[tuple[str, bool], tuple[float, float]] = {}
        for group in self._pair.groups():
            part = [name for name in group if name in set(wanted)]
            if not part:
                continue
            pieces = self._pair.pieces(part)
            plain = self._pair.both(feeds, sorted({*part, *pieces.fed})).plain
            given = [pieces.run(feeds, plain, factors) for factors in (self._candidates, {})]
            for name in part:
                for own in (False, True):
                    factor = self._candidates.get(name) if own else None
                    noises = []
                    for values in given:
                        sums = _Sums()
                        sums.add(plain[name], values[name], values[name], factor, real)
                        noises.append(sums.relative(sums.noise))
                    found[name, own] = noises[0], noises[1]
        return found


class _Sums:
    """Sums over the values of a tensor, by channel where that tells more."""

    def __init__(self) -> None:
        self._signal = self._plain_hat = self._hat_hat = self._own = self._plain_own = np.zeros(1)
        self._plain_sum = self._hat_sum = np.zeros(1)
        self._count = 0
        self.noise = self.carried = 0.0

    def add(self, plain: Array, hat: Array, own: Array, factor: _Affine | None, real: int) -> None:
        """One run: the float network's values, the quantized one's, and those of the piece. factor: taken out of both.

        real: how many rows are no filling, where the tensor runs along the batch.
        """
        axis = channel_axis(plain.shape)
        y, q, p = (np.asarray(values, np.float64) for values in (plain, hat, own))
        if len(y) > real > 0 and y.ndim > 1:
            y, q, p = y[:real], q[:real], p[:real]
        if factor is not None:
            q, p = factor.take_out(q), factor.take_out(p)
        others = tuple(i for i in range(y.ndim) if i != axis)
        with np.errstate(over="ignore", invalid="ignore"):
            self.noise += float(np.square(q - y).sum())
            self.carried += float(np.square(q - p).sum())
            self._signal = self._signal + np.square(y).sum(axis=others)
            self._plain_hat = self._plain_hat + (y * q).sum(axis=others)
            self._hat_hat = self._hat_hat + np.square(q).sum(axis=others)
            self._plain_sum = self._plain_sum + y.sum(axis=others)
            self._hat_sum = self._hat_sum + q.sum(axis=others)
            self._count += y.size // y.shape[axis]
            self._own = self._own + np.square(p - y).sum(axis=others)
            self._plain_own = self._plain_own + (y * p).sum(axis=others)

    def factors(self) -> _Affine | None:
        """What is done to each channel, where to some much is done and on the whole that explains them; else None."""
        count = max(self._count, 1)
        mean, mean_hat = self._plain_sum / count, self._hat_sum / count
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            variance = self._signal / count - mean**2
            covariance = self._plain_hat / count - mean * mean_hat
            alike = np.abs(covariance) / np.sqrt(variance * (self._hat_hat / count - mean_hat**2))
            gain = covariance / variance
            shift = mean_hat - gain * mean
        least = np.maximum(1e-9 * float(self._signal.sum()) / count / len(mean), (1e-5 * mean_hat) ** 2)
        sure = (variance > least) & (np.nan_to_num(alike) > LEAST_CORRELATION) & (gain != 0) & np.isfinite(gain)
        size = LEAST_CHANGE * np.sqrt(np.maximum(self._signal / count, 0))
        changed = (np.abs(gain - 1) > LEAST_CHANGE) | (np.abs(shift) > size)
        moved = ~sure & (np.abs(mean_hat - mean) > size)
        known = sure & changed
        if not np.any(known | moved):
            return None
        # A channel that hardly varies says nothing of its gain: it is taken for that of the others.
        gain = np.where(sure, gain, np.where(moved, np.median(gain[known]) if np.any(known) else 1.0, 1.0))
        return _Affine(gain, np.where(sure | moved, mean_hat - gain * mean, 0.0))

    @property
    def signal(self) -> float:
        return float(self._signal.sum())

    @property
    def own(self) -> float:
        return float(self._own.sum())

    def relative(self, noise: float) -> float:
        """The root of noise over signal; at most 1e9, which stands for what is not finite and for a signal of 0."""
        if noise == 0:
            return 0.0
        return math.sqrt(min(noise / max(self.signal, 1e-300), 1e18)) if math.isfinite(noise) else 1e9

    def worst(self) -> tuple[int, float, float] | None:
        """The channel with most of the own noise, its part of it, and its gain."""
        total = self.own
        if not math.isfinite(total) or total <= 0:
            return None
        channel = int(self._own.argmax())
        gain = float(self._plain_own[channel] / self._signal[channel]) if self._signal[channel] > 0 else 1.0
        return channel, float(self._own[channel]) / total, gain

    @property
    def channels(self) -> int:
        return len(self._signal)


def channel_axis(shape: Sequence[int]) -> int:
    """The axis of the channels of a tensor ``[n, ...]``: the second, or of a list the last where that is shorter."""
    return 0 if len(shape) < 2 else 2 if len(shape) == 3 and shape[2] < shape[1] else 1


def _along(factor: Float, rank: int, axis: int) -> Float:
    shape = [1] * rank
    shape[axis] = len(factor)
    return factor.reshape(shape)


def _rows(matching: Matching, sums: Mapping[str, _Sums], factors: Mapping[str, _Affine]) -> tuple[LayerError, ...]:
    errors = {name: found.relative(found.noise) for name, found in sums.items()}
    rows = []
    for tensor in matching.tensors:
        found = sums[tensor.name]
        own, carried = found.relative(found.own), found.relative(found.carried)
        coming = max((errors.get(read, 0.0) for read in tensor.reads), default=0.0)
        worst = found.worst() or (None, None, None)
        rows.append(
            LayerError(
                tensor=tensor.name,
                node=tensor.node,
                op=tensor.op,
                layers=tensor.layers,
                reads=tensor.reads,
                sqnr_db=rounded_down(decibels(found.signal, found.noise)),
                error=_digits(errors[tensor.name]),
                own_error=_digits(own),
                carried_error=_digits(carried),
                own_share=round(own**2 / (own**2 + carried**2), 4) if own else 0.0,
                amplification=_digits(carried / coming) if coming > 0 else None,
                rescaled=tensor.name in factors,
                channels=found.channels,
                worst_channel=worst[0],
                worst_share=None if worst[1] is None else round(worst[1], 4),
                worst_gain=None if worst[2] is None else _digits(worst[2]),
            )
        )
    return tuple(rows)


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
