"""What a file says of its inputs changes nothing in what becomes of its weights, where it means the same network."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.errors import UserError
from tests import graphs

MEASURE = ("reconstruct_layers", "keep_activations_float")  # what runs the network
MODELS = pathlib.Path(__file__).parents[2] / "models"


def restated(model: onnx.ModelProto, **dimensions: int | str) -> onnx.ModelProto:
    """The same network with other dimensions stated of its input: n, c, h or w, as number or name."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    dims = result.graph.input[0].type.tensor_type.shape.dim
    for name, size in dimensions.items():
        index = "nchw".index(name)
        if isinstance(size, str):
            dims[index].dim_param = size
        else:
            dims[index].dim_value = size
    for output in result.graph.output:
        output.type.tensor_type.ClearField("shape")
    del result.graph.value_info[:]
    return result


def made(model: onnx.ModelProto, recipe: str, **options: Any) -> tuple[dict[str, bytes], float | None]:
    """The constants of the quantized file by name, and SQNR where it is compared."""
    options.setdefault("preprocess", "unit")
    done = dfmpc_onnx.quantize(model, None, recipe, **options)
    constants = {t.name: onnx.numpy_helper.to_array(t).tobytes() for t in done.model.graph.initializer}
    return constants, None if done.report.fidelity is None else done.report.fidelity.sqnr_db


def measured(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """What the passes that run the network say of it."""
    report = dfmpc_onnx.quantize(model, None, "mixed", preprocess="unit", check=False).report
    return {step.name: step.result.notes for step in report.passes if step.name in MEASURE}


@pytest.mark.parametrize("given", [(), ("x:1x3x8x8",)], ids=["by default", "by --input-shape"])
@pytest.mark.parametrize("recipe", ["closed-form", "per-channel", "paper", "mixed", "int8"])
def test_a_dynamic_channel_dimension(recipe: str, given: tuple[str, ...]) -> None:
    model = restated(graphs.residual(), n="n")
    dynamic = restated(model, c="channels")
    assert made(dynamic, recipe, input_shapes=given) == made(model, recipe)


@pytest.mark.parametrize("given", [(), ("input:1x3x32x32",)], ids=["by default", "by --input-shape"])
def test_a_dynamic_channel_dimension_of_a_trained_network(given: tuple[str, ...]) -> None:
    """Taken for one channel, closed-form fell from 12 to 6.7 dB: covariances could not be followed."""
    model = onnx.load(MODELS / "plain_cifar10.onnx")
    assert model.graph.input[0].name == "input"
    dynamic = restated(model, c="channels")
    static = made(restated(model), "closed-form", preprocess="auto")
    assert made(dynamic, "closed-form", preprocess="auto", input_shapes=given) == static
    assert static[1] is not None and static[1] > 11


def test_auto_finds_the_preprocess_of_a_dynamic_channel_dimension() -> None:
    model = onnx.load(MODELS / "plain_cifar10.onnx")
    for recipe in ("closed-form", "int8"):
        choices = [
            dfmpc_onnx.quantize(stated, None, recipe, check=False).report.preprocess_choice
            for stated in (model, restated(model, c="channels"))
        ]
        assert choices[0] == choices[1]


@pytest.mark.parametrize("batch", [1, 2, 3, -1])
def test_a_batch_that_the_file_alone_states(batch: int) -> None:
    """Whether it is 1, 2 or free, the same images are measured, and half of them for the cost at the output."""
    stated, free = restated(graphs.chain(), n=batch), restated(graphs.chain(), n="n")
    assert made(stated, "mixed", check=False) == made(free, "mixed", check=False)
    assert measured(stated) == measured(free)


def test_the_users_own_images_are_all_measured_where_the_file_alone_states_a_batch(tmp_path: pathlib.Path) -> None:
    own = tmp_path / "own.npz"
    np.savez(own, x=np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3)).astype(np.uint8))
    want = made(restated(graphs.chain(), n="n"), "mixed", images=own)
    for batch in (1, 2, 20):
        assert made(restated(graphs.chain(), n=batch), "mixed", images=own)[0] == want[0]


def test_a_batch_that_the_network_insists_on_takes_so_many_of_the_users_own(tmp_path: pathlib.Path) -> None:
    net = graphs.Net((4, 3, 8, 8))
    x = net.node("GlobalAveragePool", net.block("x", 4))
    x = net.node("Reshape", x, net.weight("shape", np.array([4, 4], np.int64)))
    net.channels[x] = 4
    model = net.model(net.gemm(x, 2))
    np.savez(tmp_path / "few.npz", x=np.zeros((3, 8, 8, 3), np.uint8))
    with pytest.raises(dfmpc_onnx.OptionError, match="the model takes batches of 4, only 3 images given"):
        dfmpc_onnx.quantize(model, None, "mixed", images=tmp_path / "few.npz")


def test_an_input_that_is_a_vector_of_a_stated_length() -> None:
    """It was fed as many numbers as there were images, and the network could not be run."""
    net = graphs.Net(("n", 3, 8, 8))
    net.channels["scales"] = 4
    scales = net.node("Reshape", "scales", net.weight("shape", np.array([1, 4, 1, 1], np.int64)))
    x = net.node("Mul", net.block("x", 4), scales)
    net.channels[x] = 4
    model = net.model(net.tail(x))
    model.graph.input.append(onnx.helper.make_tensor_value_info("scales", onnx.TensorProto.FLOAT, [4]))
    assert made(model, "int8")[1] is not None


