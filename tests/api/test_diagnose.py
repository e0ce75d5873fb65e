"""diagnose() on trained networks: broken on purpose it names the layer and the cause, healthy it names nothing."""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.api.advice import Trials, stored_widths
from dfmpc_onnx.errors import ModelError, OptionError
from dfmpc_onnx.evaluation.diagnosis.schema import Diagnosis
from dfmpc_onnx.report.diagnosis_text import finding
from tests import broken, graphs

MODELS = pathlib.Path(__file__).parents[2] / "models"
PLAIN, MOBILE = MODELS / "plain_cifar10.onnx", MODELS / "mobilenet_cifar10.onnx"
RESNET = MODELS / "resnet20_cifar10.onnx"
LAYERS = [*(f"/features/features.{number}/Conv" for number in (0, 3, 7, 10, 14, 17, 20)), "/fc/Gemm"]


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried, which takes another run of `quantize`: the cause is named before that."""
    monkeypatch.setattr(Trials, "run", lambda self, trials, tell: [])


@functools.cache
def int8(path: pathlib.Path, **options: str) -> onnx.ModelProto:
    return dfmpc_onnx.quantize(path, None, "int8", check=False, **options).model


def blamed(path: pathlib.Path, model: onnx.ModelProto, count: int = 8) -> Diagnosis:
    return dfmpc_onnx.diagnose(path, model, blame=True, count=count)


def named(found: Diagnosis) -> tuple[str, str, str] | None:
    """The culprit: what it is, its name, and the cause."""
    culprit = found.culprit
    return None if culprit is None or culprit.cause is None else (culprit.kind, culprit.layer, culprit.cause.code)


@pytest.mark.parametrize(
    ("layer", "channel", "factor"),
    [
        ("/features/features.7/Conv", 3, 100.0),
        ("/features/features.14/Conv", 40, 30.0),
        ("/features/features.3/Conv", 0, 1000.0),
    ],
)
def test_a_weight_channel_that_was_scaled_is_named(untried: None, layer: str, channel: int, factor: float) -> None:
    found = blamed(PLAIN, broken.with_scaled_channel(int8(PLAIN), layer, channel, factor))
    assert named(found) == ("weights", layer, "channel-scaled")
    cause = found.suspects[0].cause
    assert cause is not None and cause.figures["channel"] == channel and cause.figures["gain"] > factor / 2


@pytest.mark.parametrize(("layer", "channel"), [("/features/features.10/Conv", 5), ("/features/features.3/Conv", 9)])
def test_a_weight_channel_that_was_negated_is_named(untried: None, layer: str, channel: int) -> None:
    found = blamed(PLAIN, broken.with_negated_channel(int8(PLAIN), layer, channel))
    assert named(found) == ("weights", layer, "channel-negated")
    cause = found.suspects[0].cause
    assert cause is not None and cause.figures["channel"] == channel and cause.figures["gain"] < 0


def test_weight_channels_that_changed_places_are_named(untried: None) -> None:
    layer = "/features/features.10/Conv"
    found = blamed(PLAIN, broken.with_swapped_channels(int8(PLAIN), layer, 5, 20))
    assert named(found) == ("weights", layer, "channels-swapped")
    cause = found.suspects[0].cause
    assert cause is not None and {cause.figures["channel"], cause.figures["other"]} == {5, 20}


def test_a_broken_channel_is_named_where_little_is_lost(untried: None) -> None:
    found = blamed(PLAIN, broken.with_scaled_channel(int8(PLAIN), "/features/features.14/Conv", 53, 0.01))
    assert found.little and named(found) == ("weights", "/features/features.14/Conv", "channel-scaled")


@pytest.mark.parametrize(
    ("tensor", "factor", "code"),
    [
        ("/features/features.9/Relu_output_0", 0.03, "clipped-range"),
        ("/features/features.16/Relu_output_0", 0.05, "clipped-range"),
        ("/features/features.5/Relu_output_0", 60.0, "range-too-wide"),
    ],
)
def test_an_activation_with_a_wrong_range_is_named(untried: None, tensor: str, factor: float, code: str) -> None:
    found = blamed(PLAIN, broken.with_wrong_range(int8(PLAIN), tensor, factor))
    assert named(found) == ("activation", tensor.removesuffix("_output_0"), code)


def test_a_wrong_preprocess_is_named_and_making_it_again_with_the_right_one_is_tried() -> None:
    found = blamed(PLAIN, int8(PLAIN, preprocess="raw"))
    assert named(found) == ("activation", "input", "wrong-preprocess")
    assert any("the file states preprocess raw, which the float model rules out" in said for said in found.warnings)
    (advice,) = found.advice
    assert advice.preprocess == found.preprocess and advice.after_db > advice.before_db + 10


@pytest.mark.parametrize("layer", ["/features/features.3/Conv", "/features/features.7/Conv"])
def test_a_layer_at_2_bits_is_named_where_codebooks_save_part_of_it(untried: None, layer: str) -> None:
    few = dfmpc_onnx.quantize(PLAIN, None, "int8", layers=[f"{layer}=2"], check=False).model
    assert named(blamed(PLAIN, few)) == ("weights", layer, "too-few-bits")


def test_a_layer_at_2_bits_is_named_where_layers_behind_are_fitted_to_it(untried: None) -> None:
    layer = "/features/features.0/Conv"
    few = dfmpc_onnx.quantize(RESNET, None, "int8", layers=[f"{layer}=2"], check=False).model
    assert named(blamed(RESNET, few, 8)) == ("weights", layer, "too-few-bits")


def test_a_layer_at_2_bits_that_needs_more_is_named_and_more_bits_are_tried(tmp_path: pathlib.Path) -> None:
    layer = "/features/features.10/Conv"
    few = dfmpc_onnx.quantize(PLAIN, None, "int8", layers=[f"{layer}=2"], check=False).model
    assert set(stored_widths(few)) == {f"{name}={2 if name == layer else 8}" for name in LAYERS}
    better = tmp_path / "better.onnx"
    found = dfmpc_onnx.diagnose(PLAIN, few, blame=True, output=better)
    assert named(found) == ("weights", layer, "too-few-bits")
    assert found.advice[0].layers == (f"{layer}=8",) and found.advice[0].after_db > found.advice[0].before_db + 3
    assert found.output == str(better)
    now = dfmpc_onnx.verify(PLAIN, better, count=16).providers[0].fidelity.sqnr_db
    assert now == pytest.approx(found.advice[0].after_db, abs=0.02)


def test_another_network_with_rescaled_channels_is_told_from_a_broken_one(untried: None) -> None:
    layer = "/features/features.7/body/body.6/Conv"
    found = blamed(MOBILE, broken.with_negated_channel(int8(MOBILE), layer, 7), 4)
    assert named(found) == ("weights", layer, "channel-negated")


@pytest.mark.parametrize(("path", "recipe"), [(PLAIN, "int8"), (PLAIN, "mixed"), (MOBILE, "int8"), (RESNET, "int8")])
def test_of_healthy_networks_nothing_stands_out(untried: None, path: pathlib.Path, recipe: str) -> None:
    model = int8(path) if recipe == "int8" else dfmpc_onnx.quantize(path, None, recipe, check=False).model
    found = dfmpc_onnx.diagnose(path, model, count=4) if path is RESNET else blamed(path, model, 4)
    assert found.culprit is None and "nothing stands out" in repr(found)


def test_a_wrong_preprocess_is_named_though_no_part_by_itself_gains_anything(untried: None) -> None:
    wrong = dfmpc_onnx.quantize(MOBILE, None, "int8", preprocess="caffe", check=False).model
    found = blamed(MOBILE, wrong, 4)
    assert found.culprit is not None and found.culprit.cause is not None
    assert found.culprit.cause.code == "wrong-preprocess"


def test_without_blame_suspects_are_ranked_by_their_own_error() -> None:
    found = dfmpc_onnx.diagnose(
        PLAIN, broken.with_negated_channel(int8(PLAIN), "/features/features.10/Conv", 5), count=4
    )
    assert named(found) == ("weights", "/features/features.10/Conv", "channel-negated")
    assert not found.blamed and found.suspects[0].gain is None and found.advice == ()
    assert found.enters[0] == "/features/features.10/Conv"


def test_a_foreign_file_is_diagnosed_and_nothing_is_tried() -> None:
    foreign = onnx.ModelProto()
    foreign.CopyFrom(int8(PLAIN))
    del foreign.metadata_props[:]
    found = dfmpc_onnx.diagnose(PLAIN, foreign, blame=True, count=4, preprocess="imagenet")
    assert found.culprit is None and found.no_advice.startswith("it was not written by dfmpc-onnx quantize")


def test_a_layer_in_float_between_integer_ones_is_named() -> None:
    model = graphs.chain()
    made = dfmpc_onnx.quantize(model, None, "int8", preprocess="imagenet", layers=["conv2=float"], check=False).model
    found = dfmpc_onnx.diagnose(model, made)
    assert [entry.layer for entry in found.between] == ["conv2"]


def test_what_cannot_be_diagnosed_is_one_clear_line(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelError, match="holds nothing that is quantized"):
        dfmpc_onnx.diagnose(model_file, model_file)
    with pytest.raises(OptionError, match="ask for blame, too"):
        dfmpc_onnx.diagnose(model_file, model_file, output=tmp_path / "better.onnx")


def test_the_files_are_not_changed_and_not_written_over(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    before = model_file.read_bytes(), quantized.read_bytes()
    for target in (model_file, quantized):
        with pytest.raises(OptionError):
            dfmpc_onnx.diagnose(model_file, quantized, blame=True, output=target)
    found = dfmpc_onnx.diagnose(model_file, quantized, images=np.zeros((3, 8, 8, 3), np.uint8) + 7)
    assert found.images == "arrays" and (model_file.read_bytes(), quantized.read_bytes()) == before


def test_a_file_of_low_bit_weights_and_float_activations_is_diagnosed() -> None:
    made = dfmpc_onnx.quantize(graphs.chain(), None, "paper", preprocess="imagenet", check=False).model
    found = dfmpc_onnx.diagnose(graphs.chain(), made, blame=True, count=4)
    assert {suspect.kind for suspect in found.suspects} == {"weights"}


def test_a_quantized_file_beside_itself_and_one_of_another_network_are_told_apart() -> None:
    same = dfmpc_onnx.diagnose(int8(PLAIN), int8(PLAIN), count=2)
    assert same.damage == 0 and same.culprit is None and "nothing stands out" in finding(same)
    other = dfmpc_onnx.diagnose(PLAIN, int8(RESNET), count=2)
    assert other.culprit is None and "is it of this network?" in finding(other)


def test_of_a_network_with_other_weights_nothing_can_be_told_apart() -> None:
    other = onnx.load(RESNET)
    for tensor in other.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim > 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(-values[::-1, ::-1], tensor.name))
    found = dfmpc_onnx.diagnose(other, int8(RESNET), count=2)
    assert found.culprit is None and "compute something else" in found.unlike
    assert finding(found).startswith("nothing could be told apart")


def test_inputs_that_no_compared_output_needs_are_left_out() -> None:
    net = graphs.Net((1, 3, 8, 8))
    model = net.model(net.tail(net.block("x", 8), 5))
    model.graph.input.append(onnx.helper.make_tensor_value_info("state", onnx.TensorProto.FLOAT, [1, 2]))
    model.graph.node.append(onnx.helper.make_node("Cast", ["state"], ["next"], to=onnx.TensorProto.INT32))
    model.graph.output.append(onnx.helper.make_tensor_value_info("next", onnx.TensorProto.INT32, [1, 2]))
    made = dfmpc_onnx.quantize(model, None, "int8", preprocess="imagenet", check=False).model
    assert dfmpc_onnx.diagnose(model, made, blame=True, count=2).suspects


def test_a_file_of_integer_operators_is_quantized_whatever_tool_wrote_it() -> None:
    dynamic = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> net (float[1, 4] x) => (float[1, 2] y)
        <int8[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float s = {0.5}>
        { q, a, z = DynamicQuantizeLinear (x) i = MatMulInteger (q, w, z) f = Cast <to = 1> (i)
          b = Mul (a, s) y = Mul (f, b) }"""
    )
    plain = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> net (float[1, 4] x) => (float[1, 2] y)
        <float[4, 2] w = {0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4}> { y = MatMul (x, w) }"""
    )
    found = dfmpc_onnx.diagnose(plain, dynamic, input_ranges=["x=-1:1"], blame=True)
    assert found.sqnr_db > 20


def test_integer_operators_are_compared_as_a_whole() -> None:
    plain = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> net (float[1, 4] x) => (float[1, 2] y)
        <float[4, 4] v = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, float[4, 2] w = {0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4}>
        { h = MatMul (x, v) y = MatMul (h, w) }"""
    )
    integer = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> net (float[1, 4] x) => (float[1, 2] y)
        <int8[4, 4] v = {2,0,0,0, 0,2,0,0, 0,0,2,0, 0,0,0,2}, int8[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8},
         float s = {0.5}, float t = {0.25}, int8 z = {0}>
        { q = QuantizeLinear (x, t, z) p = QLinearMatMul (q, t, z, v, s, z, t, z)
          r = QLinearMatMul (p, t, z, w, s, z, t, z) y = DequantizeLinear (r, t, z) }"""
    )
    found = dfmpc_onnx.diagnose(plain, integer, input_ranges=["x=-1:1"], blame=True)
    (both,) = [suspect for suspect in found.suspects if suspect.kind == "weights"]
    assert both.others == 1 and found.as_a_whole and not found.unlike and both.gain_db is None
    assert both.cause is not None and "integer operators are compared as a whole" in both.cause.text
    assert not found.little and "integer operators are compared as a whole" in finding(found)
