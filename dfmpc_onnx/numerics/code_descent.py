"""Codes after a walk with feedback, moved one by one where that leaves less of ``e H e'``.

A walk decides on a column by what is known when it comes to it. Afterwards all are known: with ``g = e H``, the codes
of a block b are best at the nearest to ``c_b + g_b H_bb^-1 / s`` in the metric of H_bb, the others as they are
(coordinate descent). One sweep over all blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dfmpc_onnx.numerics.arrays import Float32, Floating

HELD_BY = 1e-3  # of mean diag H: a column that nothing reaches keeps its code
COLUMNS_MOVED = 64  # whose moves one product carries to all others

Nearest = Callable[[int, int, Float32, Float32], Float32]


def descend(
    weight: Float32, hat: Floating, codes: Float32, scale: Float32, cuts: Sequence[tuple[int, int]], nearest: Nearest
) -> tuple[Float32, Float32, Float32]:
    """One sweep over the blocks of a weight's codes.

    weight, codes: ``[k, out]``, codes less their zero points. hat: H, ``[k, k]``. scale: ``[out]``. cuts: where blocks
    begin and end. nearest: of a block from start to stop, points ``[d, out]`` in units of a code and the block of H
    ``[d, d]``, the codes to take. Returns codes, e and ``H e'``: ``[k, out]`` each.
    """
    held: Float32 = np.array(hat, np.float32)
    index = np.arange(len(held))
    ridge = np.float32(max(HELD_BY * float(held[index, index].mean()), 1e-30))
    held[index, index] += ridge
    codes = codes.copy()
    left: Float32 = weight - codes * scale
    pull: Float32 = held @ left
    for chunk in _chunks(cuts):
        first, last = chunk[0][0], chunk[-1][1]
        before = left[first:last].copy()
        for start, stop in chunk:
            part = slice(start, stop)
            own = held[part, part]
            toward = pull[part] / own[0, 0] if stop - start == 1 else np.linalg.solve(own, pull[part])
            fresh = nearest(start, stop, codes[part] + toward / scale, own)
            moved = (codes[part] - fresh) * scale
            if moved.any():
                codes[part] = fresh
                left[part] += moved
                pull[first:last] += held[first:last, part] @ moved
        change = left[first:last] - before
        if change.any():
            pull[:first] += held[:first, first:last] @ change
            pull[last:] += held[last:, first:last] @ change
    pull -= ridge * left
    return codes, left, pull


def _chunks(cuts: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The blocks, by what one product serves."""
    chunks: list[list[tuple[int, int]]] = []
    for cut in cuts:
        if not chunks or cut[1] > chunks[-1][0][0] + COLUMNS_MOVED:
            chunks.append([])
        chunks[-1].append(cut)
    return chunks
