import numpy as np
import pytest

from dfmpc_onnx.inputs import leaves as module
from dfmpc_onnx.inputs.leaves import BOX, ELLIPSE, TEXTURE, draw_leaves, painted_leaves

GROUND = np.array([10.0, 20.0, 30.0])


def falling(seed, height=40, width=56, count=60):
    rng = np.random.default_rng(seed)
    texture = rng.standard_normal((height, width)).astype(np.float32)
    return texture, draw_leaves(height, width, rng.uniform(0.5, 15, count), GROUND, rng)


def on_leaf(leaves, i, row, column):
    """Whether a pixel lies on a leaf, and its place in the leaf's axes."""
    dy, dx = row - leaves.y[i], column - leaves.x[i]
    u = dx * leaves.cosine[i] + dy * leaves.sine[i]
    v = (dy * leaves.cosine[i] - dx * leaves.sine[i]) / leaves.stretch[i]
    r = leaves.radii[i]
    if leaves.kinds[i] == ELLIPSE:
        return u * u + v * v <= r * r, u, v
    if leaves.kinds[i] == BOX:
        return max(abs(u), abs(v)) <= 0.9 * r, u, v
    return v >= -0.6 * r and abs(u) * 1.7 + v <= r, u, v


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("small", [0, module.SMALL_LEAF, 10**6])
def test_leaves_painted_together_are_leaves_painted_one_after_the_other(seed, small, monkeypatch):
    monkeypatch.setattr(module, "SMALL_LEAF", small)
    texture, leaves = falling(seed)
    got, near = painted_leaves(texture, leaves), 0
    for row, column in np.ndindex(texture.shape):
        want = GROUND + 2 * TEXTURE * texture[row, column]
        for i in range(len(leaves.kinds) - 1):
            covered, u, v = on_leaf(leaves, i, np.float32(row), np.float32(column))
            if covered:
                shade = leaves.slopes[i, 0] * u + leaves.slopes[i, 1] * v + leaves.strength[i] * texture[row, column]
                want = leaves.colour[i] + shade
        near += bool(np.allclose(got[row, column], np.clip(want, 0, 255), atol=1e-2))
    assert near >= 0.999 * texture.size  # a pixel on an edge may fall to either side


def test_no_leaf_leaves_the_ground():
    texture, leaves = falling(0, count=0)
    want = np.clip(GROUND + 2 * TEXTURE * texture[:, :, None], 0, 255)
    np.testing.assert_allclose(painted_leaves(texture, leaves), want, rtol=1e-5)
