"""The errors of layers: what enters at each, what is carried in, and which factors are no error."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.evaluation import paired_networks
from dfmpc_onnx.evaluation.layer_errors import LayerErrors, layer_errors
from dfmpc_onnx.evaluation.tensor_sums import TensorSums
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.samples import Samples
from tests import graphs


def images(shape: tuple[int, ...] = (3, 8, 8), count: int = 6) -> Images:
    x = np.random.default_rng(3).standard_normal((count, *shape)).astype(np.float32)
    return Images(x.clip(-2, 2), None, f"{count} images")


def rescaled(model: onnx.ModelProto, name: str, factor: float, channel: int) -> onnx.ModelProto:
    """The model with one output channel of a stored weight multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor).copy()
            values[channel] = values[channel] * factor
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    return copy


def plain(norms: bool = False) -> onnx.ModelProto:
    net = graphs.Net(("n", 3, 8, 8))
    x = net.node("Relu", net.conv("x", 6))
    x = net.node("Relu", net.conv(x, 5))
    return net.model(net.conv(x, 4))


def test_a_network_against_itself_has_no_error_anywhere() -> None:
    found = layer_errors(plain(), plain(), images())
    assert [row.tensor for row in found.rows] == ["conv1", "relu1", "conv2", "relu2", "conv3"]
    assert {(row.error, row.own_error, row.carried_error, row.own_share) for row in found.rows} == {(0.0,) * 4}
    assert found.note == "" and found.float_layers == 3


def test_an_error_enters_at_its_layer_and_is_carried_by_all_behind() -> None:
    found = layer_errors(plain(), rescaled(plain(), "conv2.w", -1.0, 2), images())
    at = {row.tensor: row for row in found.rows}
    assert at["conv1"].error == at["relu1"].error == 0
    assert at["conv2"].own_error == at["conv2"].error > 0.3 and at["conv2"].own_share == 1
    assert (at["conv2"].worst_channel, at["conv2"].worst_share, at["conv2"].worst_gain) == (2, 1.0, -1.0)
    assert at["conv3"].own_error == 0 and at["conv3"].carried_error == at["conv3"].error > 0
    assert at["conv3"].amplification == pytest.approx(at["conv3"].error / at["relu2"].error, rel=1e-3)
    assert at["conv2"].amplification is None and at["conv2"].layers == ("conv2",)


def test_the_figures_are_those_of_a_slow_obvious_loop() -> None:
    changed = rescaled(plain(), "conv2.w", 1.5, 0)
    found = {row.tensor: row for row in layer_errors(plain(), changed, images()).rows}
    x = images().x
    y, q = ([values.astype(np.float64) for values in graphs.run(model, x)] for model in (plain(), changed))
    noise, signal = np.square(q[0] - y[0]).sum(), np.square(y[0]).sum()
    assert found["conv3"].error == pytest.approx(np.sqrt(noise / signal), rel=1e-3)
    assert found["conv3"].sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.02)


def test_factors_that_the_next_layer_takes_back_are_no_error() -> None:
    changed = rescaled(plain(), "conv2.w", 3.0, 1)
    for tensor in changed.graph.initializer:
        if tensor.name == "conv3.w":
            values = numpy_helper.to_array(tensor).copy()
            values[:, 1] /= 3
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    found = {row.tensor: row for row in layer_errors(plain(), changed, images()).rows}
    assert found["conv2"].rescaled and found["relu2"].rescaled
    assert not (found["conv1"].rescaled or found["conv3"].rescaled)
    assert all(row.error < 1e-5 for row in found.values())


def test_the_same_factor_that_nothing_takes_back_is_an_error_where_it_enters() -> None:
    found = {row.tensor: row for row in layer_errors(plain(), rescaled(plain(), "conv2.w", 3.0, 1), images()).rows}
    assert not any(row.rescaled for row in found.values())
    assert found["conv2"].own_share == 1 and found["conv2"].worst_gain == pytest.approx(3)


def test_a_broken_channel_hides_no_factors_that_are_taken_back_in_front_of_it() -> None:
    changed = rescaled(rescaled(plain(), "conv2.w", 3.0, 1), "conv3.w", 500.0, 2)
    for tensor in changed.graph.initializer:
        if tensor.name == "conv3.w":
            values = numpy_helper.to_array(tensor).copy()
            values[:, 1] /= 3
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    found = {row.tensor: row for row in layer_errors(plain(), changed, images()).rows}
    assert found["conv2"].rescaled and found["conv2"].own_error < 1e-5
    assert found["conv3"].own_share == 1 and found["conv3"].worst_channel == 2


