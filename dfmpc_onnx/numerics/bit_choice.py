"""How many bits a layer gets, from what each width would cost its output and the file."""

from __future__ import annotations

from collections.abc import Callable

CANDIDATE_WIDTHS: tuple[int, ...] = (2, 3, 4, 6, 8)
LOOSE = 0.003  # what 4 bits usually lose; below it they are tried last
STEP = 3.0  # by how much a bit less raises the error, at the very least; for fine grids it is 4
FALL = 0.75  # of the error goes with one bit more, where it falls by 4


def choose_bits(lost_at: Callable[[int], float], threshold: float, size: float) -> int:
    """The fewest bits that lose at most `threshold`, or more where more are cheap.

    lost_at: the share of the layer's output that rounding to so many bits costs; called for few widths, each once.
    size: of the layer, as a multiple of an average one. A bit more on an average layer that stands at the threshold
    buys ``FALL * threshold`` and costs its size: the price that other layers pay too, so that small layers, which
    cost little, take more bits and the sum of all losses falls for little more bytes.
    """
    lost: dict[int, float] = {}

    def known(bits: int) -> float:
        if bits not in lost:
            lost[bits] = lost_at(bits)
        return lost[bits]

    position = CANDIDATE_WIDTHS.index(4 if threshold >= LOOSE else 6)
    while known(CANDIDATE_WIDTHS[position]) > threshold and position + 1 < len(CANDIDATE_WIDTHS):
        position += 1
    while position > 0:
        narrower = CANDIDATE_WIDTHS[position - 1]
        at_least = STEP ** (CANDIDATE_WIDTHS[position] - narrower) * known(CANDIDATE_WIDTHS[position])
        if (narrower not in lost and at_least > threshold) or known(narrower) > threshold:
            break
        position -= 1
    chosen = CANDIDATE_WIDTHS[position]
    price = FALL * threshold * size
    for wider in CANDIDATE_WIDTHS[position + 1 :]:
        cost = price * (wider - chosen)
        if known(chosen) <= cost:
            break
        if known(chosen) - known(wider) > cost:
            chosen = wider
    return chosen
