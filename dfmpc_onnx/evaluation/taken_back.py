"""Which tensors of a quantized network hold channels that were changed on purpose.

Some ways to quantize multiply channels by factors, or add to them, and the layers behind take that back. What such a
tensor holds is no error; a factor that nothing takes back is. The layers behind tell them apart: they are fed the
tensor once with the factors and once without.
"""

from __future__ import annotations

from collections.abc import Sequence

from dfmpc_onnx.evaluation.paired_networks import PairedNetworks, run_named
from dfmpc_onnx.evaluation.tensor_sums import ChannelChange, TensorSums


class TakenBack:
    """Which tensors hold channels multiplied by factors that the layers behind them take back."""

    def __init__(self, pair: PairedNetworks) -> None:
        self._pair = pair
        self._candidates: dict[str, ChannelChange] = {}

    def found(self) -> dict[str, ChannelChange]:
        """The factors of each such tensor, ``[channels]``.

        They are seen where no activation is rounded: an error of roundings in front would be taken for one of them.
        """
        smooth = None if self._pair.leaves_functions_to_codes else self._pair.smooth()
        for group in self._pair.groups():
            sums = {name: TensorSums() for name in group}
            for feeds, real in self._pair.feeds():
                plain = self._pair.plain(feeds, group)
                hat = self._pair.hat(feeds, group) if smooth is None else run_named(smooth, feeds, group)
                for name in group:
                    sums[name].add(plain[name], hat[name], hat[name], None, real)
            for name in group:
                factors = sums[name].factors()
                if factors is not None:
                    self._candidates[name] = factors
        return self._taken_back() if self._candidates else {}

    def _taken_back(self) -> dict[str, ChannelChange]:
        """The readers are asked from the last to the first: what they shall give depends on those behind them."""
        readers: dict[str, list[str]] = {}
        for tensor in self._pair.matching.tensors:
            for read in tensor.reads:
                if read in self._candidates:
                    readers.setdefault(read, []).append(tensor.name)
        noise = self._noise(sorted({reader for found in readers.values() for reader in found}))
        kept: dict[str, ChannelChange] = {}
        for tensor in reversed(self._pair.matching.tensors):
            if tensor.name not in self._candidates:
                continue
            votes = [noise[reader, reader in kept] for reader in readers.get(tensor.name, ())]
            if votes and sum(scaled for scaled, _ in votes) < sum(plain for _, plain in votes):
                kept[tensor.name] = self._candidates[tensor.name]
                self._leave_odd_one(tensor.name, readers[tensor.name], kept)
        return kept

    def _leave_odd_one(self, name: str, readers: Sequence[str], kept: dict[str, ChannelChange]) -> None:
        """Take out of a change what is done to one channel alone, where the readers do not take that back: a channel
        may be broken in a tensor whose channels were changed on purpose, too."""
        other = kept[name].without_odd_one()
        if other is None:
            return
        feeds, real = next(self._pair.feeds())
        pieces = self._pair.pieces(readers)
        plain = self._pair.plain(feeds, sorted({*readers, *pieces.inner}))
        noises = []
        for changes in (kept, {**kept, name: other}):
            found = pieces.run(feeds, plain, changes)
            noises.append(0.0)
            for reader in readers:
                sums = TensorSums()
                sums.add(plain[reader], found[reader], found[reader], changes.get(reader), real)
                noises[-1] += sums.relative(sums.noise)
        if noises[1] < noises[0]:
            kept[name] = other

    def _noise(self, wanted: Sequence[str]) -> dict[tuple[str, bool], tuple[float, float]]:
        """What each reader's usual error is with its inputs multiplied and not, where its own output shall be and not.

        The usual error, since a layer with one broken channel must not hide what is done to those in front of it.
        """
        feeds, real = next(self._pair.feeds())
        found: dict[tuple[str, bool], tuple[float, float]] = {}
        for group in self._pair.groups():
            part = [name for name in group if name in set(wanted)]
            if not part:
                continue
            pieces = self._pair.pieces(part)
            plain = self._pair.both(feeds, sorted({*part, *pieces.inner})).plain
            given = [pieces.run(feeds, plain, factors) for factors in (self._candidates, {})]
            for name in part:
                for own in (False, True):
                    factor = self._candidates.get(name) if own else None
                    noises = []
                    for values in given:
                        sums = TensorSums()
                        sums.add(plain[name], values[name], values[name], factor, real)
                        noises.append(sums.usual_error)
                    found[name, own] = noises[0], noises[1]
        return found
