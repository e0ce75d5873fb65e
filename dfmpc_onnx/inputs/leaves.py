"""Leaves that fall on a picture, each on those before it: drawn one by one, painted all together.

Which leaf lies on top at each pixel is found first, small leaves in one operation; then each pixel is painted once.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.numerics.arrays import Float, Float32

Indices = npt.NDArray[np.intp]
TEXTURE = 9.0  # deviation of the 1/f texture on a leaf, on the 0..255 scale
# Photographs' colours lie mostly along brightness; what is left is spread over two weaker directions.
COLOUR_AXES = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-0.5, 1.0, -0.5]])
COLOUR_STD = np.array([62.0, 20.0, 10.0])
COLOUR_MEAN = np.array([123.0, 116.0, 104.0])
SLOPE = 18.0  # of the shading: deviation over a leaf's radius, on the 0..255 scale
ELLIPSE, BOX, TRIANGLE = range(3)
SMALL_LEAF = 1024  # pixels of its window: smaller ones are looked at together


@dataclasses.dataclass(frozen=True)
class Leaves:
    """What falls, in order, ``[count]`` each, or ``[count, n]``; all but windows and kinds float32.

    windows: top, bottom, left and right of what a leaf may cover. slopes: of its shading along its own axes. strength:
    of the texture on it. colour: RGB on the 0..255 scale.
    """

    windows: Indices
    kinds: Indices
    x: Float32
    y: Float32
    radii: Float32
    squares: Float32
    cosine: Float32
    sine: Float32
    stretch: Float32
    slopes: Float32
    strength: Float32
    colour: Float32

    def along(self, leaf: Indices | int, rows: Float32, columns: Float32) -> tuple[Float32, Float32]:
        """Points in a leaf's own axes."""
        dy, dx = rows - self.y[leaf], columns - self.x[leaf]
        cosine, sine = self.cosine[leaf], self.sine[leaf]
        u: Float32 = dx * cosine + dy * sine
        v: Float32 = dy * cosine - dx * sine
        v /= self.stretch[leaf]
        return u, v

    def covers(self, leaf: int, rows: Float32, columns: Float32) -> npt.NDArray[np.bool_]:
        """Whether points lie on one leaf."""
        u, v = self.along(leaf, rows, columns)
        return _within(int(self.kinds[leaf]), u, v, self.radii[leaf], self.squares[leaf])

    def cover(self, leaves: Indices, rows: Float32, columns: Float32) -> npt.NDArray[np.bool_]:
        """Whether each point lies on its leaf: ``[points]``."""
        u, v = self.along(leaves, rows, columns)
        found = np.empty(len(leaves), bool)
        for kind in (ELLIPSE, BOX, TRIANGLE):
            at = np.flatnonzero(self.kinds[leaves] == kind)
            found[at] = _within(kind, u[at], v[at], self.radii[leaves[at]], self.squares[leaves[at]])
        return found


def draw_leaves(height: int, width: int, radii: Float, ground: Float, generator: np.random.Generator) -> Leaves:
    """Leaves of given radii in pixels ``[count]``; those that fall beside the picture are left out.

    ground: the colour of what shows where none has fallen; it is the last, and covers nothing.
    """
    places, shapes, looks = (np.empty((len(radii), n)) for n in (2, 2, 6))
    kinds = np.empty(len(radii), np.intp)
    for index in range(len(radii)):
        places[index] = generator.random(2)
        kinds[index] = generator.integers(3)
        shapes[index] = generator.random(2)
        looks[index] = generator.standard_normal(6)
    x, y = places[:, 0] * width, places[:, 1] * height
    angle, stretch = shapes[:, 0] * (2 * np.pi), 0.4 + shapes[:, 1] * (1.0 - 0.4)
    colour = COLOUR_MEAN + (looks[:, :3] * COLOUR_STD) @ COLOUR_AXES
    slopes = looks[:, 3:5] * SLOPE / np.maximum(radii, 1.0)[:, None]
    strength = np.abs(looks[:, 5] * TEXTURE)
    cosine, sine = np.cos(angle), np.sin(angle)
    windows = _windows(height, width, (x, y, radii), (kinds, stretch, np.abs(cosine), np.abs(sine)))
    seen = (windows[:, 0] < windows[:, 1]) & (windows[:, 2] < windows[:, 3])
    numbers = (x, y, radii, radii * radii, cosine, sine, stretch, slopes, strength, colour)
    last = (0, 0, 0, 0, 1, 0, 1, np.zeros(2), 2 * TEXTURE, ground)
    fallen = (np.concatenate([v[seen], [own]]).astype(np.float32) for v, own in zip(numbers, last, strict=True))
    return Leaves(np.append(windows[seen], [[0] * 4], axis=0), np.append(kinds[seen], BOX), *fallen)


