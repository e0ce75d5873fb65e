"""What a user's script may hand over: plain values of Python, each checked by name."""

from __future__ import annotations

import logging
import pathlib
from typing import Any

import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx import OptionError
from tests.graphs import Net, chain

QUICK: dict[str, Any] = {"recipe": "paper", "preprocess": "unit", "check": False}
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)


def bits(**options: Any) -> list[int]:
    found = dfmpc_onnx.quantize(chain(), **{**QUICK, **options})
    return [layer.bits for layer in found.report.layers]


def test_bits_are_numbers_or_texts() -> None:
    assert bits(weights=8) == bits(weights="8") == bits(weights=np.int64(8)) == [8, 8, 8, 8]
    assert bits(weights=8, layers={"conv*": 4, "gemm1": "float"}) == [4, 4, 4, 32]
    assert bits(weights=8, layers=["conv*=4", "gemm1=float"]) == [4, 4, 4, 32]
    assert bits(weights=8, layers="conv1=4") == [4, 8, 8, 8]


def test_shapes_and_ranges_are_mappings() -> None:
    net = Net(("n", 3, "h", "w"))
    model = net.model(net.tail(net.block(net.block("x", 8), 8)))
    shapes = {"x": (1, 3, 8, 8)}
    by_mapping = dfmpc_onnx.quantize(model, **QUICK, input_shapes=shapes)
    by_text = dfmpc_onnx.quantize(model, **QUICK, input_shapes=["x:1x3x8x8"])
    assert by_mapping.model == by_text.model
    options = {"recipe": "paper", "check": False}
    ranged = dfmpc_onnx.quantize(chain(), **options, input_ranges={"x": (0, np.float32(1))})
    assert ranged.model == dfmpc_onnx.quantize(chain(), **options, input_ranges=["x=0:1"]).model


def test_a_recipe_and_images_are_paths_of_any_kind(tmp_path: pathlib.Path) -> None:
    recipe, own = tmp_path / "mine.toml", tmp_path / "own.npz"
    recipe.write_text('summary = "mine"\nextends = "int8"\n')
    np.savez(own, x=PIXELS)
    found = dfmpc_onnx.quantize(chain(), recipe=recipe, images=own, preprocess="unit", check=False)
    assert found.report.recipe.endswith("mine.toml") or found.report.recipe == "mine"
    assert found.report.images is not None and "own.npz" in found.report.images


@pytest.mark.parametrize(
    "given", [PIXELS, list(PIXELS), (image for image in PIXELS)], ids=["array", "list", "generator"]
)
def test_images_are_arrays(given: Any, tmp_path: pathlib.Path) -> None:
    own = tmp_path / "own.npz"
    np.savez(own, x=PIXELS)
    options: dict[str, Any] = {"recipe": "int8", "preprocess": "unit", "check": False}
    of_file = dfmpc_onnx.quantize(chain(), images=own, **options)
    of_arrays = dfmpc_onnx.quantize(chain(), images=given, **options)
    assert of_arrays.model.graph == of_file.model.graph
    assert of_arrays.report.images == "12 images given as arrays, 3 of them unseen by statistics"


def test_a_provider_is_one_text(quantized: pathlib.Path, model_file: pathlib.Path) -> None:
    found = dfmpc_onnx.verify(model_file, quantized, providers="CPU", images=PIXELS)
    assert [row.provider for row in found.providers] == ["CPUExecutionProvider"]
    assert found.images == "arrays" and found.model == str(model_file)
    assert found.providers[0].fidelity.origin == "12 images given as arrays"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights", [8]),
        ("weights", True),
        ("layers", 8),
        ("layers", {1: 8}),
        ("layers", [8]),
        ("input_shapes", {"x": "1x3"}),
        ("input_shapes", {"x": (1, 3.5)}),
        ("input_ranges", {"x": (0, 1, 2)}),
        ("images", 8),
        ("images", b"bytes"),
        ("recipe", 8),
        ("seed", 1.5),
        ("seed", None),
        ("target", 1),
        ("preprocess", 1),
        ("progress", "yes"),
        ("instruments", 3),
        ("instruments", [3]),
        ("min_sqnr", "20"),
        ("max_size", 2.5),
        ("output", 5),
        ("check", 1),
    ],
)
def test_a_wrong_type_is_an_option_error_that_names_the_argument(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=rf"^{name}: of type \w+; give "):
        dfmpc_onnx.quantize(chain(), **{**QUICK, name: value})


@pytest.mark.parametrize("name", ["output", "dump", "images"])
def test_an_empty_path_is_not_the_working_folder(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name}: is empty; give a path"):
        dfmpc_onnx.quantize(chain(), threads=1, **{name: ""})  # type: ignore[arg-type]


@pytest.mark.parametrize("call", [dfmpc_onnx.quantize, dfmpc_onnx.inspect, dfmpc_onnx.expand, dfmpc_onnx.plan])
def test_a_model_of_a_wrong_type_is_named(call: Any) -> None:
    with pytest.raises(OptionError, match="model: of type int; give a path, the bytes of a file, or a ModelProto"):
        call(5)


def test_images_that_do_not_fit_together_are_named() -> None:
    with pytest.raises(OptionError, match="images: arrays of 2 shapes"):
        dfmpc_onnx.quantize(chain(), images=[np.zeros((8, 8, 3)), np.zeros((9, 9, 3))])
    with pytest.raises(OptionError, match="images: no image"):
        dfmpc_onnx.quantize(chain(), images=[])
    with pytest.raises(OptionError, match=r"^images: "):
        dfmpc_onnx.quantize(chain(), recipe="int8", images=np.zeros((4, 8, 8, 3), np.int64))


def test_warnings_go_to_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dfmpc_onnx"):
        found = dfmpc_onnx.quantize(chain(), recipe="int8", preprocess="unit", layers={"*": 2})
    assert found.report.warnings
    assert [record.getMessage() for record in caplog.records] == list(found.report.warnings)


def test_the_command_line_prints_each_warning_once(tmp_path: pathlib.Path) -> None:
    from tests.commands import program

    onnx.save(chain(), tmp_path / "m.onnx")
    words = ["quantize", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--recipe", "int8", "--layer", "*=2"]
    lines = program(*words).stderr.splitlines()
    assert lines and all(line.startswith("warning: ") for line in lines) and len(set(lines)) == len(lines)


def test_an_argument_that_is_misspelt_names_the_function_and_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"quantize\(\): got an unexpected .*'receipe' \(did you mean recipe\?\)"):
        dfmpc_onnx.quantize(chain(), receipe="int8")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"verify\(\): missing a required argument: 'quantized'$"):
        dfmpc_onnx.verify(chain())  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["seed", "max_float_layers"])
def test_a_number_below_0_is_a_mistake(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name.replace('_', '-')} -1: not understood; give 0 or more"):
        dfmpc_onnx.quantize(chain(), **{name: -1})  # type: ignore[arg-type]
