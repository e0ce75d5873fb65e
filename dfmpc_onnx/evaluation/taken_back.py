"""Which tensors of a quantized network hold channels that were changed on purpose.

Some ways to quantize multiply channels by factors, or add to them, and the layers behind take that back. What such a
tensor holds is no error; a factor that nothing takes back is. The layers behind tell them apart: they are fed the
tensor once with the factors and once without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dfmpc_onnx.evaluation.matched_tensors import MatchedTensor
from dfmpc_onnx.evaluation.paired_networks import FETCHED_BYTES, NamedArrays, PairedNetworks, Pieces
from dfmpc_onnx.evaluation.tensor_sums import ChannelChange, TensorSums
from dfmpc_onnx.memory import held_together

SURELY_BETTER = 0.1  # of the logarithm of an error, by which another change of the channels in front explains it better
BADLY_EXPLAINED = -1.6  # that logarithm, above which one channel after another is asked for: a fifth is not explained
MOST_SOUGHT = 256  # channels
GAINS_TRIED = 12


class TakenBack:
    """Which tensors hold channels multiplied by factors that the layers behind them take back."""

    def __init__(self, pair: PairedNetworks) -> None:
        self._pair = pair
        self._candidates: dict[str, ChannelChange] = {}
        self._asked: set[str] = set()  # tensors whose odd channel a layer has judged
        self._pieces = pair.pieces if pair.leaves_functions_to_codes else pair.smooth_pieces()

    def found(self) -> dict[str, ChannelChange]:
        """The factors of each such tensor, ``[channels]``.

        Each is seen where a piece of the quantized network is fed what the float network computes, changed as in the
        tensors in front: an error in front would be taken for a factor, and a broken layer spoil all behind it. For the
        same reason no activation is rounded.
        """
        runs = list(self._pair.feeds())
        tensors = self._pair.matching.tensors
        for group in held_together(tensors, lambda one: self._pair.bytes_of(one.name) * len(runs), 2 * FETCHED_BYTES):
            read = {name for tensor in group for name in (tensor.name, *tensor.reads) if name in self._pair.kinds}
            plain = [self._pair.plain(feeds, sorted(read)) for feeds, _ in runs]
            for tensor in group:
                self._follow(tensor, runs, plain)
        return self._taken_back() if self._candidates else {}

    def _follow(
        self, tensor: MatchedTensor, runs: Sequence[tuple[NamedArrays, int]], plain: Sequence[NamedArrays]
    ) -> None:
        """Find what is done to the channels of one tensor; the first layer that reads a change tells a broken channel
        of it from one that was changed on purpose: its own channels are then most like the float network's."""
        pieces = self._pieces([tensor.name])
        asked = [name for name in tensor.reads if name in self._candidates and tensor.layers]
        asked = [name for name in asked if name not in self._asked]
        self._asked.update(asked)
        best, least = self._candidates, math.inf
        sums = self._sums(tensor.name, pieces, best, runs, plain)
        for name in asked:
            least = min(least, sums.unlike - SURELY_BETTER)
            for changes in self._otherwise(best, name):
                other = self._sums(tensor.name, pieces, changes, runs, plain)
                if other.unlike < least:
                    best, least, sums = changes, other.unlike, other
        for name in asked if sums.unlike > BADLY_EXPLAINED else ():
            found = self._without_one(tensor.name, name, pieces, best, runs, plain)
            other = self._sums(tensor.name, pieces, found, runs, plain)
            if other.unlike < sums.unlike - SURELY_BETTER:
                best, sums = found, other
        factors = sums.factors()
        self._candidates = {**best, tensor.name: factors} if factors is not None else dict(best)

    def _without_one(
        self,
        reader: str,
        name: str,
        pieces: Pieces,
        changes: dict[str, ChannelChange],
        runs: Sequence[tuple[NamedArrays, int]],
        plain: Sequence[NamedArrays],
    ) -> dict[str, ChannelChange]:
        """The changes with another gain of that one channel of a tensor by which a reader's channels are most like the
        float network's: among unlike gains a broken one need not be odd. It is sought among those of the others."""
        change = self._candidates[name]
        if len(change.gain) > MOST_SOUGHT:
            return changes
        usual = float(np.median(np.abs(change.gain)))
        tried = [change.with_gain(channel, usual) for channel in range(len(change.gain))]
        channel = self._best(reader, name, pieces, tried, changes, runs[:1], plain)
        low, high = np.quantile(np.abs(np.delete(change.gain, channel)), [0, 1])
        tried = [change.with_gain(channel, float(gain)) for gain in np.geomspace(low, high, GAINS_TRIED)]
        return {**changes, name: tried[self._best(reader, name, pieces, tried, changes, runs[:1], plain)]}

    def _best(
        self,
        reader: str,
        name: str,
        pieces: Pieces,
        tried: Sequence[ChannelChange],
        changes: dict[str, ChannelChange],
        runs: Sequence[tuple[NamedArrays, int]],
        plain: Sequence[NamedArrays],
    ) -> int:
        """Which of the changes of one tensor explains what a reader gives best."""
        values = [self._sums(reader, pieces, {**changes, name: c}, runs, plain[: len(runs)]).unlike for c in tried]
        return int(np.argmin(values))

    @staticmethod
    def _otherwise(changes: dict[str, ChannelChange], name: str) -> list[dict[str, ChannelChange]]:
        """The changes without that of the odd channel of one tensor, and without any of that tensor."""
        odd = changes[name].without_odd_one()
        left = {other: change for other, change in changes.items() if other != name}
        return [left] if odd is None else [{**left, name: odd}, left]

    @staticmethod
    def _sums(
        name: str,
        pieces: Pieces,
        changes: dict[str, ChannelChange],
        runs: Sequence[tuple[NamedArrays, int]],
        plain: Sequence[NamedArrays],
    ) -> TensorSums:
        sums = TensorSums()
        for (feeds, real), values in zip(runs, plain, strict=True):
            found = pieces.run(feeds, values, changes)[name]
            sums.add(values[name], found, found, None, real)
        return sums

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
        of = [kept[reader] for reader in readers if reader in kept]
        others = [kept[name].without_odd_one(), *(kept[name].as_guessed(behind) for behind in of)]
        tried = [kept[name], *(other for other in others if other is not None)]
        if len(tried) == 1:
            return
        feeds, real = next(self._pair.feeds())
        pieces = self._pair.pieces(readers)
        plain = self._pair.plain(feeds, sorted({*readers, *pieces.inner}))
        noises = []
        for change in tried:
            changes = {**kept, name: change}
            found = pieces.run(feeds, plain, changes)
            noises.append(0.0)
            for reader in readers:
                sums = TensorSums()
                sums.add(plain[reader], found[reader], found[reader], changes.get(reader), real)
                noises[-1] += sums.relative(sums.noise)
        kept[name] = tried[int(np.argmin(noises))]

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
