import numpy as np
import pytest

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.samples import check_images
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


@pytest.mark.parametrize("kind", ["STRING", "BFLOAT16", "INT4"])
def test_an_input_that_nothing_can_be_generated_for_is_named(kind):
    model = feeding(x=(graphs.TensorProto.FLOAT, [1]), z=(getattr(graphs.TensorProto, kind), [1]))
    with pytest.raises(ModelError, match="nothing can be generated for its input 'z' of type"):
        check_images(inputs_of(model), 0, 2)
