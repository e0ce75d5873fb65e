"""What each layer and each activation costs: the end-to-end damage without its error, one at a time.

A layer is restored by what the float network computes of the quantized one's inputs to it; an activation by its values
before they are rounded. The rest of the quantized network runs on as it is. Damage is that of `numerics.output_loss`,
in which sensitivities and plans are stated, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from dfmpc_onnx.evaluation.diagnosis.roundings import Rounding
from dfmpc_onnx.evaluation.matched_tensors import fed_at
from dfmpc_onnx.evaluation.output_differences import sqnr
from dfmpc_onnx.evaluation.paired_networks import NamedArrays, PairedNetworks, Pieces, typed, within_bounds
from dfmpc_onnx.evaluation.tensor_sums import ChannelChange
from dfmpc_onnx.memory import held_together
from dfmpc_onnx.numerics.arrays import Array
from dfmpc_onnx.numerics.output_loss import damage, output_loss
from dfmpc_onnx.runtime.session import Session

HELD_BYTES = 2**28  # of restored tensors that are held at a time, for all inputs


@dataclasses.dataclass(frozen=True)
class Loss:
    """What the outputs of a network lose: `damage` (numerics.output_loss), and the SQNR of the worst in dB."""

    damage: float
    sqnr_db: float


@dataclasses.dataclass(frozen=True)
class Restorable:
    """What may be restored. tensor: by its name in both networks. kind: "weights" or "activation".

    layers: of the weights. rounding: of an activation.
    """

    tensor: str
    kind: str
    layers: tuple[str, ...] = ()
    rounding: Rounding | None = None


class Blame:
    """Restores candidates one by one. outputs: names of the tensors of both networks that damage is measured at."""

    def __init__(
        self,
        pair: PairedNetworks,
        factors: dict[str, ChannelChange],
        quantized: onnx.ModelProto,
        float_model: onnx.ModelProto,
        outputs: Sequence[str],
    ) -> None:
        self._pair, self._factors, self._quantized, self._float = pair, factors, quantized, float_model
        self._outputs = list(outputs)
        self._wanted: list[list[Array]] = []
        self.loss = self._baseline()

    def _baseline(self) -> Loss:
        """Of the file as it is: its own session, with the kernels that it runs on."""
        stands = {tensor.name: tensor.stands for tensor in self._pair.matching.tensors}
        model, read = fed_at(self._quantized, {}, [stands.get(name, name) for name in self._outputs])
        session = Session(model, label="the quantized network")
        found = []
        for feeds, real in self._pair.feeds():
            self._wanted.append([_real(v, real) for v in self._pair.plain(feeds, self._outputs).values()])
            fed = {name: feeds[name] for name in read if name in feeds}  # the outputs may not need every input
            values = session.run(typed(session, fed), [stands.get(name, name) for name in self._outputs])
            found.append([_real(value, real) for value in values])
        return self._loss(found)

    def _loss(self, found: list[list[Array]]) -> Loss:
        want = [np.concatenate(parts) for parts in zip(*self._wanted, strict=True)]
        wide = [np.concatenate(parts).astype(np.float64) for parts in zip(*found, strict=True)]
        got = [np.nan_to_num(values, posinf=1e30, neginf=-1e30) for values in wide]
        losses = [output_loss(a, b) for a, b in zip(want, got, strict=True)]
        return Loss(damage(losses), round(sqnr([values.astype(np.float64) for values in want], got), 2))

    def candidates(self, found: Sequence[Rounding]) -> list[Restorable]:
        """Every layer with a weight, and every rounded activation, in the order of the network."""
        by_tensor: dict[str, list[Rounding]] = {}
        for rounding in found:
            by_tensor.setdefault(rounding.tensor, []).append(rounding)
        listed = [Restorable(name, "activation", (), r) for name in self._given() for r in by_tensor.get(name, ())]
        for tensor in self._pair.matching.tensors:
            if tensor.layers:
                listed.append(Restorable(tensor.name, "weights", tensor.layers))
            listed += [Restorable(tensor.name, "activation", (), r) for r in by_tensor.get(tensor.name, ())]
        return listed

    def _given(self) -> list[str]:
        feeds, _ = next(self._pair.feeds())
        return list(feeds)

    def measure(
        self, candidates: Sequence[Restorable], tell: Callable[[int, int], None] = lambda done, of: None
    ) -> list[tuple[Restorable, Loss]]:
        """What is left to lose with each restored."""
        found: list[tuple[Restorable, Loss]] = []
        runs = len(self._wanted)
        for group in held_together(candidates, lambda one: self._pair.bytes_of(one.tensor) * runs, HELD_BYTES):
            values = self._restored(group)
            for candidate in group:
                found.append((candidate, self._run(candidate, values[candidate])))
                tell(len(found), len(candidates))
        return found

    def _restored(self, group: Sequence[Restorable]) -> dict[Restorable, list[Array]]:
        """The values of each candidate's tensor without its error, run by run."""
        exact = _ExactPieces(self._pair, self._float, [c.tensor for c in group if c.kind == "weights"])
        rounded = sorted({c.tensor for c in group if c.kind == "activation"})
        found: dict[Restorable, list[Array]] = {candidate: [] for candidate in group}
        for feeds, _ in self._pair.feeds():
            inner = [name for name in rounded if name not in feeds]
            before = {**feeds, **self._pair.unrounded(feeds, inner)}
            plain = self._pair.plain(feeds, inner)
            computed = exact.run(feeds, self._factors)
            for candidate in group:
                name, change = candidate.tensor, self._factors.get(candidate.tensor)
                value = computed[name] if candidate.kind == "weights" else before[name]
                if candidate.kind == "weights" and change is not None:
                    value = change.put_in(value)
                elif candidate.kind == "activation" and change is None and name in plain:
                    value = within_bounds(value, plain[name])
                found[candidate].append(value)
        return found

    def _run(self, candidate: Restorable, values: Sequence[Array]) -> Loss:
        ends = (candidate.tensor,) if candidate.rounding is None else candidate.rounding.ends
        kind = self._pair.kind_of(candidate.tensor)
        stands = {tensor.name: tensor.stands for tensor in self._pair.matching.tensors}
        wanted = [stands.get(name, name) for name in self._outputs]
        model, given = fed_at(self._quantized, dict.fromkeys(ends, kind), wanted)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        left = [name for name in wanted if name not in ends]
        session = Session(model, label="the quantized network") if left else None
        found = []
        for (feeds, real), restored in zip(self._pair.feeds(), values, strict=True):
            value = np.asarray(restored).astype(dtype, copy=False)
            fed = {name: feeds[name] for name in given if name in feeds}
            all_fed = {**fed, **dict.fromkeys(ends, value)}
            results = iter([] if session is None else session.run(typed(session, all_fed), left))
            found.append([_real(value if name in ends else next(results), real) for name in wanted])
        return self._loss(found)


