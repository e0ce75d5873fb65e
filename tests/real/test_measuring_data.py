"""Networks and images that others trained and took, in the folder that DFMPC_DATA names; skipped where it is unset."""

from __future__ import annotations

import functools
import json
import os
import pathlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from dfmpc_onnx.inputs.normalization import choose_preprocess
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import resolve
from dfmpc_onnx.statistics.leading_moments import BY_COVARIANCES, BY_PICTURES
from tests.commands import dfmpc
from tests.graphs import kernels
from tests.written import stored_weights, top1

DATA = pathlib.Path(os.environ.get("DFMPC_DATA", ""))
pytestmark = pytest.mark.skipif("DFMPC_DATA" not in os.environ, reason="DFMPC_DATA names no folder of networks")
NETWORKS = sorted(p.name for p in (DATA / "models").glob("*.onnx")) if "DFMPC_DATA" in os.environ else []
RESNET56 = DATA / "models" / "cifar10_resnet56.onnx"
IMAGES = DATA / "images" / "cifar10_test_0000-0999.npz"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The first 400: one standard error of a top-1 is 1.3 points, of a drop less."""
    few, path = np.load(IMAGES), tmp_path_factory.mktemp("images") / "few.npz"
    np.savez(path, x=few["x"][:400], y=few["y"][:400])
    return path


@pytest.fixture(scope="module")
def float_top1(images: pathlib.Path) -> float:
    return top1(RESNET56, images)


Made = Callable[[str, str], tuple[pathlib.Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A network quantized by a recipe, and the report; once, whichever tests look at it."""

    @functools.cache
    def quantized(name: str, recipe: str) -> tuple[pathlib.Path, dict[str, Any]]:
        out = tmp_path_factory.mktemp("made") / "out.onnx"
        result = dfmpc("quantize", DATA / "models" / name, "-o", out, "--recipe", recipe, "--json")
        assert result.exit_code == 0, result.stderr
        return out, json.loads(result.stdout)

    return quantized


def test_the_folder_holds_networks() -> None:
    assert len(NETWORKS) >= 11


def test_resnet56_in_closed_form_without_data(tmp_path: pathlib.Path, images: pathlib.Path, float_top1: float) -> None:
    """Uncompensated, its accuracy is that of guessing: 8 to 10 %."""
    out = tmp_path / "out.onnx"
    options = ["--recipe", "closed-form", "--weights", "2/6", "--activations", "none", "--preprocess", "imagenet"]
    result = dfmpc("quantize", RESNET56, "-o", out, "--json", *options)
    assert result.exit_code == 0
    assert all(line.startswith("warning: ") for line in result.stderr.splitlines())
    report = json.loads(result.stdout)
    assert report["bytes"] == out.stat().st_size <= 650_000
    verified = dfmpc("verify", RESNET56, out, "--images", images, "--preprocess", "imagenet", "--json")
    fidelity = json.loads(verified.stdout)["providers"][0]["fidelity"]
    assert (fidelity["top1"], fidelity["float_top1"]) == (top1(out, images), float_top1)
    assert float_top1 - fidelity["top1"] <= 40
    for layer, weight in zip(report["layers"], stored_weights(out).values(), strict=True):
        assert weight.width == layer["stored_bits"]
        assert weight.width in {2: (1.6, 2), 6: (6, 8), 8: (8,)}[layer["bits"]]


def test_resnet56_in_8_bits(made: Made, images: pathlib.Path, float_top1: float) -> None:
    out, _ = made(RESNET56.name, "int8")
    assert float_top1 - top1(out, images) <= 2
    convolutions = sum(node.op_type == "Conv" for node in onnx.load(RESNET56).graph.node)
    ops = kernels(onnx.load(out))
    assert ops["QLinearConv"] == convolutions
    assert not ops["Conv"] and not ops["FusedConv"]


def _layers(path: pathlib.Path) -> Counter[str]:
    """How many Conv and Gemm a model holds."""
    return Counter(node.op_type for node in onnx.load(path).graph.node if node.op_type in ("Conv", "Gemm"))


@pytest.mark.parametrize("name", NETWORKS)
def test_inspect_lists_every_conv_and_gemm_with_role_or_refusal(name: str) -> None:
    path = DATA / "models" / name
    result = dfmpc("inspect", path, "--json")
    assert result.exit_code == 0, result.stderr
    layers = json.loads(result.stdout)["layers"]
    assert Counter(layer["op"] for layer in layers if layer["op"] in ("Conv", "Gemm")) == _layers(path)
    assert len({layer["name"] for layer in layers}) == len(layers)
    for layer in layers:
        assert layer["role"] in ("first layer", "classifier", "low", "high", "depthwise", "float")
        assert (layer["role"] == "float") == bool(layer["refused"])
        assert (layer["role"] == "low") == bool(layer["repaired_in"])
        assert layer["role"] in ("low", "float") or layer["not_low"]
    assert dfmpc("inspect", path).exit_code == 0


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("recipe", ["closed-form", "int8"])
def test_every_network_becomes_a_valid_smaller_one(name: str, recipe: str, made: Made) -> None:
    out, report = made(name, recipe)
    assert report["fidelity"] is not None, report["warnings"]
    assert report["bytes"] < (DATA / "models" / name).stat().st_size / 2
    onnx.checker.check_model(out, full_check=True)


@pytest.mark.parametrize("by", ["images", "covariances"])
@pytest.mark.parametrize(
    ("name", "preprocess"),
    [
        ("cifar10_resnet20", "imagenet"),
        ("cifar10_resnet56", "imagenet"),
        ("cifar10_vgglike_relubn", "raw"),
        ("imagenet_mobilenet_v2", "imagenet"),
        ("imagenet_mobilenet_v1_025", "keras"),
        ("linzaer_version-RFB-320", "keras"),  # (x - 127) / 128, of which it is the twin
    ],
)
def test_auto_finds_out_what_a_network_was_trained_with(name: str, preprocess: str, by: str) -> None:
    model = onnx.load(DATA / "models" / f"{name}.onnx")
    inputs = resolve(model, {}, Preprocess.parse("imagenet"))
    found = choose_preprocess(model, inputs, BY_PICTURES if by == "images" else BY_COVARIANCES)
    assert (found.name, found.by, found.warning) == (preprocess, by, None)


@pytest.mark.skipif(not (DATA / "models" / "imagenet_mobilenet_v2.onnx").exists(), reason="no MobileNetV2 there")
def test_the_report_on_a_mobile_net_is_small(tmp_path: pathlib.Path) -> None:
    float_model, small, page = DATA / "models" / "imagenet_mobilenet_v2.onnx", tmp_path / "s.onnx", tmp_path / "r.html"
    assert dfmpc("quantize", float_model, "-o", small, "--recipe", "int8", "-q").exit_code == 0
    assert dfmpc("report", float_model, small, "--count", "8", "-o", page, "-q").exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < 1_000_000 and text.count("<h2") == 13
