"""Two networks that run side by side with their common tensors as outputs, and the second one cut at these.

Tensors are held for a few inputs at a time, and of large networks a few tensors at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.evaluation.fidelity import INPUT_TYPES, SessionInput, chunks_of
from dfmpc_onnx.evaluation.matched_tensors import (
    MatchedTensor,
    common_tensors,
    cut,
    match,
    rounded_ends,
    standing,
    with_outputs,
    without_rounding,
)
from dfmpc_onnx.evaluation.tensor_sums import ChannelChange
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.image_stream import ImageStream
from dfmpc_onnx.inputs.samples import Samples
from dfmpc_onnx.memory import held_together
from dfmpc_onnx.model.protos import fed_names
from dfmpc_onnx.numerics.arrays import Array
from dfmpc_onnx.runtime.session import Session

FETCHED_BYTES = 2**27  # of one network's tensors that are held at a time
PROBED_AT_ONCE = 16  # tensors whose sizes are found out together
MOST_AT_ONCE = 16  # inputs of one run

NamedArrays = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class BothValues:
    """Tensors by name, in the float network and in the quantized one."""

    plain: NamedArrays
    hat: NamedArrays


class Pieces:
    """One of the networks cut at the matched tensors, as far as some of them need it."""

    def __init__(
        self,
        model: onnx.ModelProto,
        tensors: Sequence[MatchedTensor],
        kinds: Mapping[str, int],
        wanted: Sequence[str],
        ends: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        cut_model, self._ends, self.fed = cut(model, tensors, kinds, wanted, ends)
        self._types = {hat: onnx.helper.tensor_dtype_to_np_dtype(kinds[name]) for hat, name in self.fed.items()}
        self._given = set(fed_names(cut_model.graph)) - set(self.fed)
        given = {tensor.name for tensor in tensors if tensor.is_input}
        # The matched tensors that it is fed, without inputs of the network.
        self.inner = tuple(sorted({name for name in self.fed.values() if name not in given}))
        self._session = Session(cut_model, label="the network in pieces")

    @classmethod
    def of_float(cls, model: onnx.ModelProto, pair: PairedNetworks, wanted: Sequence[str]) -> Pieces:
        """The float network's pieces."""
        tensors = [dataclasses.replace(tensor, stands=tensor.name) for tensor in pair.matching.tensors]
        return cls(model, tensors, pair.float_kinds, wanted)

    def run(self, feeds: NamedArrays, plain: NamedArrays, factors: Mapping[str, ChannelChange]) -> NamedArrays:
        """What the pieces give for the float network's tensors, changed as the quantized network changes them."""
        values = {**feeds, **plain}
        names = self.fed.values()
        changed = {name: factors[name].put_in(values[name]) if name in factors else values[name] for name in names}
        return self._run(feeds, changed)

    def run_taken_out(self, feeds: NamedArrays, hat: NamedArrays, factors: Mapping[str, ChannelChange]) -> NamedArrays:
        """What the float network's pieces give for the quantized network's tensors, with its changes taken out."""
        changed = {
            name: factors[name].take_out(np.asarray(hat[name], np.float64)) if name in factors else hat[name]
            for name in self.fed.values()
        }
        return self._run(feeds, changed)

    def _run(self, feeds: NamedArrays, values: NamedArrays) -> NamedArrays:
        fed = {name: value for name, value in feeds.items() if name in self._given}
        for hat, dtype in self._types.items():
            fed[hat] = values[self.fed[hat]].astype(dtype, copy=False)
        got = self._session.run(typed(self._session, fed), list(self._ends.values()))
        return dict(zip(self._ends, got, strict=True))


