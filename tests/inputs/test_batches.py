import dataclasses

import numpy as np
import pytest

from dfmpc_onnx.errors import ModelError, OptionError
from dfmpc_onnx.inputs.batches import (
    MOST_IMAGES,
    check_images,
    check_inputs,
    concrete_shape,
    image_input,
    input_batch,
    model_inputs,
    procedural_images,
)
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from tests import graphs


def settings(**options):
    return Settings(WeightBits.parse("8"), "8", preprocess=Preprocess.parse("unit"), **options)


def graph(shape, dtype=graphs.TensorProto.FLOAT):
    model = graphs.Net().model("x")
    model.graph.input[0].CopyFrom(graphs.helper.make_tensor_value_info("x", dtype, shape))
    model.graph.node.append(graphs.helper.make_node("Identity", ["x"], ["y"]))
    model.graph.output[0].CopyFrom(graphs.helper.make_tensor_value_info("y", dtype, shape))
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
    with pytest.raises(OptionError, match="input 'x' is type int32; it must be of floats or bytes"):
        image_input(graph((4, 3, 8, 8), graphs.TensorProto.INT32).inputs)


def test_a_network_in_half_precision_gets_the_users_images_in_its_own_type(tmp_path):
    np.savez(tmp_path / "own.npz", x=np.full((3, 8, 8, 3), 51, np.uint8))
    half = graph(("n", 3, 8, 8), graphs.TensorProto.FLOAT16)
    assert input_batch(half, settings(images=str(tmp_path / "own.npz"))).feeds["x"].dtype == np.float16


def test_a_scalar_is_fed_a_scalar():
    assert input_batch(graph(()), settings()).feeds["x"].shape == ()


@pytest.mark.parametrize(
    ("shape", "given", "want"),
    [
        ((1, 3, 32, 32), {}, (1, 3, 32, 32)),
        (("n", 3, 32, 32), {}, (1, 3, 32, 32)),
        (("n", 3, "h", "w"), {}, (1, 3, 224, 224)),
        (("n", "h", "w", 3), {}, (1, 224, 224, 3)),
        (("n", 3, "h", "w"), {"x": (2, 3, 64, 48)}, (2, 3, 64, 48)),
        (("n", 4), {}, (1, 4)),
    ],
)
def test_dynamic_dimensions_are_made_concrete(shape, given, want):
    assert concrete_shape(graph(shape).inputs[0], settings(input_shapes=given))[0] == want


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"y": (1, 3, 32, 32)}, "no such input; the model has x"),
        ({"x": (1, 3)}, "2 dimensions given, it has 4"),
        ({"x": (1, 3, 64, 64)}, "does not fit the model's"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(given, said):
    with pytest.raises(OptionError, match=said):
        check_inputs(graph((1, 3, 32, 32)).inputs, settings(input_shapes=given))


@pytest.mark.parametrize(
    ("lists", "shape", "fits"),
    [
        ("1,2,3/4,5,6", (1, 3, 8, 8), True),
        ("1,2,3/4", (1, 8, 8, 3), True),
        ("1/4", (1, 1, 8, 8), True),
        ("1,2,3/4,5,6", (1, 1, 8, 8), False),
        ("1,2/4,5", (1, 3, 8, 8), False),
        ("1,2,3,4/5", ("n", "c", "h", "w"), False),
        ("1,2,3,4/5", ("n", 4, "h", "w"), True),
        ("imagenet", (1, 1, 8, 8), True),
        ("1,2,3/4", (1, 10), True),
    ],
)
def test_lists_of_a_preprocess_must_have_one_value_a_channel(lists, shape, fits):
    given = dataclasses.replace(settings(), preprocess=Preprocess.parse(lists))
    if fits:
        check_inputs(graph(shape).inputs, given)
    else:
        channels = shape[1] if isinstance(shape[1], int) else 3
        with pytest.raises(OptionError, match=f"values, but input 'x' has {channels} channels; give 1 or {channels}"):
            check_inputs(graph(shape).inputs, given)


def feeding(**inputs):
    """A model with inputs of given type and shape."""
    model = graphs.chain()
    del model.graph.input[:]
    for name, (dtype, shape) in inputs.items():
        model.graph.input.append(graphs.helper.make_tensor_value_info(name, dtype, shape))
    return model


def test_what_a_model_is_fed_leaves_its_initializers_out():
    assert [(t.name, t.shape) for t in model_inputs(graphs.old(listed=True))] == [("x", [1, 3, 8, 8])]
    value = graphs.helper.make_tensor_sequence_value_info("s", graphs.TensorProto.FLOAT, [1])
    model = feeding(x=(graphs.TensorProto.FLOAT, ["n", 3]), y=(graphs.TensorProto.INT64, None))
    model.graph.input.append(value)
    found = [(t.name, t.shape, t.dtype) for t in model_inputs(model)]
    assert found == [("x", ["n", 3], np.float32), ("y", None, np.int64), ("s", None, None)]


def test_several_inputs_and_other_types_get_generated_runs():
    kinds = graphs.TensorProto
    model = feeding(
        picture=(kinds.FLOAT, ["n", 3, 8, 8]),
        half=(kinds.FLOAT16, [2, 7]),
        scalar=(kinds.DOUBLE, []),
        index=(kinds.INT64, [4]),
        flag=(kinds.BOOL, [1]),
    )
    samples = check_images(model_inputs(model), settings(), 5)
    assert {name: (x.shape, x.dtype.name) for name, x in samples.feeds.items()} == {
        "picture": ((5, 1, 3, 8, 8), "float32"),
        "half": ((5, 2, 7), "float16"),
        "scalar": ((5,), "float64"),
        "index": ((5, 4), "int64"),
        "flag": ((5, 1), "bool"),
    }
    assert set(np.unique(samples.feeds["index"])) == {0, 1}
    assert (samples.runs, samples.origin) == (5, "5 generated inputs")
    again = check_images(model_inputs(model), settings(), 5).feeds
    assert all(np.array_equal(again[name], x) for name, x in samples.feeds.items())
    assert not np.array_equal(samples.feeds["picture"][0], samples.feeds["picture"][1])


@pytest.mark.parametrize("kind", ["STRING", "BFLOAT16", "INT4"])
def test_an_input_that_nothing_can_be_generated_for_is_named(kind):
    model = feeding(x=(graphs.TensorProto.FLOAT, [1]), z=(getattr(graphs.TensorProto, kind), [1]))
    with pytest.raises(ModelError, match="nothing can be generated for its input 'z' of type"):
        check_images(model_inputs(model), settings(), 2)
