"""Procedural images: dead leaves and writing, which share with photographs what convolutions respond to.

Opaque shapes of random size, place, colour and shading fall on each other until nothing of the ground is left. Sizes
follow a power law, so the picture looks alike at every scale, edges occlude as objects do, and the spectrum falls as
1/f. (Lee, Mumford and Huang 2001, "Occlusion models for natural images".)

Half of the pictures carry rows of strokes, arcs and straight ones, thin, of one colour and about one size, as writing
does: networks that look for text, signs or thin structures are barely active on leaves alone.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.inputs.leaves import COLOUR_AXES, COLOUR_MEAN, COLOUR_STD, draw_leaves, painted_leaves
from dfmpc_onnx.numerics.arrays import Float, Float32

Pixels = npt.NDArray[np.uint8]
SMALLEST, LARGEST = 0.02, 0.55  # radius of a leaf as a share of the picture's shorter side
# Writing: rows on a picture, glyphs in a row, their size as a share of the shorter side, strokes' thickness of that.
ROWS, GLYPHS = 6, (3, 14)
GLYPH_SIZE, THICKNESS = (0.04, 0.25), (0.05, 0.11)
CONTRAST = 1.5  # deviation of its colour over that of a leaf's: writing is made to be seen
KEPT = 16  # of the pictures made last: as many as statistics come from where pictures are large
# Small ones are painted four times as fine, so they take longest beside what they hold: 3 kB each at most are kept.
SMALL_PIXELS, SMALL_KEPT = 32 * 32, 4096


def noise_fields(
    count: int,
    channels: int,
    shape: tuple[int, ...],
    seed: int,
    *,
    standardize: bool = False,
    exponent: float = 1.0,
    correlation: float = 0.8,
) -> Float:
    """Random fields with amplitude 1/f^exponent, 1/f as photographs: ``[count, channels, *shape]``.

    Over all fields mean 0 and deviation 1; each has a mean of its own, as one photograph is darker than another, or
    what averages a map would see nothing; `standardize` gives each mean 0 and deviation 1. Of the variance the channels
    share `correlation`; four fifths, as brightness is shared by the colours of a photograph.
    """
    generator = np.random.default_rng(seed)
    axes = tuple(range(2, 2 + len(shape)))
    amplitude = _amplitudes(tuple(shape), exponent, standardize)
    white = generator.standard_normal((count, channels + 1, *shape))
    # Of real fields half of the spectrum says all; what is linear is done to it before the way back.
    spectrum = np.fft.rfftn(white, axes=axes)
    spectrum *= amplitude[..., : spectrum.shape[-1]]
    deviation = _deviations(spectrum, shape) if standardize else np.sqrt(np.square(amplitude).mean())
    spectrum /= np.maximum(deviation, 1e-12)
    own = round(1 - correlation, 6)  # 0.2, which 1 - 0.8 is not quite
    mixed = np.sqrt(own) * spectrum[:, 1:]
    mixed += np.sqrt(correlation) * spectrum[:, :1]
    result: Float = np.fft.irfftn(mixed, s=shape, axes=axes)
    return result


@functools.lru_cache(1)
def _amplitudes(shape: tuple[int, ...], exponent: float, standardize: bool) -> Float:
    """By frequency, as `np.fft.fftn` orders them: ``[*shape]``. Pictures of one size, made one by one, share them."""
    frequency = np.sqrt(sum(np.square(f) for f in np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")))
    lowest = 1.0 / max(shape)
    found: Float = 1.0 / np.maximum(frequency, lowest)
    if exponent != 1.0:
        found = found**exponent
    if standardize:
        found.reshape(-1)[0] = 0.0
    found.flags.writeable = False
    return found


def _deviations(spectrum: npt.NDArray[np.complex128], shape: tuple[int, ...]) -> Float:
    """Of real fields of mean 0 and this shape, from their `rfftn`, by Parseval: ``[count, channels, 1...]``."""
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    twice = np.full(spectrum.shape[-1], 2.0)  # what stands for its conjugate too
    twice[0] = 1.0
    if shape[-1] % 2 == 0:
        twice[-1] = 1.0
    total: Float = (power * twice).sum(axis=tuple(range(2, 2 + len(shape))), keepdims=True)
    return np.sqrt(total) / math.prod(shape)


def pictures(count: int, height: int, width: int, seed: int) -> Pixels:
    """Dead leaves, every second picture with writing on it: ``[count, height, width, 3]`` uint8 RGB.

    The same for the same seed; each picture is made from its own generator, so a longer series begins with a shorter
    one.
    """
    return _series(count, height, width, seed, 2)


def dead_leaves(count: int, height: int, width: int, seed: int) -> Pixels:
    """Pictures of fallen shapes: ``[count, height, width, 3]`` uint8 RGB, the same for the same seed.

    Each picture is made from its own generator, so a longer series begins with a shorter one.
    """
    return _series(count, height, width, seed, 0)


def _series(count: int, height: int, width: int, seed: int, written: int) -> Pixels:
    """Pictures; every so many-th with writing, none for 0."""
    result = np.empty((count, height, width, 3), np.uint8)
    picture = _small_picture if height * width <= SMALL_PIXELS else _large_picture
    for index in range(count):
        result[index] = picture(index, height, width, seed, bool(written) and index % written == written - 1)
    return result


def _picture_of_series(index: int, height: int, width: int, seed: int, written: bool) -> Pixels:
    """One picture of a series."""
    # A camera's pixel averages what falls on it, so pictures are painted finer and averaged down.
    finer = 4 if min(height, width) <= 96 else 2
    generator = np.random.default_rng([seed, index])
    canvas = _picture(height * finer, width * finer, generator)
    if written:
        for _ in range(ROWS):
            _write(canvas, generator)
    picture: Pixels = np.clip(np.rint(_averaged(canvas, finer)), 0, 255).astype(np.uint8)
    picture.flags.writeable = False  # it is handed out again
    return picture


def _averaged(canvas: Float32, finer: int) -> Float32:
    """Each block of so many rows and columns as one pixel."""
    total = np.zeros((len(canvas) // finer, canvas.shape[1] // finer, canvas.shape[2]), np.float32)
    for row, column in np.ndindex(finer, finer):
        total += canvas[row::finer, column::finer]
    total /= np.float32(finer**2)
    return total


_small_picture = functools.lru_cache(SMALL_KEPT)(_picture_of_series)
_large_picture = functools.lru_cache(KEPT)(_picture_of_series)


def _picture(height: int, width: int, generator: np.random.Generator) -> Float32:
    side = min(height, width)
    smallest, largest = max(SMALLEST, 0.7 / side), LARGEST
    fields = noise_fields(1, 1, (height, width), int(generator.integers(2**31)), standardize=True)
    texture = fields[0, 0].astype(np.float32)
    ground = COLOUR_MEAN + (generator.standard_normal(3) * COLOUR_STD) @ COLOUR_AXES
    radii = _radii(generator, smallest, largest, height / side * width / side)
    return painted_leaves(texture, draw_leaves(height, width, radii * side, ground, generator))


def _radii(generator: np.random.Generator, smallest: float, largest: float, area: float) -> Float:
    """Radii by the power law, in the order in which the leaves fall; about as many as cover the picture thrice."""
    a, b = smallest**-2, largest**-2  # inverse of the distribution function for density r^-3
    mean_square = 2 * np.log(largest / smallest) / (a - b)
    count = int(np.clip(3.0 * area / (np.pi * mean_square), 24, 1200))
    few = generator.uniform(0.25, 1.0, 6) * largest  # a ground that is covered from the first
    radii = 1 / np.sqrt(a - generator.random(count) * (a - b))
    return np.concatenate([few, radii])


def _write(canvas: Float32, generator: np.random.Generator) -> None:
    """A row of glyphs, each a few strokes between the points of a grid of three by three."""
    height, width = canvas.shape[:2]
    side = min(height, width)
    size = float(np.exp(generator.uniform(*np.log(GLYPH_SIZE)))) * side
    top, left = generator.uniform(0, height - size), generator.uniform(0, width / 2)
    colour = COLOUR_MEAN + (generator.standard_normal(3) * COLOUR_STD * CONTRAST) @ COLOUR_AXES
    colour = np.clip(colour, 0, 255).astype(np.float32)
    thickness = max(size * generator.uniform(*THICKNESS), 0.5)
    for _ in range(int(generator.integers(*GLYPHS))):
        across = size * generator.uniform(0.4, 0.75)
        if left + across > width:
            break
        if generator.random() > 0.15:  # else the gap between two words
            _paint_glyph(canvas, (top, left), (size, across), thickness, colour, generator)
        left += across * 1.12


def _paint_glyph(
    canvas: Float32,
    place: tuple[float, float],
    extent: tuple[float, float],
    thickness: float,
    colour: Float32,
    generator: np.random.Generator,
) -> None:
    ends = [
        (max(int(p - thickness), 0), min(int(p + e + thickness) + 2, n))
        for p, e, n in zip(place, extent, canvas.shape[:2], strict=True)
    ]
    (top, bottom), (left, right) = ends
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(place[0])
    x = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(place[1])
    inside = np.zeros((bottom - top, right - left), bool)
    for _ in range(int(generator.integers(2, 5))):
        points = generator.choice(9, 2, replace=False)
        (ay, by), (ax, bx) = (points // 3) * extent[0] / 2, (points % 3) * extent[1] / 2
        dy, dx = by - ay, bx - ax
        length = float(np.hypot(dy, dx))
        if generator.random() < 0.65:
            along = np.clip(((x - ax) * dx + (y - ay) * dy) / length**2, 0, 1)
            distance = np.hypot(x - ax - along * dx, y - ay - along * dy)
        else:  # half a circle on the stroke as its diameter
            cy, cx = (ay + by) / 2, (ax + bx) / 2
            distance = np.abs(np.hypot(y - cy, x - cx) - length / 2)
            distance = np.where((x - cx) * dy > (y - cy) * dx, distance, np.inf)
        inside |= distance <= thickness
    canvas[top:bottom, left:right][inside] = colour
