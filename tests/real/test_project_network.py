"""The network that the project trained itself, quantized by every recipe and looked at from all sides."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.api.provenance import version
from dfmpc_onnx.graph.exchange import to_graph, to_model
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.model.source import load
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE, Step
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.runtime.session import Session
from tests.commands import dfmpc, program
from tests.graphs import kernels, relative
from tests.written import stored_weights, top1

MODELS = pathlib.Path(__file__).parents[2] / "models"
NETWORK, FOLDED = MODELS / "resnet20_cifar10.onnx", MODELS / "resnet20_cifar10.folded.onnx"
SAMPLE = MODELS / "cifar10_sample.npz"
MANIFEST = json.loads((MODELS / "manifest.json").read_text())
FILES = {name: facts for network in MANIFEST["networks"].values() for name, facts in network["files"].items()}
FILES_AND_SAMPLE = FILES | {SAMPLE.name: MANIFEST["sample"]}
RUNS = {
    "paper": ["--recipe", "paper"],
    "closed-form": ["--recipe", "closed-form", "--weights", "ternary/6", "--activations", "8"],
    "closed-form, weights only": ["--recipe", "closed-form", "--weights", "ternary/6", "--activations", "none"],
    "int8": ["--recipe", "int8"],
}
float_top1 = functools.cache(lambda: top1(NETWORK, SAMPLE))
DROP = {"paper": 40, "closed-form": 6, "closed-form, weights only": 6, "int8": 2}


@dataclasses.dataclass(frozen=True)
class Made:
    run: str
    path: pathlib.Path
    report: dict[str, Any]


@pytest.fixture(scope="module", params=RUNS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = tmp_path_factory.mktemp("made") / "out.onnx"
    result = dfmpc("quantize", NETWORK, "-o", path, "--seed", 7, "--json", *RUNS[request.param])
    assert result.exit_code == 0
    assert all(line.startswith("warning: ") for line in result.stderr.splitlines())
    return Made(request.param, path, json.loads(result.stdout))


def sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Eight images of the sample as the network takes them."""
    pixels = np.load(SAMPLE)["x"][:8].astype(np.float32)
    return Preprocess.parse("imagenet")(pixels).transpose(0, 3, 1, 2).copy()


@pytest.mark.parametrize("name", FILES_AND_SAMPLE)
def test_the_manifest_describes_the_file(name: str) -> None:
    stated = FILES_AND_SAMPLE[name]
    assert ((MODELS / name).stat().st_size, sha256(MODELS / name)) == (stated["bytes"], stated["sha256"])


def test_the_sample_holds_500_labelled_images() -> None:
    sample = np.load(SAMPLE)
    assert (sample["x"].shape, sample["x"].dtype, sample["y"].shape) == ((500, 32, 32, 3), np.uint8, (500,))
    assert set(sample["y"]) == set(range(10))


@pytest.mark.parametrize("network", [NETWORK, FOLDED], ids=["BatchNorm kept", "folded"])
def test_the_float_network_is_as_good_as_its_manifest_says(network: pathlib.Path) -> None:
    stated = FILES[network.name]["top1_10000"]
    assert stated >= 88
    assert top1(network, SAMPLE) == pytest.approx(stated, abs=3)  # 500 images: one deviation is 1.3 points


def test_the_result_is_a_valid_model_that_loads(made: Made) -> None:
    onnx.checker.check_model(made.path, full_check=True)
    Session(made.path)


def test_quantizing_leaves_the_input_as_it_was(made: Made) -> None:
    assert sha256(NETWORK) == FILES[NETWORK.name]["sha256"]
    assert sorted(p.name for p in made.path.parent.iterdir()) == ["out.onnx"]


def test_every_layer_is_quantized_and_every_code_fits_its_bits(made: Made) -> None:
    assert_codes_fit(made.path, made.report)


