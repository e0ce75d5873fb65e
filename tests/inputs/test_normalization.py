"""`--preprocess auto`: what a network was trained with, found out from its first BatchNormalizations."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import dfmpc_onnx
from dfmpc_onnx.inputs import normalization
from dfmpc_onnx.inputs.normalization import ASSUMED, CANDIDATES, PreprocessChoice, user_choice
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import resolve
from dfmpc_onnx.statistics.leading_moments import BY_COVARIANCES, BY_PICTURES
from tests import graphs
from tests.commands import dfmpc
from tests.graphs import Net, run

MODELS = pathlib.Path(__file__).parents[2] / "models"
PHOTOGRAPHS = np.load(MODELS / "cifar10_sample.npz")["x"][:200]


def choose_preprocess(model: onnx.ModelProto, *, run: bool = True) -> PreprocessChoice:
    inputs = resolve(model, {}, Preprocess.parse("imagenet"))
    return normalization.choose_preprocess(model, inputs, BY_PICTURES if run else BY_COVARIANCES)


def ruled_out(model: onnx.ModelProto, preprocess: str) -> str | None:
    return normalization.ruled_out(model, resolve(model, {}, Preprocess.parse(preprocess)), BY_PICTURES)


def trained(preprocess: str, *, relu: bool = False, channels: int = 3, last: bool = False) -> onnx.ModelProto:
    """A Conv of random filters whose BatchNormalization has measured photographs under a preprocess."""
    pixels = PHOTOGRAPHS if channels == 3 else np.rint(PHOTOGRAPHS.mean(axis=3, keepdims=True)).astype(np.uint8)
    x = Preprocess.parse(preprocess)(pixels)

    def network(mean: np.ndarray, variance: np.ndarray) -> onnx.ModelProto:
        net = Net(("n", 32, 32, channels) if last else ("n", channels, 32, 32))
        net.channels["x"] = channels
        start = "x"
        if last:
            start = net.node("Transpose", "x", perm=[0, 3, 1, 2])
            net.channels[start] = channels
        y = net.conv(start, 16)
        y = net.relu(y) if relu else y
        return net.model(net.tail(net.relu(net.norm(y, mean=mean, variance=variance))))

    model = network(np.zeros(16), np.ones(16))
    norm = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    model.graph.output.append(helper.make_tensor_value_info(norm.input[0], TensorProto.FLOAT, None))
    found = run(model, x if last else x.transpose(0, 3, 1, 2).copy())[-1]
    return network(found.mean(axis=(0, 2, 3)), found.var(axis=(0, 2, 3)))


@pytest.mark.parametrize("images", [True, False], ids=["images", "covariances"])
@pytest.mark.parametrize("relu", [False, True], ids=["Conv-BN", "Conv-Relu-BN"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("name", CANDIDATES)
def test_what_photographs_went_through_is_found_out(name: str, order: str, relu: bool, images: bool) -> None:
    found = choose_preprocess(trained(f"{name}:{order}", relu=relu), run=images)
    assert Preprocess.parse(found.name).divisor == Preprocess.parse(name).divisor
    assert found.name.partition(":")[0] == name
    assert found.by == ("images" if images else "covariances") and found.sure and found.sure > 90
    assert found.warning is None and found.norms == ("norm1",)
    assert found.fits[0].name == name and {fit.name for fit in found.fits} == set(CANDIDATES)
    assert sum(fit.share for fit in found.fits) == pytest.approx(100, abs=0.5)
    # An order is asserted only where it is the right one; the normalization takes the colours' means away, or not.
    assert not found.order_asserted or found.order == order.upper()
    if not found.order_asserted:
        assert found.order == ("BGR" if name == "caffe" else "RGB")
        assert f"{found.order} assumed" in found.reason


def test_the_twin_of_keras_is_named() -> None:
    found = choose_preprocess(trained("lite"))
    assert found.name.partition(":")[0] == "keras" and "lite is its twin" in found.reason


@pytest.mark.parametrize("name", ["imagenet", "unit", "raw"])
@pytest.mark.parametrize("images", [True, False], ids=["images", "covariances"])
def test_grey_pictures_have_no_order(name: str, images: bool) -> None:
    found = choose_preprocess(trained(name, channels=1), run=images)
    assert (found.name, found.order, found.order_asserted) == (name, None, False)


def test_channels_may_come_last() -> None:
    assert choose_preprocess(trained("unit", last=True)).name.partition(":")[0] == "unit"


def test_an_order_that_is_clear_is_asserted() -> None:
    """Filters that take blue from red see the mean of the colours, and nothing else so clearly."""
    found = {}
    for order in ("rgb", "bgr"):
        net = Net(("n", 3, 32, 32))
        x = Preprocess.parse(f"unit:{order}")(PHOTOGRAPHS)
        rng = np.random.default_rng(0)
        filters = np.array([1.0, 0.0, -1.0]) + 0.1 * rng.standard_normal((8, 3))
        y = x.reshape(-1, 3) @ filters.T
        # The mean of red less blue as in ImageNet; that of these photographs is half as large.
        warm = np.array([1.0, 0.0, -1.0]) * (1 if order == "rgb" else -1) * 8 / 255
        y += filters @ warm
        name = net.conv("x", 8, 1)
        net.weights[next(k for k in net.weights if k.startswith(name))] = filters[:, :, None, None].astype(np.float32)
        found[order] = choose_preprocess(net.model(net.norm(name, mean=y.mean(0), variance=y.var(0))))
    assert {order: (c.order, c.order_asserted) for order, c in found.items()} == {
        "rgb": ("RGB", True),
        "bgr": ("BGR", True),
    }
    assert found["bgr"].name == "unit:bgr" and "BGR asserted" in found["bgr"].reason


@pytest.mark.parametrize("name", ["resnet20", "mobilenet", "plain"])
@pytest.mark.parametrize("images", [True, False], ids=["images", "covariances"])
def test_the_projects_own_networks(name: str, images: bool) -> None:
    found = choose_preprocess(onnx.load(MODELS / f"{name}_cifar10.onnx"), run=images)
    assert (found.name, found.order_asserted) == ("imagenet", False) and found.sure and found.sure > 95


def test_sizes_and_a_batch_that_the_file_fixes_are_no_hindrance() -> None:
    model = trained("raw")
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 3, 32, 32), strict=True):
        dim.dim_value = size
    assert choose_preprocess(model).name == "raw"
    # A Reshape to the one size: then it gets one picture.
    net = Net((1, 3, 32, 32))
    flat = net.node("Reshape", "x", net.weight("shape", np.array([1, 3, 32, 32], np.int64)))
    net.channels[flat] = 3
    kept = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    y = net.norm(net.conv(flat, 16), mean=kept["norm1.mean"], variance=kept["norm1.variance"])
    assert choose_preprocess(net.model(net.tail(y))).by == "images"


def unfit() -> onnx.ModelProto:
    """Statistics that no normalization gives: means of a hundred deviations, of either sign."""
    net = Net()
    mean = 100.0 * np.where(np.arange(8) % 2, 1, -1)
    return net.model(net.tail(net.norm(net.conv("x", 8), mean=mean, variance=np.full(8, 1e-4))))


def dead() -> onnx.ModelProto:
    net = Net()
    return net.model(net.tail(net.norm(net.conv("x", 8), mean=0.0, variance=0.0)))


def foreign() -> onnx.ModelProto:
    net = Net()
    y = net.node("Unheard", "x", domain="nobody")
    net.channels[y] = 3
    return net.model(net.tail(net.norm(net.conv(y, 8))))


def aside() -> onnx.ModelProto:
    """The one BatchNormalization reads another input than the picture."""
    net = Net()
    net.channels["z"] = 8
    model = net.model(net.tail(net.conv("x", 8)), net.norm("z", mean=0.0, variance=1.0))
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 8]))
    return model


@pytest.mark.parametrize("images", [True, False], ids=["images", "covariances"])
@pytest.mark.parametrize(
    ("model", "why"),
    [
        (graphs.folded(), "no BatchNormalization is left to judge by"),
        (unfit(), "no usual normalization fits"),
        (dead(), "measured no signal"),
        (foreign(), "cannot be predicted"),
        (aside(), "does not read the picture"),
    ],
)
def test_where_nothing_can_be_judged_unit_variance_is_assumed_in_one_line(
    model: onnx.ModelProto, why: str, images: bool
) -> None:
    found = choose_preprocess(model, run=images)
    assert (found.name, found.by, found.sure) == (ASSUMED, "assumed", None)
    assert found.warning and why in found.warning and "--preprocess" in found.warning and "\n" not in found.warning
    mean, variance = Preprocess.parse(found.name).moments(3)
    assert np.allclose(mean, 0, atol=1e-6) and np.allclose(variance, 1)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 5, 30), (1, 7)])
def test_inputs_that_are_no_pictures_are_not_guessed(shape: tuple[int, ...]) -> None:
    model = Net(shape).model("x")
    model.graph.node.append(helper.make_node("Identity", ["x"], ["y"]))
    found = choose_preprocess(model)
    assert (found.by, found.sure, found.order, found.warning) == ("no image", None, None, None)
    assert "no input is a picture" in found.reason and "not normalized" in found.reason


def test_the_users_seed_does_not_matter_and_every_run_says_the_same() -> None:
    model = trained("keras")
    first = choose_preprocess(model)
    assert first == dfmpc_onnx.quantize(model, None, "int8", seed=9, check=False).report.preprocess_choice


def test_what_the_user_gives_is_taken() -> None:
    found = user_choice(Preprocess.parse("unit:bgr"))
    assert (found.name, found.by, found.order, found.order_asserted) == ("unit:bgr", "given", "BGR", True)


# The whole way


def test_auto_is_the_default_and_stands_in_table_json_and_file(tmp_path: pathlib.Path) -> None:
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(trained("raw"), path)
    result = dfmpc("quantize", path, "-o", out, "--recipe", "int8", "--json")
    report = json.loads(result.stdout)
    assert (report["preprocess"], report["preprocess_choice"]["by"]) == ("raw", "images")
    stated = {p.key.removeprefix("dfmpc_onnx."): p.value for p in onnx.load(out).metadata_props}
    assert stated["preprocess"] == "raw"
    assert stated["preprocess_choice"] == f"images: {report['preprocess_choice']['reason']}"
    table = dfmpc("quantize", path, "-o", out, "--recipe", "int8", "--preprocess", "AUTO", "-v").stdout
    assert f"raw ({report['preprocess_choice']['reason']})" in table
    verified = json.loads(dfmpc("verify", path, out, "--json").stdout)
    assert (verified["preprocess"], verified["preprocess_choice"]["by"]) == ("raw", "file")
    assert not verified["preprocess_choice"]["order_asserted"]
    given = json.loads(dfmpc("verify", path, out, "--preprocess", "raw", "--json").stdout)
    assert given["preprocess_choice"]["by"] == "given"


def test_what_is_given_wins(tmp_path: pathlib.Path) -> None:
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(trained("raw"), path)
    result = dfmpc("quantize", path, "-o", out, "--recipe", "int8", "--preprocess", "unit:bgr", "--json")
    report = json.loads(result.stdout)
    assert (report["preprocess"], report["preprocess_choice"]["by"]) == ("unit:bgr", "given")
    assert json.loads(dfmpc("verify", path, out, "--json").stdout)["preprocess"] == "unit:bgr"


def test_verify_judges_from_the_float_model_when_told_to_or_where_no_file_says(tmp_path: pathlib.Path) -> None:
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(trained("raw"), path)
    dfmpc_onnx.quantize(path, out, "int8", preprocess="unit")
    told = json.loads(dfmpc("verify", path, out, "--preprocess", "auto", "--json").stdout)
    silent = json.loads(dfmpc("verify", path, path, "--json").stdout)
    assert told["preprocess"] == silent["preprocess"] == "raw"
    assert told["preprocess_choice"]["by"] == "images"


@pytest.mark.parametrize("recipe", ["closed-form", "per-channel", "paper"])
def test_recipes_without_images_judge_without_running_the_network(
    recipe: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfmpc_onnx.runtime.session.Session", None)
    monkeypatch.setattr("dfmpc_onnx.statistics.leading_moments.Session", None)
    report = dfmpc_onnx.quantize(trained("raw"), tmp_path / "out.onnx", recipe, check=False).report
    assert (report.preprocess, report.preprocess_choice.by) == ("raw", "covariances")


def test_a_folded_network_is_warned_of_once_by_quantize_and_verify(tmp_path: pathlib.Path) -> None:
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(graphs.folded(), path)
    result = dfmpc("quantize", path, "-o", out, "--recipe", "int8")
    assert result.stderr.count("warning: preprocess imagenet assumed") == 1
    assert dfmpc("verify", path, out).stderr == ""
    result = dfmpc("verify", path, out, "--preprocess", "auto")
    assert result.stderr.startswith("warning: preprocess imagenet assumed") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("trained_as", ["imagenet", "unit", "raw", "keras", "caffe"])
def test_what_the_user_gave_is_doubted_only_where_it_is_ruled_out(trained_as: str) -> None:
    model = trained(trained_as)

    def doubt(name: str) -> str | None:
        return ruled_out(model, name)

    for right in (trained_as, f"{trained_as}:bgr", f"{trained_as}:rgb"):
        assert doubt(right) is None
    wrong = "raw" if trained_as in ("imagenet", "unit", "keras") else "unit"
    assert doubt(wrong) == f"the first BatchNormalizations fit preprocess {trained_as} and rule {wrong} out"


def test_what_fits_better_than_all_candidates_is_not_doubted() -> None:
    model = trained("104,117,123/0.25")
    assert ruled_out(model, "104,117,123/0.25") is None


def test_quantize_and_verify_tell_of_a_preprocess_that_is_ruled_out(tmp_path: pathlib.Path) -> None:
    model, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(trained("imagenet"), model)
    said = "warning: the first BatchNormalizations fit preprocess imagenet and rule raw out"
    assert said in dfmpc("quantize", model, "-o", out, "--recipe", "int8", "--preprocess", "raw").stderr
    assert said not in dfmpc("verify", model, out).stderr  # as the file says: told when it was made
    assert said in dfmpc("verify", model, out, "--preprocess", "raw").stderr
    right = dfmpc("quantize", model, "-o", out, "--recipe", "int8", "--preprocess", "imagenet").stderr
    assert "BatchNormalization" not in right
