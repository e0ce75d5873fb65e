import numpy as np
import pytest

from dfmpc_onnx.numerics.granularity import PerAxis, PerTensor
from dfmpc_onnx.numerics.ternary import ternary
from dfmpc_onnx.numerics.uniform import dorefa, symmetric
from dfmpc_onnx.pipeline.facts import Codes, Originals
from dfmpc_onnx.pipeline.manager import PassManager
from tests import graphs


def quantized(model, weights="2/6", layers=(), **options):
    space = graphs.workspace(model, weights, layers=layers)
    result = PassManager(graphs.pipeline("quantize_weights", quantize_weights=options)).run(space)[-1]
    return space, result


def test_the_graph_holds_the_dequantized_codes_and_nothing_else_changes():
    before = graphs.prepared(graphs.chain(), "assign_bits")[0].graph
    space, _ = quantized(graphs.chain())
    assert graphs.wiring(space.graph) == graphs.wiring(before)
    for name, weight in space.get(Codes).weights.items():
        assert np.array_equal(graphs.values(space.graph, f"{name}.w"), weight.dequantize())
    kept = [n for n in space.graph.tensors() if n.startswith("norm") and "." in n]
    assert kept
    for name in kept:
        assert np.array_equal(graphs.values(space.graph, name), graphs.values(before, name))


def test_originals_are_kept_of_the_low_layers_alone():
    space, _ = quantized(graphs.chain())
    assert list(space.get(Originals).weights) == ["conv2"]
    before = graphs.prepared(graphs.chain(), "assign_bits")[0].graph
    assert np.array_equal(space.get(Originals).weights["conv2"], graphs.values(before, "conv2.w"))


def test_originals_are_kept_of_a_layer_that_is_asked_for_low_bits():
    space, _ = quantized(graphs.chain(), "6", layers=["conv2=2"])
    assert list(space.get(Originals).weights) == ["conv2"]


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        (
            {"granularity": "per_tensor", "ternary": "threshold", "uniform": "dorefa"},
            lambda w: ternary(w, PerTensor()),
            lambda w: dorefa(w, 6, PerTensor()),
        ),
        (
            {"granularity": "per_channel", "ternary": "threshold", "uniform": "symmetric"},
            lambda w: ternary(w, PerAxis(0)),
            lambda w: symmetric(w, 6, PerAxis(0)),
        ),
    ],
)
def test_the_options_choose_the_grid(options, low, high):
    before = graphs.prepared(graphs.chain(), "assign_bits")[0].graph
    codes = quantized(graphs.chain(), **options)[0].get(Codes).weights
    for name, grid in (("conv2", low), ("conv3", high)):
        want = grid(graphs.values(before, f"{name}.w"))
        assert np.array_equal(codes[name].codes, want.codes)
        assert np.array_equal(codes[name].scale, want.scale)


def test_optimal_ternary_is_weighted_by_the_input_and_beats_the_threshold_there():
    chosen = {rule: quantized(graphs.chain(), ternary=rule)[0] for rule in ("threshold", "optimal")}
    from dfmpc_onnx.pipeline.facts import FloatStatistics

    moments = chosen["optimal"].get(FloatStatistics).tensors["relu1"]
    second = (moments.variance + moments.mean**2).reshape(1, -1, 1, 1)
    original = chosen["optimal"].get(Originals).weights["conv2"]
    error = {
        rule: float((second * (original - graphs.values(s.graph, "conv2.w")) ** 2).sum()) for rule, s in chosen.items()
    }
    assert error["optimal"] < error["threshold"]


@pytest.mark.parametrize(("trans_b", "shape"), [(1, (6, 1)), (0, (1, 6))])
def test_scales_run_along_the_output_channels_of_a_gemm(trans_b, shape):
    assert quantized(graphs.gemm_tail(trans_b))[0].get(Codes).weights["gemm1"].scale.shape == shape


def test_a_float_layer_keeps_its_weight():
    before = graphs.prepared(graphs.chain(), "assign_bits")[0].graph
    space, _ = quantized(graphs.chain(), layers=["conv3=float"])
    assert "conv3" not in space.get(Codes).weights
    assert np.array_equal(graphs.values(space.graph, "conv3.w"), graphs.values(before, "conv3.w"))


def test_the_result_carries_bits_and_sqnr_of_each_layer():
    _, result = quantized(graphs.chain())
    figures = {r.site: r.figures for r in result.rewrites}
    assert {name: f["bits"] for name, f in figures.items()} == {"conv1": 8, "conv2": 2, "conv3": 6, "gemm1": 8}
    assert figures["conv2"]["sqnr_db"] < figures["conv3"]["sqnr_db"] < figures["conv1"]["sqnr_db"]