class PairedNetworks:
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
        self._given = standing(quantized, fed_names(quantized.graph))
        self._rounded = rounded_ends(quantized, (*self._given, *names))
        before = dict.fromkeys((*self._rounded, *self._stands.values(), *names))  # rounded, and as it was before
        self._hat = Session(with_outputs(quantized, before), label=label)
        self._at_once = 1
        self.kinds: dict[str, int] = {}  # element types in the quantized network
        self.float_kinds: dict[str, int] = {}
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
                    self.float_kinds[name] = onnx.helper.np_dtype_to_tensor_dtype(a.dtype)
                    self._bytes[name] = a.nbytes + b.nbytes

    def feeds(self) -> Iterator[tuple[NamedArrays, int]]:
        """What both networks are fed, run by run, and how many of it are inputs and no filling."""
        for chunk in chunks_of(self._inputs):
            if isinstance(chunk, Samples):
                for values in zip(*chunk.feeds.values(), strict=True):
                    yield dict(zip(chunk.feeds, values, strict=True)), 1
                continue
            yield from self._of_images(chunk.x)

    def _of_images(self, x: npt.NDArray[np.float32]) -> Iterator[tuple[NamedArrays, int]]:
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

    def both(self, feeds: NamedArrays, names: Sequence[str]) -> BothValues:
        """Tensors of both networks."""
        return BothValues(self.plain(feeds, names), self.hat(feeds, names))

    def plain(self, feeds: NamedArrays, names: Sequence[str]) -> NamedArrays:
        """Tensors of the float network."""
        return run_named(self._float, feeds, names)

    def unrounded(self, feeds: NamedArrays, names: Sequence[str]) -> NamedArrays:
        """Tensors of the quantized network as they are before they are rounded."""
        return run_named(self._hat, feeds, names)

    def smooth_pieces(self) -> Callable[[Sequence[str]], Pieces]:
        """What makes the quantized network's pieces without the rounding of its matched tensors."""
        model = without_rounding(self._quantized, (*self._given, *self.kinds))
        found = (*self.matching.inputs, *self.matching.tensors)
        tensors = [dataclasses.replace(tensor, stands=tensor.name) for tensor in found]
        kinds = {tensor.name: self.kind_of(tensor.name) for tensor in found}
        return lambda wanted: Pieces(model, tensors, kinds, wanted)

    @property
    def leaves_functions_to_codes(self) -> bool:
        """Whether codes do the work of a Relu that the quantized network no longer has."""
        feeds, _ = next(self.feeds())
        names = [tensor.name for tensor in self.matching.tensors if tensor.name != tensor.stands]
        plain, before = self.plain(feeds, names), self.unrounded(feeds, names)
        return any(within_bounds(before[name], plain[name]) is not before[name] for name in names)

    def bytes_of(self, name: str) -> int:
        """How much a tensor takes of one run, in both networks; 0 of an input."""
        return self._bytes.get(name, 0) * self._at_once

    def groups(self) -> list[list[str]]:
        """The tensors in order, as many together as may be held of one run; of most networks all."""
        groups = held_together(self.matching.tensors, lambda tensor: self.bytes_of(tensor.name), 2 * FETCHED_BYTES)
        return [[tensor.name for tensor in group] for group in groups]

    def pieces(self, wanted: Sequence[str], unrounded: str = "") -> Pieces:
        """The quantized network's pieces.

        unrounded: a tensor that is wanted as it is before it is rounded; its piece is then fed behind all roundings.
        """
        found = (*self.matching.inputs, *self.matching.tensors)
        kinds = {tensor.name: self.kind_of(tensor.name) for tensor in found}
        if not unrounded:
            return Pieces(self._quantized, found, kinds, wanted)
        tensors = [dataclasses.replace(t, stands=t.name) if t.name == unrounded else t for t in found]
        ends = {hat: name for hat, name in self._rounded.items() if name in kinds and name != unrounded}
        return Pieces(self._quantized, tensors, kinds, wanted, ends)

    def read_by(self, feeds: NamedArrays, tensor: MatchedTensor) -> NamedArrays:
        """What a tensor's piece reads in the quantized network, by the names of the matched tensors."""
        inner = [(hat, name) for hat, name in tensor.reads_at if hat not in feeds]
        values = self._hat.run(typed(self._hat, feeds), [hat for hat, _ in inner])
        return {name: value for (_, name), value in zip(inner, values, strict=True)}

    def hat(self, feeds: NamedArrays, names: Sequence[str]) -> NamedArrays:
        """Tensors as they stand in the quantized network; where the float one rounds, too, several stand as one."""
        values = run_named(self._hat, feeds, list(dict.fromkeys(self._stands[name] for name in names)))
        return {name: values[self._stands[name]] for name in names}

    def kind_of(self, name: str) -> int:
        """The element type of a matched tensor, or of an input, in the quantized network."""
        stated = (value for value in self._quantized.graph.input if value.name == name)
        given = next((int(value.type.tensor_type.elem_type) for value in stated), onnx.TensorProto.FLOAT)
        return self.kinds.get(name, given)

    def rounded_inputs(self, feeds: NamedArrays) -> NamedArrays:
        """What the quantized network makes of its inputs before anything else reads them."""
        names = [tensor.name for tensor in self.matching.inputs]
        if not names:
            return feeds
        values = self._hat.run(typed(self._hat, feeds), [self._given[name] for name in names])
        return {**feeds, **dict(zip(names, values, strict=True))}


def run_named(session: Session, feeds: NamedArrays, names: Sequence[str]) -> NamedArrays:
    """Outputs of a network by name."""
    return dict(zip(names, session.run(typed(session, feeds), names), strict=True)) if names else {}


def typed(session: Session, feeds: NamedArrays) -> NamedArrays:
    """What a network is fed, as arrays; floats in the types that it states, of which uint8 may be one."""
    types = {name: INPUT_TYPES.get(kind) for name, _, kind in session.inputs}
    fed = {name: np.asarray(value) for name, value in feeds.items()}
    return {
        name: value if value.dtype.kind != "f" else value.astype(types.get(name) or value.dtype, copy=False)
        for name, value in fed.items()
    }


def within_bounds(values: Array, plain: Array) -> Array:
    """Values that are not rounded yet, in the bounds of the float network's: a Relu may have been left to the codes."""
    low, high = float(plain.min()), float(plain.max())
    if low < 0 or not values.size or float(values.min()) >= 0:
        return values
    cut_above = float(np.mean(plain == high)) > 1e-3  # where many are equal to the largest, a Clip has cut them
    bounded: Array = np.clip(np.asarray(values, np.float64), 0, high if cut_above else None)
    return bounded