class _ExactPieces:
    """The float network's pieces, each fed what it reads in the quantized network."""

    def __init__(self, pair: PairedNetworks, model: onnx.ModelProto, wanted: Sequence[str]) -> None:
        self._pair = pair
        stands = {t.name: t.stands for t in (*pair.matching.inputs, *pair.matching.tensors)}
        found = [tensor for tensor in pair.matching.tensors if tensor.name in set(wanted)]
        self._single = [t for t in found if any(stands.get(name, name) != hat for hat, name in t.reads_at)]
        usual = [tensor.name for tensor in found if tensor not in self._single]
        self._usual = Pieces.of_float(model, pair, usual) if usual else None
        self._pieces = [Pieces.of_float(model, pair, [tensor.name]) for tensor in self._single]

    def run(self, feeds: NamedArrays, factors: Mapping[str, ChannelChange]) -> NamedArrays:
        """What the wanted tensors would be, without what the quantized network does to their channels."""
        given = self._pair.rounded_inputs(feeds)
        found: NamedArrays = {}
        if self._usual is not None:
            found |= self._usual.run_taken_out(given, self._pair.hat(feeds, self._usual.inner), factors)
        for tensor, pieces in zip(self._single, self._pieces, strict=True):
            values = {**self._pair.hat(feeds, pieces.inner), **self._pair.read_by(feeds, tensor)}
            found |= pieces.run_taken_out({**given, **values}, values, factors)
        return found


def _real(values: Array, real: int) -> Array:
    return values[:real] if values.ndim and len(values) > real else values
