import numpy as np
import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.inputs.batches import MOST_IMAGES, input_batch
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import resolve
from tests import graphs


def inputs(shape, dtype=graphs.TensorProto.FLOAT, given=(), images=None):
    model = graphs.feeding(x=(dtype, shape))
    return resolve(model, dict(given), Preprocess.parse("unit"), images)


@pytest.mark.parametrize(
    ("shape", "given", "want", "origin"),
    [
        ((4, 3, 8, 8), {}, (4, 3, 8, 8), "4 generated images of 8x8"),
        ((1, 3, 8, 8), {}, (1, 3, 8, 8), "1 generated image of 8x8"),
        ((4, 1, 8, 8), {}, (4, 1, 8, 8), "4 generated images of 8x8"),
        ((4, 8, 10, 3), {}, (4, 8, 10, 3), "4 generated images of 8x10"),
        (("n", 3, "h", "w"), {"x": (1, 3, 8, 12)}, (MOST_IMAGES, 3, 8, 12), "64 generated images of 8x12"),
        ((2, 16, 8, 8), {}, (2, 16, 8, 8), "2 generated 1/f fields"),
        ((2, 3, 20), {}, (2, 3, 20), "2 generated 1/f fields"),
        ((5, 7), {}, (5, 7), "5 Gaussian vectors"),
    ],
)
def test_what_each_input_gets(shape, given, want, origin):
    batch = input_batch(inputs(shape, given=given), 0)
    assert batch.feeds["x"].shape == want and batch.feeds["x"].dtype == np.float32
    assert np.isfinite(batch.feeds["x"]).all()
    assert batch.origin == origin and batch.warnings == ()


def test_a_dynamic_size_is_assumed_and_said():
    batch = input_batch(inputs(("n", 3, "h", "w")), 0, count=1)
    assert batch.feeds["x"].shape == (1, 3, 224, 224)
    assert batch.warnings == ("input 'x': dynamic size taken as 3x224x224; give --input-shape for another",)


@pytest.mark.parametrize(("shape", "kind"), [((2,), "INT64"), ((), "INT32"), ((), "BOOL")])
def test_a_size_an_index_and_a_flag_are_zero(shape, kind):
    batch = input_batch(inputs(shape, getattr(graphs.TensorProto, kind)), 0)
    assert batch.feeds["x"].shape == shape and not batch.feeds["x"].any()


@pytest.mark.parametrize(("shape", "kind"), [((2, 50), "INT64"), ((1, 1, 8, 8), "INT32"), ((64,), "BOOL")])
def test_masks_and_indices_are_zeros_and_ones(shape, kind):
    x = input_batch(inputs(shape, getattr(graphs.TensorProto, kind)), 0).feeds["x"]
    assert x.shape == shape and x.dtype.name == kind.lower()
    assert np.array_equal(np.unique(x), [0, 1])


def test_the_users_own_images_take_the_place_of_procedural_ones(tmp_path):
    np.savez(tmp_path / "own.npz", x=np.full((3, 8, 8, 3), 51, np.uint8))
    batch = input_batch(inputs(("n", 3, 8, 8), images=str(tmp_path / "own.npz")), 0)
    assert batch.feeds["x"].shape == (3, 3, 8, 8) and np.allclose(batch.feeds["x"], 0.2)
    assert batch.origin == "3 of 3 images of own.npz"
    with pytest.raises(OptionError, match="takes batches of 4, only 3 images given"):
        input_batch(inputs((4, 3, 8, 8), images=str(tmp_path / "own.npz")), 0)
    with pytest.raises(OptionError, match="input 'x' is type int32; it must be of floats or bytes"):
        inputs((4, 3, 8, 8), graphs.TensorProto.INT32).image_input()


def test_a_network_in_half_precision_gets_the_users_images_in_its_own_type(tmp_path):
    np.savez(tmp_path / "own.npz", x=np.full((3, 8, 8, 3), 51, np.uint8))
    half = inputs(("n", 3, 8, 8), graphs.TensorProto.FLOAT16, images=str(tmp_path / "own.npz"))
    assert input_batch(half, 0).feeds["x"].dtype == np.float16


def test_a_scalar_is_fed_a_scalar():
    assert input_batch(inputs(()), 0).feeds["x"].shape == ()


def test_a_vector_of_a_stated_length_is_fed_as_it_is():
    """Scales or a size beside the pictures: their length is no number of images."""
    float32 = graphs.TensorProto.FLOAT
    model = graphs.feeding(x=(float32, ("n", 3, 8, 8)), scales=(float32, (2,)), lengths=(float32, ("n",)))
    batch = input_batch(resolve(model, {}, Preprocess.parse("unit")), 0, 5)
    assert {name: x.shape for name, x in batch.feeds.items()} == {"x": (5, 3, 8, 8), "scales": (2,), "lengths": (5,)}
    assert batch.first(2) is batch  # what is not an image cannot be cut


@pytest.mark.parametrize(("batch", "free", "left"), [("n", False, 3), (8, True, 3), (8, False, 8)])
def test_fewer_images_only_where_the_network_takes_them(batch, free, left):
    found = input_batch(inputs((batch, 3, 8, 8)), 0, 8, free=free)
    assert (found.count, len(found.first(3).feeds["x"])) == (8, left)


def test_the_users_own_images_are_all_taken_where_the_batch_is_free(tmp_path):
    np.savez(tmp_path / "own.npz", x=np.full((3, 8, 8, 3), 51, np.uint8))
    own = inputs((1, 3, 8, 8), images=str(tmp_path / "own.npz"))
    assert len(input_batch(own, 0, free=True).feeds["x"]) == 3
    assert len(input_batch(own, 0).feeds["x"]) == 1
