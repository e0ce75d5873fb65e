import dataclasses

import numpy as np
import pytest

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.inputs.batches import input_batch
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.samples import check_images, described_images, held_back_images, most_seen
from dfmpc_onnx.inputs.spec import resolve
from tests import graphs
from tests.graphs import feeding


def inputs_of(model):
    return resolve(model, {}, Preprocess.parse("unit"))


def test_several_inputs_and_other_types_get_generated_runs():
    kinds = graphs.TensorProto
    model = feeding(
        picture=(kinds.FLOAT, ["n", 3, 8, 8]),
        half=(kinds.FLOAT16, [2, 7]),
        scalar=(kinds.DOUBLE, []),
        index=(kinds.INT64, [4]),
        flag=(kinds.BOOL, [1]),
    )
    samples = check_images(inputs_of(model), 0, 5)
    assert {name: (x.shape, x.dtype.name) for name, x in samples.feeds.items()} == {
        "picture": ((5, 1, 3, 8, 8), "float32"),
        "half": ((5, 2, 7), "float16"),
        "scalar": ((5,), "float64"),
        "index": ((5, 4), "int64"),
        "flag": ((5, 1), "bool"),
    }
    assert set(np.unique(samples.feeds["index"])) == {0, 1}
    assert (samples.runs, samples.origin) == (5, "5 generated inputs")
    again = check_images(inputs_of(model), 0, 5).feeds
    assert all(np.array_equal(again[name], x) for name, x in samples.feeds.items())
    assert not np.array_equal(samples.feeds["picture"][0], samples.feeds["picture"][1])


@pytest.mark.parametrize(("count", "made"), [(9, 9), (64, 16), (100, 25), (101, 26)])
def test_as_many_pictures_are_made_as_were_asked_for(count, made):
    """Above 64 it made 64 without a word."""
    found = check_images(inputs_of(feeding(x=(graphs.TensorProto.FLOAT, ["n", 3, 8, 8]))), 0, count)
    assert len(found.x) == count == len(np.unique(found.x.reshape(count, -1), axis=0))
    assert found.origin.startswith(f"{count} ") and (f"({made}, each flipped 3 ways)" in found.origin) == (count > 16)


@pytest.mark.parametrize("kind", ["STRING", "BFLOAT16", "INT4"])
def test_an_input_that_nothing_can_be_generated_for_is_named(kind):
    model = feeding(x=(graphs.TensorProto.FLOAT, [1]), z=(getattr(graphs.TensorProto, kind), [1]))
    with pytest.raises(ModelError, match="nothing can be generated for its input 'z' of type"):
        check_images(inputs_of(model), 0, 2)


@pytest.mark.parametrize(
    ("batch", "free", "count", "checked"),
    [
        ("n", False, 170, 106),
        (1, False, 170, 169),
        (128, False, 170, 42),
        (128, False, 400, 272),
        (128, True, 400, 336),
        (128, False, 130, 0),
        (16, True, 20, 5),
        (16, True, 24, 6),
    ],
)
def test_no_image_of_the_users_own_is_both_in_the_statistics_and_compared_on(tmp_path, batch, free, count, checked):
    """A stated batch above 64 took images that counted as unseen."""
    numbered = np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1)
    np.savez(tmp_path / "x.npz", x=np.broadcast_to(numbered, (count, 3, 4, 4)))
    model = feeding(x=(graphs.TensorProto.FLOAT, [batch, 3, 4, 4]))
    inputs = resolve(model, {}, Preprocess.parse("unit"), str(tmp_path / "x.npz"))
    inputs = dataclasses.replace(inputs, batch_is_free=free)
    seen = input_batch(inputs, 0, free=free).feeds["x"][:, 0, 0, 0]
    assert len(seen) == (batch if isinstance(batch, int) and not free else min(64, count - checked))
    assert f", {checked} of them unseen by statistics" in described_images(inputs)
    held = held_back_images(inputs, count)
    found = [] if held is None else [float(v) for chunk in held.chunks() for v in chunk.x[:, 0, 0, 0]]
    assert len(found) == checked and not set(found) & set(seen.tolist())
    unsure = held_back_images(dataclasses.replace(inputs, batch_is_free=None), count)
    assert unsure is None or {float(v) for chunk in unsure.chunks() for v in chunk.x[:, 0, 0, 0]} <= set(found)


@pytest.mark.parametrize(
    ("count", "taken", "seen"), [(500, 500, 64), (500, 50, 9), (8, 8, 6), (8, 4, 4), (5, 5, 5), (5, 2, 2)]
)
def test_how_many_images_statistics_saw_is_a_number(count, taken, seen):
    """Of 500 images it said "most of which statistics saw", of which these are 64."""
    assert most_seen(inputs_of(feeding(x=(graphs.TensorProto.FLOAT, ["n", 3, 4, 4]))), count, taken) == seen
