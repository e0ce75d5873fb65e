"""Codes packed into bytes: fields of 1, 2, 4 and 8 bits as ONNX stores them.

A code of another width is a sum of narrower ones. Its bits are cut into planes, the highest first: 6 bits are one
plane of 4 bits and one of 2, ``q = 4 hi + lo``. The first plane carries the sign, so it is signed, the others are not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dfmpc_onnx.numerics.arrays import CodeArray


def pack(codes: CodeArray, bits: int, signed: bool = True) -> bytes:
    """Codes of 1, 2, 4 or 8 bits as bytes, row-major, the first in the lowest bits, the last byte padded by zeros.

    codes: any shape, int8, each within ``-2**(bits-1) .. 2**(bits-1) - 1``, or ``0 .. 2**bits - 1`` where unsigned.
    Raises ValueError for a width that does not divide a byte, or a code that does not fit.
    """
    _check(bits)
    flat = np.ascontiguousarray(codes).reshape(-1)
    lowest, highest = _limits(bits, signed)
    if flat.size and (int(flat.min()) < lowest or int(flat.max()) > highest):
        raise ValueError(f"a code does not fit into {bits} bits")
    if bits == 8:
        return flat.tobytes()
    per_byte = 8 // bits
    padded = np.zeros(-(-flat.size // per_byte) * per_byte, np.uint8)
    padded[: flat.size] = flat.view(np.uint8) & np.uint8(2**bits - 1)
    packed = np.zeros(padded.size // per_byte, np.uint8)
    for lane in range(per_byte):
        packed |= padded[lane::per_byte] << np.uint8(lane * bits)
    return packed.tobytes()


def unpack(packed: bytes, bits: int, shape: tuple[int, ...], signed: bool = True) -> CodeArray:
    """The inverse of `pack`: int8 codes of `shape`."""
    _check(bits)
    raw = np.frombuffer(packed, np.uint8)
    per_byte = 8 // bits
    lanes = np.empty((raw.size, per_byte), np.uint8)
    for lane in range(per_byte):
        # Up to the top of the byte and back down, as a signed number to extend the sign bit on the way.
        lanes[:, lane] = raw << np.uint8(8 - bits - lane * bits)
    codes = lanes.view(np.int8) >> np.int8(8 - bits) if signed else (lanes >> np.uint8(8 - bits)).view(np.int8)
    return codes.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def split(codes: CodeArray, widths: Sequence[int]) -> list[CodeArray]:
    """Planes of codes of ``sum(widths)`` bits, the highest bits first; the first plane signed, the others not.

    codes: any shape, int8. Returns planes of that shape with ``codes = sum_i planes[i] << shifts(widths)[i]``.
    """
    first, *others = zip(widths, shifts(widths), strict=True)
    planes = [codes >> np.int8(first[1])]
    planes += [(codes >> np.int8(shift)) & np.int8(2**width - 1) for width, shift in others]
    return planes


def shifts(widths: Sequence[int]) -> tuple[int, ...]:
    """How many bits stand below each plane."""
    return tuple(sum(widths[i + 1 :]) for i in range(len(widths)))


def byte_table(bits: int, shift: int = 0, signed: bool = True) -> CodeArray:
    """What each byte holds: ``[256, 8 / bits]`` int8, its fields of `bits` bits, times ``2**shift``."""
    every = np.arange(256, dtype=np.uint8).tobytes()
    return unpack(every, bits, (256, 8 // bits), signed) << np.int8(shift)


def _limits(bits: int, signed: bool) -> tuple[int, int]:
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _check(bits: int) -> None:
    if bits not in (1, 2, 4, 8):
        raise ValueError(f"codes of {bits} bits do not divide a byte; 1, 2, 4 and 8 do")