def assert_codes_fit(path: pathlib.Path, report: dict[str, Any]) -> None:
    weights = stored_weights(path)
    assert list(weights) == [layer["name"] for layer in report["layers"]]
    for layer in report["layers"]:
        codes, half = weights[layer["name"]].codes, 64 if layer["block"] else 2 ** (layer["bits"] - 1)
        if layer["ternary"]:
            assert set(np.unique(codes)) == {-1, 0, 1}, layer["name"]
        assert -half <= codes.min() <= codes.max() < half, layer["name"]
        assert len(np.unique(codes)) > 2 ** (layer["bits"] - 2), f"{layer['name']} does not use its bits"
        assert weights[layer["name"]].width == layer["stored_bits"]
        if codes.size >= 2304:
            assert layer["stored_bits"] <= layer["bits"], f"{layer['name']} takes more than its bits"
    stored = 8 * sum(weight.bytes for weight in weights.values()) / sum(w.codes.size for w in weights.values())
    assert report["mean_weight_bits"] == pytest.approx(stored, abs=1e-3)


def test_low_layers_are_ternary_and_the_edges_wide(made: Made) -> None:
    bits = [(layer["bits"], layer["role"]) for layer in made.report["layers"]]
    # Outside the paper's recipe the four pairs of at most 4,608 weights a layer are too small for few bits.
    expected = {
        "paper": {(2, "low"): 9, (6, "high"): 13},
        "closed-form": {(2, "low"): 5, (6, "high"): 15, (8, "8-bit"): 2},
        "closed-form, weights only": {(2, "low"): 5, (6, "high"): 15, (8, "8-bit"): 2},
        "int8": {(8, "8-bit"): 22},
    }
    assert {pair: bits.count(pair) for pair in bits} == expected[made.run]
    assert all(layer["ternary"] for layer in made.report["layers"] if layer["role"] == "low")


def test_stated_sizes_are_those_of_the_files(made: Made) -> None:
    assert (made.report["float_bytes"], made.report["bytes"]) == (NETWORK.stat().st_size, made.path.stat().st_size)


