"""The two streams stay beside each other where a network chooses by values, and where nothing is left."""

import numpy as np
import onnx
import pytest

from dfmpc_onnx.statistics.image_streams import RANGE_PERCENTILES, ImageStreams, measured_range
from dfmpc_onnx.statistics.walk import walk
from tests import graphs


class Weaker:
    """A visitor that makes weights half as large, and notes what a layer reads."""

    def __init__(self):
        self.moments, self.shifts = {}, {}

    def layer(self, node, moments, known):
        self.moments[node.name] = moments()
        return 0.5 * np.asarray(node.inputs[1].values)

    def after_layer(self, node, shift):
        self.shifts[node.name] = shift

    def batch_norm(self, node, norm, statistics): ...

    def observe(self, tensor, values): ...


def walked(tail, least, outputs="(float[k, 4] z)"):
    weight = ", ".join(str(float(i % 5 - 2)) for i in range(16))
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 13]> net (float[1, 4, 6, 6] x) => {outputs} '
        f"<float[4,4,1,1] w = {{{weight}}}, float[4,4] v = {{{weight}}}, float least = {{{least}}}, "
        "int64[2] flat = {-1, 4}> { y = Conv(x, w) " + tail + " }"
    )
    for node in model.graph.node:
        node.name = node.output[0]
    graph = graphs.workspace(model).graph
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    streams, visitor = ImageStreams(graph, {"x": x}, 0), Weaker()
    walk(graph, streams, visitor, frozenset(node.name for node in graph.nodes if node.op in ("Conv", "Gemm", "MatMul")))
    return streams, visitor


CHOICE = """
    r = Reshape(y, flat)  first = Slice(r, zero, one, one)  high = Greater(first, least)  at = NonZero(high)
    rows, column = Split<axis = 0>(at)  row = Squeeze(rows, zero)  z0 = Gather<axis = 0>(r, row)  z = MatMul(z0, v)
"""


def choice(least):
    constants = "zero = Constant<value = int64[1] {0}>() one = Constant<value = int64[1] {1}>()"
    return walked(constants + CHOICE, least)


def test_the_rows_that_the_float_network_chooses_are_read_in_both():
    streams, visitor = choice(1.0)
    _, moments = visitor.moments.values()
    assert moments.count > 1 and not moments.same
    np.testing.assert_allclose(moments.patches_hat, 0.5 * moments.patches, rtol=1e-5)
    (loss,) = streams.losses()  # of what lies in front of the choice, twice as large as it should be
    assert 0 < loss.share_of_variance <= 1


def test_a_layer_behind_a_choice_of_nothing_sees_no_patch():
    _, visitor = choice(1e9)
    conv, product = visitor.moments
    assert visitor.moments[product].count == 0 < visitor.moments[conv].count
    assert visitor.shifts[product] is None and visitor.shifts[conv] is not None


RANDOM = np.random.default_rng(0).standard_normal(2**18 + 77).astype(np.float32)


@pytest.mark.parametrize(
    "values",
    [
        RANDOM,
        RANDOM[:300],
        np.maximum(RANDOM, 0),
        np.clip(RANDOM, 0, 0.5),
        np.ones(9999, np.float32),
        np.where(RANDOM > 3, RANDOM * 100, 0),
        np.sort(RANDOM),
        np.where(RANDOM > 3.5, np.float32("nan"), RANDOM),
        np.where(RANDOM > 3.5, np.float32("inf"), RANDOM),
    ],
)
def test_a_range_is_the_percentiles_of_all_values(values, monkeypatch):
    monkeypatch.setattr("dfmpc_onnx.statistics.image_streams.RANGE_SAMPLES", 2**30)
    with np.errstate(invalid="ignore"):
        wanted = np.percentile(values, RANGE_PERCENTILES)
    np.testing.assert_allclose(measured_range(values), wanted, rtol=1e-6)
