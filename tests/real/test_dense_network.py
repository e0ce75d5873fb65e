"""The project's DenseNet: its 3x3 Convs are read by many BatchNormalizations, each through Concats."""

from __future__ import annotations

import pathlib

import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.graph.exchange import to_graph, to_model
from dfmpc_onnx.model.source import load
from dfmpc_onnx.pipeline.facts import Pairs
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.pipeline.workspace import Workspace
from tests.graphs import kernels
from tests.written import top1

MODELS = pathlib.Path(__file__).parents[2] / "models"
NETWORK, FOLDED = MODELS / "densenet_cifar10.onnx", MODELS / "densenet_cifar10.folded.onnx"
SAMPLE = MODELS / "cifar10_sample.npz"
LAYERS = 12  # four in each of three blocks


def test_the_float_network_is_worth_quantizing() -> None:
    assert top1(NETWORK, SAMPLE) >= 84


@pytest.mark.parametrize("network", [NETWORK, FOLDED], ids=["BatchNorm kept", "folded"])
def test_every_3x3_is_low_and_the_rest_high(network: pathlib.Path) -> None:
    layers = {layer.name: layer for layer in dfmpc_onnx.inspect(network).layers}
    low = {name for name, layer in layers.items() if layer.role == "low"}
    assert low == {name for name, layer in layers.items() if layer.shape[2:] == (3, 3) and layer.role != "first layer"}
    assert len(low) == LAYERS


def test_a_layer_is_repaired_in_all_behind_it_and_the_transition_or_classifier() -> None:
    workspace = Workspace(to_graph(load(NETWORK)), Settings(WeightBits.parse("2/6"), "none"))
    PassManager([catalog.find_pass(name)() for name in ("normalize", "pair_convolutions")]).run(workspace)
    pairs = workspace.get(Pairs)
    assert sorted(map(len, pairs.by_low().values())) == sorted([4, 3, 2, 1] * 3)
    first = [pair.offset for pair in pairs.by_low()[pairs.pairs[0].low]]
    assert first == [32] * 4  # behind what the stem gives


def test_at_low_bits_the_default_recipe_holds_it(tmp_path: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(NETWORK, tmp_path / "out.onnx", weights="2/6", activations="none", check=False)
    assert made.report.mean_weight_bits is not None and made.report.mean_weight_bits < 3.7
    assert top1(NETWORK, SAMPLE) - top1(tmp_path / "out.onnx", SAMPLE) <= 3


@pytest.mark.parametrize(("recipe", "least"), [("paper", 20), ("per-channel", 10)])
def test_the_closed_form_repairs_what_ternary_broke(recipe: str, least: float, tmp_path: pathlib.Path) -> None:
    """Re-calibration and c in each BatchNormalization against none of both."""
    scores = {}
    for repaired in (True, False):
        steps = catalog.build(catalog.recipes()[recipe])
        names = [step.name for step in steps]
        steps = steps[: names.index("compensate") + 1]
        if not repaired:
            steps = [step for step in steps if step.name not in ("recalibrate_batch_norm", "compensate")]
        workspace = Workspace(to_graph(load(NETWORK)), Settings(WeightBits.parse("ternary/6"), "none"))
        PassManager(steps).run(workspace)
        onnx.save(to_model(workspace.graph), tmp_path / "out.onnx")
        scores[repaired] = top1(tmp_path / "out.onnx", SAMPLE)
    assert scores[True] - scores[False] >= least, scores


def test_at_eight_bits_everything_computes_in_integers(tmp_path: pathlib.Path) -> None:
    made = dfmpc_onnx.quantize(NETWORK, tmp_path / "out.onnx", "int8", check=False)
    ran = kernels(onnx.load(tmp_path / "out.onnx"))
    assert ran["QLinearConv"] == 27 + 15 and ran["QLinearConcat"] == LAYERS  # 27 Convs, 15 norms that none could take
    assert not ran["BatchNormalization"] and not ran["Conv"] and not ran["FusedConv"]
    assert {layer.op for layer in made.report.layers} == {"Conv", "Gemm"}
    assert top1(NETWORK, SAMPLE) - top1(tmp_path / "out.onnx", SAMPLE) <= 2
