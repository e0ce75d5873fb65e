"""Joint fields of the float and the quantized network, and how a layer's two weights act on them."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.conv import HeightWidth, planar
from dfmpc_onnx.graph.operators import op_of
from dfmpc_onnx.numerics import lags as lg
from dfmpc_onnx.numerics.arrays import Float


@dataclasses.dataclass(frozen=True)
class Cross:
    """Covariance with another tensor, as a spectrum: it only ever meets linear maps. step: the stride of its grid."""

    spectrum: lg.Spectrum
    grid: tuple[int, int]
    step: int

    def scaled(self, gain: npt.NDArray[np.float32]) -> Cross:
        return dataclasses.replace(self, spectrum=self.spectrum * gain[:, None])

    def among(self, index: npt.NDArray[np.intp], width: int) -> Cross:
        """With the tensor's channels put among `width` others, which have none: channel j becomes ``index[j]``."""
        wide = np.zeros((len(self.spectrum), width, self.spectrum.shape[2]), np.complex64)
        wide[:, index] = self.spectrum
        return dataclasses.replace(self, spectrum=wide)

    def transposed(self) -> Cross:
        return dataclasses.replace(self, spectrum=self.spectrum.conj().swapaxes(1, 2))

    def plus(self, other: Cross) -> Cross:
        """The sum of two covariances with the same tensor."""
        if other.step != self.step:
            step = max(self.step, other.step)
            return self.coarser(step).plus(other.coarser(step))
        if other.grid == self.grid:
            return dataclasses.replace(self, spectrum=self.spectrum + other.spectrum)
        grid = (max(self.grid[0], other.grid[0]), max(self.grid[1], other.grid[1]))
        lags = sum(lg.window(lg.to_lags(c.spectrum, c.grid), *grid) for c in (self, other))
        return Cross(lg.to_spectrum(np.asarray(lags, np.float32)), grid, self.step)

    def coarser(self, step: int) -> Cross:
        """On a grid of a larger stride."""
        if step == self.step:
            return self
        factor = step // self.step
        lags = lg.decimate(lg.to_lags(self.spectrum, self.grid), (factor, factor))
        return Cross(lg.to_spectrum(lags), (lags.shape[0], lags.shape[1]), step)


@dataclasses.dataclass(frozen=True)
class Field:
    """One tensor. mean: ``[2 C]``; lags: own covariance; size: height and width of the map.

    others: covariance with other tensors by name. stride: pixels of the input between neighbours of this map.
    flat: whether the tensor is ``[n, C]`` rather than a map.
    """

    mean: Float
    lags: lg.Lags
    size: tuple[int, int]
    stride: int
    others: dict[str, Cross]
    flat: bool = False

    @property
    def channels(self) -> int:
        return len(self.mean) // 2

    @property
    def variance(self) -> Float:
        return np.maximum(np.diagonal(self.lags[0, 0]).astype(np.float64), np.float64(0))

    @property
    def numbers(self) -> int:
        """How many it is made of; a complex one counts twice."""
        return self.lags.size + sum(2 * cross.spectrum.size for cross in self.others.values())

    @property
    def grid(self) -> tuple[int, int]:
        return self.lags.shape[0], self.lags.shape[1]


def places(channels: int, before: int, total: int) -> npt.NDArray[np.intp]:
    """Where the channels of both networks go when `before` of `total` stand in front of them."""
    index = np.arange(channels) + before
    return np.concatenate([index, index + total])


class Kernels:
    """The weights of one layer in the float and in the quantized network, as they act on joint fields."""

    def __init__(
        self, node: gs.Node, plain: npt.NDArray[np.float32], hat: npt.NDArray[np.float32], channels: int
    ) -> None:
        _, _, self._dilations = planar(node)
        groups = int(node.attrs.get("group", 1)) if op_of(node) == "Conv" else 1
        self._taps: lg.KernelArray | None = None
        if op_of(node) == "Conv" and groups == channels == len(plain) and plain.shape[1] == 1:
            self._taps = np.concatenate([plain, hat])[:, 0]
            self.out = channels
            return
        if op_of(node) == "Conv":
            joined = [_dense(w, groups, channels) for w in (plain, hat)]
        else:
            axis = 0 if node.attrs.get("transB", 0) else 1
            joined = [(w if axis == 0 else w.T)[:, :, None, None] for w in (plain, hat)]
        if joined[0].shape[1] != channels:
            raise Unknown("its input's channels are not known")
        self._weights = np.stack(joined)
        self.out = len(plain) if op_of(node) == "Conv" else joined[0].shape[0]

    def mean(self, mean: Float) -> Float:
        """Of the output, without the bias."""
        if self._taps is not None:
            return np.asarray(self._taps.sum(axis=(1, 2), dtype=np.float64) * mean)
        sums = self._weights.sum(axis=(3, 4), dtype=np.float64)
        half = len(mean) // 2
        return np.concatenate([sums[0] @ mean[:half], sums[1] @ mean[half:]])

    def both(self, lags: lg.Lags, strides: HeightWidth) -> lg.Lags:
        """The covariance of the output."""
        grid = (lags.shape[0], lags.shape[1])
        if self._taps is not None:
            spectrum = lg.depthwise_spectrum(self._taps, grid, self._dilations)
            return lg.decimate(lg.depthwise_both(lags, spectrum), strides)
        if self._weights.shape[3:] == (1, 1):
            return lg.pointwise_both(lg.decimate(lags, strides), np.ascontiguousarray(self._weights[..., 0, 0]))
        mapped = lg.apply_both(lg.to_spectrum(lags), lg.kernel_spectrum(self._weights, grid, self._dilations))
        return lg.decimate(lg.to_lags(mapped, grid), strides)

    def left_product(self, spectrum: lg.Spectrum, grid: HeightWidth, step: int) -> lg.Spectrum:
        """The covariance of the output with another tensor, whose grid is finer by `step`."""
        spread = (self._dilations[0] * step, self._dilations[1] * step)
        if self._taps is not None:
            return spectrum * lg.depthwise_spectrum(self._taps, grid, spread)[:, :, None]
        return lg.apply_left(spectrum, lg.kernel_spectrum(self._weights, grid, spread))


def _dense(weight: npt.NDArray[np.float32], groups: int, channels: int) -> npt.NDArray[np.float32]:
    """A grouped Conv's weight as that of a Conv without groups."""
    if groups == 1:
        return weight
    out, per_group = weight.shape[:2]
    dense = np.zeros((out, channels, *weight.shape[2:]), np.float32)
    for index in range(out):
        start = index // (out // groups) * per_group
        dense[index, start : start + per_group] = weight[index]
    return dense


def check_input_channels(node: gs.Node, x: Field, weight: npt.NDArray[np.float32]) -> None:
    """Raise Unknown where a layer does not read the channels of a field, or is no layer of maps."""
    planar(node)
    if op_of(node) == "MatMul" and not x.flat:
        raise Unknown("a matrix product along the width of a map")
    groups = int(node.attrs.get("group", 1)) if op_of(node) == "Conv" else 1
    rows = op_of(node) == "Conv" or (op_of(node) == "Gemm" and node.attrs.get("transB", 0))
    if weight.ndim < 2 or weight.shape[1 if rows else 0] * groups != x.channels:
        raise Unknown("its input's channels are not known")
