"""Codes of 2 and 4 bits packed into bytes as ONNX stores them: the first element in the lowest bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def pack(codes: npt.NDArray[np.int8], bits: int) -> bytes:
    """Two's-complement codes of 2, 4 or 8 bits as bytes, row-major, little end first, the last byte padded by zeros.

    codes: any shape, int8, each within ``-2**(bits-1) .. 2**(bits-1) - 1``.
    Raises ValueError for a width that does not divide a byte, or a code that does not fit.
    """
    _check(bits)
    flat = np.ascontiguousarray(codes).reshape(-1)
    if flat.size and (int(flat.min()) < -(2 ** (bits - 1)) or int(flat.max()) > 2 ** (bits - 1) - 1):
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


def unpack(packed: bytes, bits: int, shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """The inverse of `pack`: int8 codes of `shape`."""
    _check(bits)
    raw = np.frombuffer(packed, np.uint8)
    per_byte = 8 // bits
    lanes = np.empty((raw.size, per_byte), np.uint8)
    for lane in range(per_byte):
        # Up to the top of the byte and back down as a signed number: the sign bit is extended on the way.
        lanes[:, lane] = raw << np.uint8(8 - bits - lane * bits)
    codes = lanes.view(np.int8) >> np.int8(8 - bits)
    return codes.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def _check(bits: int) -> None:
    if bits not in (2, 4, 8):
        raise ValueError(f"codes of {bits} bits do not divide a byte; 2, 4 and 8 do")