def test_a_negated_channel_is_no_factor_and_one_far_from_all_others_is_odd() -> None:
    y = np.random.default_rng(0).standard_normal((4, 6, 5, 5))
    gains = np.array([1.0, 3.0, -1.0, 2.0, 1.0, 800.0])
    sums = TensorSums()
    q = y * gains[:, None, None]
    sums.add(y, q, q, None, len(y))
    found = sums.factors()
    assert found is not None and found.gain[[0, 1, 3, 5]] == pytest.approx(gains[[0, 1, 3, 5]])
    assert found.gain[2] > 0 and found.shift[2] == 0
    other = found.without_odd_one()
    assert other is not None and np.flatnonzero(other.gain != found.gain).tolist() == [5]
    assert other.without_odd_one() is None or other.gain[5] < 4


def test_ours_is_matched_layer_by_layer_whatever_its_passes_changed() -> None:
    for model in (graphs.chain(), graphs.depthwise(), graphs.residual(), graphs.dense()):
        made = dfmpc_onnx.quantize(model, None, "int8", preprocess="imagenet", check=False).model
        found = layer_errors(model, made, images())
        assert found.unmatched == () and found.float_layers == sum(
            node.op_type in ("Conv", "Gemm") for node in model.graph.node
        )
        assert max(row.error for row in found.rows) < 0.1


def test_a_tensor_that_is_rounded_stands_as_what_its_readers_get() -> None:
    """Other tools leave a Relu to the codes, so what stands before them is no output of a Relu."""
    net = graphs.Net(("n", 3, 8, 8))
    relu = net.node("Relu", net.conv("x", 4))
    model = net.model(net.conv(relu, 2))
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    nodes = list(changed.graph.node)
    nodes[0].output[0] = "relu1"
    del changed.graph.node[:]
    numbers = ["scale", "zero"]
    changed.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.02), "scale"), numpy_helper.from_array(np.uint8(0), "zero")]
    )
    pair = [
        helper.make_node("QuantizeLinear", ["relu1", *numbers], ["codes"], name="q"),
        helper.make_node("DequantizeLinear", ["codes", *numbers], ["values"], name="dq"),
    ]
    nodes[2].input[0] = "values"
    changed.graph.node.extend([nodes[0], *pair, nodes[2]])
    found = {row.tensor: row for row in layer_errors(model, changed, images()).rows}
    assert 0 < found["relu1"].error < 0.05
    assert found["relu1"].layers == ("conv1",) and found["conv2"].reads == ("relu1",)


def test_layers_of_other_names_are_counted_and_named() -> None:
    other = plain()
    for node in other.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name in ("conv2", "relu2"):
                    names[index] = f"{name}.other"
    found = layer_errors(plain(), other, images())
    assert found.unmatched == ("conv2",) and found.float_layers == 3
    assert found.note.startswith("1 of 3 layers have no tensor of the same name in the quantized file")


def test_networks_without_a_common_tensor_are_refused_in_one_line() -> None:
    other = plain()
    for node in other.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name != "x" and not name.endswith(".w"):
                    names[index] = f"{name}.other"
    other.graph.output[0].name += ".other"
    with pytest.raises(ModelError, match="no tensor of one name in common"):
        layer_errors(plain(), other, images())


def test_little_memory_means_more_runs_and_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = rescaled(plain(), "conv2.w", 1.4, 0)
    usual = layer_errors(plain(), changed, images())
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(paired_networks, "FETCHED_BYTES", 2000)
    few = layer_errors(plain(), changed, images(), tell=lambda done, of: seen.append((done, of)))
    assert seen[-1][0] == seen[-1][1] > 6
    for a, b in zip(usual.rows, few.rows, strict=True):
        assert (a.tensor, a.rescaled) == (b.tensor, b.rescaled) and a.error == pytest.approx(b.error, abs=1e-6)


def test_networks_of_several_inputs_and_fixed_batches_are_compared_too() -> None:
    net = graphs.Net((2, 3, 8, 8))
    model = net.model(net.conv("x", 4))
    changed = rescaled(model, "conv1.w", 1.5, 0)
    fed = images(count=5)
    fixed = layer_errors(model, changed, fed)
    assert fixed.inputs == 5 and fixed.rows[0].error > 0
    runs = Samples({"x": fed.x[:4].reshape(2, 2, 3, 8, 8)}, 2, "2 generated inputs")
    assert layer_errors(model, changed, runs).rows[0].error > 0


def test_rows_are_plain_data() -> None:
    found = layer_errors(plain(), rescaled(plain(), "conv2.w", 1.5, 0), images())
    assert found.rows[2].to_dict()["tensor"] == "conv2"
    assert LayerErrors.to_dict(found)["rows"][2] == found.rows[2].to_dict()
    row = found.of_layer("conv2")
    assert row is not None and row.tensor == "conv2" and found.of_layer("nobody") is None


def test_nodes_without_names_are_called_by_what_they_compute() -> None:
    models = [plain(), rescaled(plain(), "conv2.w", -1.0, 2)]
    for model in models:
        for node in model.graph.node:
            node.name = ""
    found = layer_errors(models[0], models[1], images())
    assert [row.layers for row in found.rows if row.layers] == [("conv1",), ("conv2",), ("conv3",)]
