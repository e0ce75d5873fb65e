import numpy as np
import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.images import MOST_IMAGES, input_batch, procedural_images
from dfmpc_onnx.preprocess import Preprocess
from dfmpc_onnx.settings import Settings, WeightBits
from tests import graphs


def settings(**options):
    return Settings(WeightBits.parse("8"), "8", preprocess=Preprocess.parse("unit"), **options)


def graph(shape, dtype=graphs.TensorProto.FLOAT):
    model = graphs.Net(shape).model("x")
    model.graph.node.append(graphs.helper.make_node("Identity", ["x"], ["y"]))
    model.graph.output[0].CopyFrom(graphs.helper.make_tensor_value_info("y", dtype, shape))
    model.graph.input[0].type.tensor_type.elem_type = dtype
    return graphs.gs.import_onnx(model)


@pytest.mark.parametrize(
    ("shape", "given", "want", "origin"),
    [
        ((4, 3, 8, 8), {}, (4, 3, 8, 8), "4 procedural images of 8x8"),
        ((4, 1, 8, 8), {}, (4, 1, 8, 8), "4 procedural images of 8x8"),
        ((4, 8, 10, 3), {}, (4, 8, 10, 3), "4 procedural images of 8x10"),
        (("n", 3, "h", "w"), {"x": (1, 3, 8, 12)}, (MOST_IMAGES, 3, 8, 12), "64 procedural images of 8x12"),
        ((2, 16, 8, 8), {}, (2, 16, 8, 8), "2 procedural 1/f fields"),
        ((2, 3, 20), {}, (2, 3, 20), "2 procedural 1/f fields"),
        ((5, 7), {}, (5, 7), "5 Gaussian vectors"),
    ],
)
def test_what_each_input_gets(shape, given, want, origin):
    batch = input_batch(graph(shape), settings(input_shapes=given))
    assert batch.feeds["x"].shape == want and batch.feeds["x"].dtype == np.float32
    assert np.isfinite(batch.feeds["x"]).all()
    assert batch.origin == origin and batch.warnings == ()


def test_a_dynamic_size_is_assumed_and_said():
    batch = input_batch(graph(("n", 3, "h", "w")), settings(), count=1)
    assert batch.feeds["x"].shape == (1, 3, 224, 224)
    assert batch.warnings == ("input 'x': dynamic size taken as 3x224x224; give --input-shape for another",)


def test_integers_are_zeros():
    batch = input_batch(graph((2, 5), graphs.TensorProto.INT64), settings())
    assert batch.feeds["x"].dtype == np.int64 and not batch.feeds["x"].any()


def test_pixels_go_through_the_preprocess():
    x = procedural_images((2, 3, 16, 16), Preprocess.parse("unit"), 0).x
    raw = procedural_images((2, 3, 16, 16), Preprocess.parse("raw"), 0).x
    assert np.allclose(x, raw / 255, atol=1e-6)
    assert raw.min() >= 0 and raw.max() <= 255


def test_the_seed_decides():
    first, again, other = (procedural_images((1, 3, 8, 8), Preprocess.parse("unit"), s).x for s in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_given_shape_of_another_rank_is_refused():
    with pytest.raises(OptionError, match="2 dimensions given, it has 4"):
        input_batch(graph((1, 3, 8, 8)), settings(input_shapes={"x": (1, 3)}))


def test_the_users_own_images_take_the_place_of_procedural_ones(tmp_path):
    np.savez(tmp_path / "own.npz", x=np.full((3, 8, 8, 3), 51, np.uint8))
    batch = input_batch(graph(("n", 3, 8, 8)), settings(images=str(tmp_path / "own.npz")))
    assert batch.feeds["x"].shape == (3, 3, 8, 8) and np.allclose(batch.feeds["x"], 0.2)
    assert batch.origin == "3 of 3 images of own.npz"
    with pytest.raises(OptionError, match="takes batches of 4, only 3 images given"):
        input_batch(graph((4, 3, 8, 8)), settings(images=str(tmp_path / "own.npz")))
