import numpy as np

from dfmpc_onnx.inputs.generated import procedural_images
from dfmpc_onnx.inputs.preprocess import Preprocess


def test_pixels_go_through_the_preprocess():
    x = procedural_images((2, 3, 16, 16), Preprocess.parse("unit"), 0).x
    raw = procedural_images((2, 3, 16, 16), Preprocess.parse("raw"), 0).x
    assert np.allclose(x, raw / 255, atol=1e-6)
    assert raw.min() >= 0 and raw.max() <= 255


def test_the_seed_decides():
    first, again, other = (procedural_images((1, 3, 8, 8), Preprocess.parse("unit"), s).x for s in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
