"""Procedural images: dead leaves and writing, which share with photographs what convolutions respond to.

Opaque shapes of random size, place, colour and shading fall on each other until nothing of the ground is left. Sizes
follow a power law, so the picture looks alike at every scale, edges occlude as objects do, and the spectrum falls as
1/f. (Lee, Mumford and Huang 2001, "Occlusion models for natural images".)

Half of the pictures carry rows of strokes, arcs and straight ones, thin, of one colour and about one size, as writing
does: networks that look for text, signs or thin structures are barely active on leaves alone.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
SMALLEST, LARGEST = 0.02, 0.55  # radius of a leaf as a share of the picture's shorter side
TEXTURE = 9.0  # deviation of the 1/f texture on a leaf, on the 0..255 scale
# Photographs' colours lie mostly along brightness; what is left is spread over two weaker directions.
COLOUR_AXES = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-0.5, 1.0, -0.5]])
COLOUR_STD = np.array([62.0, 20.0, 10.0])
COLOUR_MEAN = np.array([123.0, 116.0, 104.0])
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
) -> npt.NDArray[np.float64]:
    """Random fields with amplitude 1/f^exponent, 1/f as photographs: ``[count, channels, *shape]``.

    Over all fields mean 0 and deviation 1; each has a mean of its own, as one photograph is darker than another, or
    what averages a map would see nothing; `standardize` gives each mean 0 and deviation 1. Of the variance the channels
    share `correlation`; four fifths, as brightness is shared by the colours of a photograph.
    """
    generator = np.random.default_rng(seed)
    axes = tuple(range(2, 2 + len(shape)))
    frequency = np.sqrt(sum(np.square(f) for f in np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")))
    lowest = 1.0 / max(shape)
    amplitude = 1.0 / np.maximum(frequency, lowest)
    if exponent != 1.0:
        amplitude = amplitude**exponent
    if standardize:
        amplitude.reshape(-1)[0] = 0.0
    white = generator.standard_normal((count, channels + 1, *shape))
    fields = np.fft.ifftn(np.fft.fftn(white, axes=axes) * amplitude, axes=axes).real
    deviation = fields.std(axis=axes, keepdims=True) if standardize else np.sqrt(np.square(amplitude).mean())
    fields /= np.maximum(deviation, 1e-12)
    own = round(1 - correlation, 6)  # 0.2, which 1 - 0.8 is not quite
    result: npt.NDArray[np.float64] = np.sqrt(correlation) * fields[:, :1] + np.sqrt(own) * fields[:, 1:]
    return result


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
    blocks = canvas.reshape(height, finer, width, finer, 3)
    picture: Pixels = np.clip(np.rint(blocks.mean(axis=(1, 3))), 0, 255).astype(np.uint8)
    picture.flags.writeable = False  # it is handed out again
    return picture


_small_picture = functools.lru_cache(SMALL_KEPT)(_picture_of_series)
_large_picture = functools.lru_cache(KEPT)(_picture_of_series)


def _picture(height: int, width: int, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    side = min(height, width)
    smallest, largest = max(SMALLEST, 0.7 / side), LARGEST
    fields = noise_fields(1, 1, (height, width), int(generator.integers(2**31)), standardize=True)
    texture = fields[0, 0].astype(np.float32)
    ground = COLOUR_MEAN + (generator.standard_normal(3) * COLOUR_STD) @ COLOUR_AXES
    canvas: npt.NDArray[np.float32] = ground.astype(np.float32) + np.float32(2 * TEXTURE) * texture[:, :, None]
    radii = _radii(generator, smallest, largest, height / side * width / side)
    for radius in radii * side:
        _paint(canvas, texture, float(radius), generator)
    np.clip(canvas, 0, 255, out=canvas)
    return canvas


def _radii(generator: np.random.Generator, smallest: float, largest: float, area: float) -> npt.NDArray[np.float64]:
    """Radii by the power law, in the order in which the leaves fall; about as many as cover the picture thrice."""
    a, b = smallest**-2, largest**-2  # inverse of the distribution function for density r^-3
    mean_square = 2 * np.log(largest / smallest) / (a - b)
    count = int(np.clip(3.0 * area / (np.pi * mean_square), 24, 1200))
    few = generator.uniform(0.25, 1.0, 6) * largest  # a ground that is covered from the first
    radii = 1 / np.sqrt(a - generator.random(count) * (a - b))
    return np.concatenate([few, radii])


def _paint(
    canvas: npt.NDArray[np.float32], texture: npt.NDArray[np.float32], radius: float, generator: np.random.Generator
) -> None:
    height, width = canvas.shape[:2]
    x, y = generator.uniform(0, width), generator.uniform(0, height)
    kind, angle, stretch = generator.integers(3), generator.uniform(0, 2 * np.pi), generator.uniform(0.4, 1.0)
    colour = COLOUR_MEAN + (generator.standard_normal(3) * COLOUR_STD) @ COLOUR_AXES
    slope = generator.normal(0, 18.0, 2) / max(radius, 1.0)
    strength = abs(generator.normal(0, TEXTURE))
    reach = radius * 1.5
    top, bottom = max(int(y - reach), 0), min(int(y + reach) + 2, height)
    left, right = max(int(x - reach), 0), min(int(x + reach) + 2, width)
    if top >= bottom or left >= right:
        return
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
    dx = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(x)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = dx * cosine + dy * sine, (dy * cosine - dx * sine) / np.float32(stretch)
    if kind == 0:
        inside = u * u + v * v <= radius * radius
    elif kind == 1:
        inside = np.maximum(np.abs(u), np.abs(v)) <= radius * np.float32(0.9)
    else:
        inside = (v >= -radius * np.float32(0.6)) & (np.abs(u) * np.float32(1.7) + v <= radius)
    shade = np.float32(slope[0]) * u + np.float32(slope[1]) * v + np.float32(strength) * texture[top:bottom, left:right]
    patch = canvas[top:bottom, left:right]
    patch[inside] = colour.astype(np.float32) + shade[inside][:, None]


def _write(canvas: npt.NDArray[np.float32], generator: np.random.Generator) -> None:
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
    canvas: npt.NDArray[np.float32],
    place: tuple[float, float],
    extent: tuple[float, float],
    thickness: float,
    colour: npt.NDArray[np.float32],
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