def test_no_float_copy_of_a_weight_stays_behind(made: Made) -> None:
    channels = 64  # the widest layer; scales and biases have one value a channel
    floats = [t for t in onnx.load(made.path).graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert max(int(np.prod(t.dims)) for t in floats) <= channels


def test_accuracy_stays_in_reach(made: Made) -> None:
    result = dfmpc("verify", NETWORK, made.path, "--images", SAMPLE, "--json")
    fidelity = json.loads(result.stdout)["providers"][0]["fidelity"]
    assert fidelity["float_top1"] == float_top1()
    assert fidelity["top1"] == top1(made.path, SAMPLE)
    assert fidelity["float_top1"] - fidelity["top1"] <= DROP[made.run]


def test_the_default_recipe_is_small_and_good(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.onnx"
    result = dfmpc("quantize", NETWORK, "-o", out, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["recipe"] == DEFAULT_RECIPE
    assert_codes_fit(out, report)
    assert out.stat().st_size < NETWORK.stat().st_size / 4
    assert float_top1() - top1(out, SAMPLE) <= 2


def test_the_same_seed_gives_the_same_bytes_in_another_process(made: Made, tmp_path: pathlib.Path) -> None:
    command = ["quantize", NETWORK, "-o", tmp_path / "out.onnx", "--seed", 7, *RUNS[made.run]]
    assert program(*command, PYTHONHASHSEED="123").returncode == 0
    assert sha256(tmp_path / "out.onnx") == sha256(made.path)


def test_provenance_stands_in_the_file(made: Made, tmp_path: pathlib.Path) -> None:
    stated = {p.key: p.value for p in onnx.load(made.path).metadata_props}
    report = made.report
    assert stated["dfmpc_onnx.version"] == version()
    assert stated["dfmpc_onnx.source_sha256"] == FILES[NETWORK.name]["sha256"]
    for key in ("recipe", "weights", "activations", "preprocess", "seed"):
        assert stated[f"dfmpc_onnx.{key}"] == str(report[key])
    steps = json.loads(stated["dfmpc_onnx.passes"])
    recipe = catalog.recipes()[report["recipe"]]

    def as_stated(step: Step) -> object:
        options = dict(step.options)
        if step.fallback:
            options["fallback"] = [as_stated(part) for part in step.fallback]
        return {step.use: options} if options else step.use

    assert steps == [as_stated(step) for step in recipe.steps]
    assert "dfmpc_onnx.fallbacks" not in stated  # covariances of this network can be followed


def test_options_stand_in_the_file_and_verify_uses_them(tmp_path: pathlib.Path) -> None:
    out, scale = tmp_path / "out.onnx", "120,115,100/60,60,60"
    dfmpc("quantize", NETWORK, "-o", out, "--recipe", "int8", "--preprocess", scale, "--layer", "*conv1*=4")
    stated = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert (json.loads(stated["dfmpc_onnx.layers"]), stated["dfmpc_onnx.preprocess"]) == (["*conv1*=4"], scale)
    assert json.loads(dfmpc("verify", NETWORK, out, "--json").stdout)["preprocess"] == scale


def test_activations_in_integers_means_integer_kernels(made: Made) -> None:
    ops = kernels(onnx.load(made.path))
    if made.report["activations"] == "none":
        assert ops["Conv"] + ops["FusedConv"] == 21  # FusedConv is a Conv with its Relu
        assert not ops["QLinearConv"] and not ops["DequantizeLinear"] and not ops["Mul"]
    else:
        assert ops["QLinearConv"] == 21 and not ops["Conv"] and not ops["FusedConv"]


@functools.cache
def in_float(recipe: str) -> onnx.ModelProto:
    """The network at 2/6 by a recipe, activations in float."""
    return dfmpc_onnx.quantize(NETWORK, None, recipe, weights="2/6", activations="none", check=False).model


@pytest.mark.parametrize("stop", ["fold_batch_norm", "pack_weights"])
@pytest.mark.parametrize("recipe", ["paper", "closed-form"])
def test_the_file_computes_what_the_fake_quantized_network_does(recipe: str, stop: str, images: np.ndarray) -> None:
    """The pipeline up to a pass gives a float network with dequantized weights; what follows changes its form only."""
    settings = Settings(WeightBits.parse("2/6"), "none")
    workspace = Workspace(to_graph(load(NETWORK)), settings)
    steps = catalog.build(catalog.recipes()[recipe])
    PassManager(steps[: [step.name for step in steps].index(stop)]).run(workspace)
    fake = Session(to_model(workspace.graph))
    feed = {fake.inputs[0][0]: images}
    assert relative(Session(in_float(recipe)).run(feed), fake.run(feed)) < 1e-4


def test_the_specification_computes_what_onnxruntime_does(made: Made, images: np.ndarray) -> None:
    """onnx.reference follows the specification operator by operator; integer kernels may round a step apart."""
    session = Session(made.path)
    feed = {session.inputs[0][0]: images[:2]}
    model = onnx.load(made.path)
    # The reference has no DequantizeLinear below opset 19; the operators used here mean the same in 21.
    model.opset_import[0].version = max(model.opset_import[0].version, 21)
    expected = onnx.reference.ReferenceEvaluator(model).run(None, feed)
    tolerance = 1e-4 if made.report["activations"] == "none" else 0.05
    assert relative(session.run(feed), expected) < tolerance


@pytest.mark.parametrize("run", RUNS)
def test_a_network_without_batch_norm_is_quantized_and_says_why_nothing_was_repaired(
    run: str, tmp_path: pathlib.Path
) -> None:
    result = dfmpc("quantize", FOLDED, "-o", tmp_path / "out.onnx", "--json", *RUNS[run])
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert [layer["role"] for layer in report["layers"]].count("low") == 0
    asked_for_low = run != "int8"
    assert (
        "no layer can get the few bits of" in result.stderr and "BatchNormalization" in result.stderr
    ) is asked_for_low
    refused = {refusal["site"] for refusal in report["refusals"] if "BatchNormalization" in refusal["reason"]}
    assert len(refused & {layer["name"] for layer in report["layers"]}) >= (20 if asked_for_low else 10)


@pytest.mark.parametrize("recipe", ["paper", "per-channel", "int8", "int4"])
def test_inspect_states_the_bytes_that_quantize_stores(recipe: str) -> None:
    forecast = next(row for row in dfmpc_onnx.inspect(NETWORK).recipes if row.recipe == recipe)
    report = dfmpc_onnx.quantize(NETWORK, recipe=recipe, check=False).report
    assert forecast.bits == {x.name: "ternary" if x.ternary else str(x.bits) for x in report.layers}
    packed = next(step.result for step in report.passes if step.name == "pack_weights")
    assert forecast.weight_bytes == sum(int(rewrite.figures["bytes"]) for rewrite in packed.rewrites)
    weights = sum(layer.weights for layer in report.layers)
    assert report.mean_weight_bits == pytest.approx(8 * forecast.weight_bytes / weights, abs=1e-3)