@pytest.mark.parametrize("recipe", ["closed-form", "mixed"])
def test_a_sequence_beside_the_picture_is_refused_in_one_line(recipe: str) -> None:
    model = graphs.chain()
    model.graph.input.append(onnx.helper.make_tensor_sequence_value_info("s", onnx.TensorProto.FLOAT, [1]))
    model.graph.node.append(onnx.helper.make_node("SequenceLength", ["s"], ["length"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("length", onnx.TensorProto.INT64, []))
    with pytest.raises(dfmpc_onnx.ModelError, match="input 's' is a sequence; nothing can be generated for it"):
        dfmpc_onnx.quantize(model, None, recipe)


def test_verify_feeds_what_the_file_was_made_with() -> None:
    model = restated(graphs.chain(), h="h", w="w")
    sizes = ["x:1x3x8x8"]
    quantized = dfmpc_onnx.quantize(model, None, "per-channel", input_shapes=sizes, preprocess="unit").model
    stated, given = (dfmpc_onnx.verify(model, quantized, input_shapes=shapes) for shapes in ([], sizes))
    assert stated.providers[0].fidelity == given.providers[0].fidelity
    assert "of 8x8" in stated.providers[0].fidelity.origin
    other = dfmpc_onnx.verify(model, quantized, input_shapes=["x:1x3x16x16"])
    assert "of 16x16" in other.providers[0].fidelity.origin


def sound(batch: int | str, time: int | str, weight: float | None = None) -> onnx.ModelProto:
    """A network of sound ``[batch, time]`` that wants at least 10 samples. weight: of all taps; random where None."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 13]> net (float[{batch},{time}] x) => (float[{batch},6] y)'
        "<int64[1] one = {1}> "
        "{ u = Unsqueeze(x, one) a = Conv(u, w) b = Relu(a) y = ReduceMean<axes=[2], keepdims=0>(b) }"
    )
    taps = np.random.default_rng(1).standard_normal((6, 1, 10)) if weight is None else np.full((6, 1, 10), weight)
    model.graph.initializer.append(onnx.numpy_helper.from_array(taps.astype(np.float32), "w"))
    return model


@pytest.mark.parametrize("recipe", ["int8", "int4", "mixed"])
def test_a_size_that_was_assumed_and_does_not_run_is_named_with_the_option(recipe: str) -> None:
    said = r"input 'x' \[b, t\] taken as 1x1; give a real size, such as --input-shape 'x:1x16000'"
    with pytest.raises(UserError, match=said):
        dfmpc_onnx.quantize(sound("b", "t"), recipe=recipe)
    assert made(sound("b", "t"), recipe, input_shapes=["x:1x400"])[1] is not None


@pytest.mark.parametrize("recipe", ["closed-form", "per-channel"])
def test_a_recipe_that_runs_nothing_says_so_where_it_would_have_compared(recipe: str) -> None:
    report = dfmpc_onnx.quantize(sound("b", "t"), recipe=recipe).report
    assert report.fidelity is None
    assert any("--input-shape 'x:1x16000'" in warning for warning in report.warnings)


def test_a_size_that_is_stated_is_not_blamed() -> None:
    with pytest.raises(UserError) as caught:
        dfmpc_onnx.quantize(sound("b", 5), recipe="int8")
    assert "--input-shape" not in str(caught.value)


def test_another_mistake_is_not_put_down_to_an_assumed_size() -> None:
    with pytest.raises(UserError, match="holds NaN or infinity"):
        dfmpc_onnx.quantize(sound("b", "t", weight=np.nan), recipe="int8")


def test_of_a_batch_above_64_no_image_of_the_statistics_counts_as_unseen(tmp_path: pathlib.Path) -> None:
    """The batch is baked into a Reshape, so the statistics get 72 images at once."""
    net = graphs.Net((72, 3, 8, 8))
    pooled = net.node("GlobalAveragePool", net.block("x", 8))
    model = net.model(net.gemm(net.node("Reshape", pooled, net.weight("shape", np.array([72, 8], np.int64))), 5))
    pixels = np.random.default_rng(0).integers(0, 256, (110, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "x.npz", x=pixels)
    report = dfmpc_onnx.quantize(model, recipe="int8", preprocess="unit", images=tmp_path / "x.npz", threads=1).report
    assert report.images == "110 images of x.npz, 38 of them unseen by statistics"
    assert report.fidelity is not None and report.fidelity.origin == "38 images of yours that statistics did not see"
    assert any("72 of 110 images" in note for step in report.passes for note in step.result.notes)


def test_of_a_batch_that_the_file_alone_states_images_are_held_back_as_of_any(tmp_path: pathlib.Path) -> None:
    """Five of 20 were kept from statistics, and nothing was compared on them."""
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8))
    given = {"recipe": "int8", "preprocess": "unit", "images": tmp_path / "x.npz", "threads": 1}
    report = dfmpc_onnx.quantize(restated(graphs.chain(), n=16), **given).report
    assert report.images == "20 images of x.npz, 5 of them unseen by statistics"
    assert report.fidelity is not None and report.fidelity.origin == "5 images of yours that statistics did not see"