def _windows(
    height: int, width: int, place: tuple[Float, Float, Float], shape: tuple[Indices, Float, Float, Float]
) -> Indices:
    """What leaves may cover of the picture: an ellipse reaches less far than a box, a triangle no farther."""
    (x, y, radii), (kinds, stretch, cosine, sine) = place, shape
    across = np.where(kinds == ELLIPSE, np.hypot(cosine, stretch * sine), cosine + stretch * sine) * radii
    down = np.where(kinds == ELLIPSE, np.hypot(sine, stretch * cosine), sine + stretch * cosine) * radii
    ends = (
        np.maximum(np.trunc(y - down - 1), 0),
        np.minimum(np.trunc(y + down) + 2, height),
        np.maximum(np.trunc(x - across - 1), 0),
        np.minimum(np.trunc(x + across) + 2, width),
    )
    return np.stack(ends, axis=1).astype(np.intp)


def _within(
    kind: int, u: Float32, v: Float32, radius: np.float32 | Float32, square: np.float32 | Float32
) -> npt.NDArray[np.bool_]:
    """Whether points in a leaf's own axes lie on it."""
    if kind == ELLIPSE:
        return u * u + v * v <= square
    if kind == BOX:
        return np.maximum(np.abs(u), np.abs(v)) <= radius * np.float32(0.9)
    return (v >= -radius * np.float32(0.6)) & (np.abs(u) * np.float32(1.7) + v <= radius)


def painted_leaves(texture: Float32, leaves: Leaves) -> Float32:
    """The picture ``[height, width, 3]`` on the 0..255 scale, clipped; texture: ``[height, width]``."""
    height, width = texture.shape
    owner = _topmost(leaves, height, width)
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    u, v = leaves.along(owner, rows, columns)
    u *= leaves.slopes[:, 0][owner]
    v *= leaves.slopes[:, 1][owner]
    u += v
    u += leaves.strength[owner] * texture
    canvas: Float32 = leaves.colour[owner]
    canvas += u[:, :, None]
    return np.clip(canvas, 0, 255, out=canvas)


def _topmost(leaves: Leaves, height: int, width: int) -> Indices:
    """The leaf on top at each pixel, -1, the ground, where there is none: ``[height, width]``."""
    top, bottom, left, right = leaves.windows.T
    areas = (bottom - top) * (right - left)
    owner = np.full(height * width, -1, np.intp)
    small = np.flatnonzero(areas < SMALL_LEAF)
    leaf = np.repeat(small, areas[small])
    place = np.arange(len(leaf)) - np.repeat(np.cumsum(areas[small]) - areas[small], areas[small])
    row, column = np.divmod(place, (right - left)[leaf])
    row += top[leaf]
    column += left[leaf]
    on = np.flatnonzero(leaves.cover(leaf, row.astype(np.float32), column.astype(np.float32)))
    owner[row[on] * width + column[on]] = leaf[on]  # of several the last, which lies on top
    whole = owner.reshape(height, width)
    for index in np.flatnonzero(areas >= SMALL_LEAF).tolist():
        part = whole[top[index] : bottom[index], left[index] : right[index]]
        rows = np.arange(top[index], bottom[index], dtype=np.float32)[:, None]
        columns = np.arange(left[index], right[index], dtype=np.float32)[None, :]
        np.maximum(part, index, out=part, where=leaves.covers(index, rows, columns))
    return whole
