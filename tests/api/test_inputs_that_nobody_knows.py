"""What a network is fed where its input is no picture under a usual preprocess: found out, given, or not known.

Each network here is small, and its BatchNormalizations hold what realistic inputs of its kind give.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.runtime.session import Session
from tests import graphs
from tests.commands import assert_refused, dfmpc

Feeds = Mapping[str, np.ndarray]
MODELS = pathlib.Path(__file__).parents[2] / "models"
PHOTOGRAPHS = np.load(MODELS / "cifar10_sample.npz")["x"][:48].astype(np.float32)


class Trained:
    """Builds a network node by node; `model` gives its BatchNormalizations what they measure of inputs."""

    def __init__(self, **inputs: tuple[int | str, ...]) -> None:
        self.random = np.random.default_rng(0)
        self.inputs, self.nodes, self.weights = inputs, [], {}

    def constant(self, value: object) -> str:
        name = f"k{len(self.weights)}"
        self.weights[name] = np.asarray(value, np.float32)
        return name

    def numbers(self, *value: int) -> str:
        name = f"k{len(self.weights)}"
        self.weights[name] = np.asarray(value, np.int64)
        return name

    def node(self, op: str, *read: str, **attributes: object) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, read, [name], name=name, **attributes))
        return name

    def conv(
        self,
        x: str,
        read: int,
        out: int,
        *kernel: int,
        stride: int = 1,
        scale: float = 1.0,
        pad: bool = True,
        bias: float = 0,
    ) -> str:
        spread = scale * np.sqrt(2 / (read * np.prod(kernel)))
        weight = self.constant(self.random.standard_normal((out, read, *kernel)) * spread)
        more = [self.constant(self.random.standard_normal(out) * bias)] if bias else []
        pads = [k // 2 if pad else 0 for k in kernel] * 2
        return self.node("Conv", x, weight, *more, pads=pads, strides=[stride] * len(kernel))

    def norm(self, x: str, size: int) -> str:
        values = (
            1 + 0.1 * self.random.standard_normal(size),
            0.1 * self.random.standard_normal(size),
            np.zeros(size),
            np.ones(size),
        )
        return self.node("BatchNormalization", x, *map(self.constant, values))

    def block(self, x: str, read: int, out: int, *kernel: int, norm: bool = True, **more: float) -> str:
        x = self.conv(x, read, out, *kernel, bias=0 if norm else 0.3, **more)  # type: ignore[arg-type]
        return self.node("Relu", self.norm(x, out) if norm else x)

    def tail(self, x: str, read: int) -> str:
        flat = self.node("Flatten", self.node("GlobalAveragePool", x))
        return self.node("Gemm", flat, self.constant(self.random.standard_normal((10, read)) * 0.3), transB=1)

    def _proto(self, output: str, rank: int | None = None) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in self.inputs.items()],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None if rank is None else ["n", 10])],
            [numpy_helper.from_array(v, n) for n, v in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    def model(self, output: str, feeds: Feeds) -> onnx.ModelProto:
        for node in [node for node in self.nodes if node.op_type == "BatchNormalization"]:
            read = Session(self._proto(node.input[0])).run(dict(feeds))[0]
            axes = (0, *range(2, read.ndim))
            self.weights[node.input[3]] = read.mean(axes).astype(np.float32)
            self.weights[node.input[4]] = read.var(axes).astype(np.float32)
        return self._proto(output, 2)


def fields(count: int, *shape: int, power: float = 1.0, seed: int = 1) -> np.ndarray:
    """Fields ``[count, channels, *size]`` of deviation 1 whose amplitude falls as 1/f^power."""
    random, axes = np.random.default_rng(seed), tuple(range(2, len(shape) + 1))
    x = random.standard_normal((count, *shape))
    grid = np.meshgrid(*(np.fft.fftfreq(n) for n in shape[1:]), indexing="ij")
    frequency = np.sqrt(sum(np.square(f) for f in grid))
    y = np.fft.ifftn(np.fft.fftn(x, axes=axes) / (frequency + 1 / max(shape[1:])) ** power, axes=axes).real
    return y / y.std(axis=axes, keepdims=True)


def pixels(last: bool = False) -> np.ndarray:
    """Photographs as bytes, [n, 3, 64, 64] or channels last."""
    large = np.kron(PHOTOGRAPHS, np.ones((1, 2, 2, 1), np.float32))
    return large if last else np.ascontiguousarray(large.transpose(0, 3, 1, 2))


# -- networks whose input is told by their head or their BatchNormalizations: (model, realistic inputs)


def keras_head() -> tuple[onnx.ModelProto, Feeds]:
    net, feeds = Trained(image=("n", 64, 64, 3)), {"image": pixels(last=True)}
    x = net.node("Div", "image", net.constant(255))
    x = net.node("Div", net.node("Sub", x, net.constant([0.485, 0.456, 0.406])), net.constant([0.229, 0.224, 0.225]))
    return folded_classifier(net, net.node("Transpose", x, perm=[0, 3, 1, 2])), feeds


def folded_classifier(net: Trained, x: str) -> onnx.ModelProto:
    x = net.block(net.block(x, 3, 16, 3, 3, stride=2, norm=False), 16, 24, 3, 3, stride=2, norm=False)
    return net.model(net.tail(net.block(x, 24, 24, 3, 3, norm=False), 24), {})


def around_zero() -> tuple[onnx.ModelProto, Feeds]:
    net = Trained(x=("n", 3, 64, 64))
    x = net.node("Div", net.node("Sub", "x", net.constant(127.5)), net.constant(128))
    return folded_classifier(net, x), {"x": pixels()}


def unit_head() -> tuple[onnx.ModelProto, Feeds]:
    net = Trained(x=("n", 3, 64, 64))
    mean, std = (np.reshape(v, (1, 3, 1, 1)) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    x = net.node("Mul", net.node("Add", "x", net.constant(-mean)), net.constant(1 / std))
    return folded_classifier(net, x), {"x": pixels() / 255}


def turned_colours() -> tuple[onnx.ModelProto, Feeds]:
    """RGB to BGR, then the means of caffe."""
    net = Trained(x=("n", 3, 64, 64))
    x = net.node("Gather", "x", net.numbers(2, 1, 0), axis=1)
    x = net.node("Sub", x, net.constant(np.reshape([103.9, 116.8, 123.7], (3, 1, 1))))
    first = net.block(x, 3, 16, 3, 3, stride=2, norm=False, scale=0.02)
    return net.model(net.tail(net.block(first, 16, 24, 3, 3, norm=False), 24), {}), {"x": pixels()}


def padded_and_resized() -> tuple[onnx.ModelProto, Feeds]:
    net = Trained(x=("n", 3, 64, 64))
    x = net.node("Mul", net.node("Pad", "x", net.numbers(0, 0, 1, 1, 0, 0, 1, 1)), net.constant(1 / 255))
    return folded_classifier(net, x), {"x": pixels()}


def norm_first() -> tuple[onnx.ModelProto, Feeds]:
    """BatchNormalization as the first node, of six bands in watts or kelvins."""
    net = Trained(x=("n", 6, 48, 48))
    feeds = {"x": (280 + 5 * np.arange(6)[:, None, None] + 12 * fields(32, 6, 48, 48)).astype(np.float32)}
    x = net.block(net.norm("x", 6), 6, 24, 3, 3, stride=2)
    return net.model(net.tail(net.block(x, 24, 24, 3, 3), 24), feeds), feeds


def bands() -> tuple[onnx.ModelProto, Feeds]:
    net = Trained(bands=("n", 10, 64, 64))
    mean, deviation = np.linspace(400, 3000, 10), np.linspace(150, 900, 10)
    x = mean[:, None, None] + deviation[:, None, None] * fields(32, 10, 64, 64)
    feeds = {"bands": np.clip(x, 0, 10000).astype(np.float32)}
    x = net.block("bands", 10, 24, 3, 3, stride=2, scale=1e-3)
    return net.model(net.tail(net.block(x, 24, 32, 3, 3, stride=2), 32), feeds), feeds


def mel_image() -> tuple[onnx.ModelProto, Feeds]:
    """Decibels [n, 1, frames, 40], normalized for each of the 40 frequencies, as networks that tag sounds do."""
    net = Trained(mel=("n", 1, 96, 40))
    level = -20 - 30 * np.arange(40) / 40
    feeds = {"mel": np.clip(level + 14 * fields(32, 1, 96, 40, power=0.7), -100, 20).astype(np.float32)}
    x = net.node("Transpose", net.norm(net.node("Transpose", "mel", perm=[0, 3, 2, 1]), 40), perm=[0, 3, 2, 1])
    x = net.block(x, 1, 16, 3, 3, stride=2)
    return net.model(net.tail(net.block(x, 16, 24, 3, 3, stride=2), 24), feeds), feeds


def mel_frames() -> tuple[onnx.ModelProto, Feeds]:
    """Frames [n, 40, time] through Convs of one dimension."""
    net = Trained(frames=("n", 40, 120))
    noise = fields(32, 1, 120, power=0.7) * 0.8 + fields(32, 40, 120, power=0.5, seed=2) * 0.6
    feeds = {"frames": (-35 + 20 * np.cos(np.arange(40) / 9)[:, None] + 12 * noise).astype(np.float32)}
    x = net.block("frames", 40, 48, 5, scale=0.05)
    return net.model(net.tail(net.block(x, 48, 32, 3, stride=2), 32), feeds), feeds


def waveform() -> tuple[onnx.ModelProto, Feeds]:
    """Sound [n, time], of which a Conv makes filters; one second is loud and the next is quiet."""
    net, random = Trained(sound=("n", 4000)), np.random.default_rng(3)
    loudness = np.exp(random.standard_normal((32, 1, 1)))
    x = 0.03 * loudness * fields(32, 1, 4000, power=0.8)
    feeds = {"sound": x[:, 0].astype(np.float32)}
    y = net.block(net.node("Unsqueeze", "sound", net.numbers(1)), 1, 24, 33, stride=8, pad=False, scale=30)
    return net.model(net.tail(net.block(y, 24, 32, 9, stride=4), 32), feeds), feeds


def volume() -> tuple[onnx.ModelProto, Feeds]:
    net = Trained(scan=("n", 1, 16, 16, 16))
    feeds = {"scan": (-300 + 420 * fields(32, 1, 16, 16, 16)).astype(np.float32)}
    x = net.block("scan", 1, 16, 3, 3, 3, scale=1e-2)
    return net.model(net.tail(net.block(x, 16, 24, 3, 3, 3, stride=2), 24), feeds), feeds


def two_inputs() -> tuple[onnx.ModelProto, Feeds]:
    """Depth in millimetres beside infrared, joined in front of the first Conv."""
    net = Trained(depth=("n", 1, 48, 48), infrared=("n", 2, 48, 48))
    feeds = {
        "depth": (2500 + 700 * fields(32, 1, 48, 48)).astype(np.float32),
        "infrared": (40 + 9 * fields(32, 2, 48, 48, seed=5)).astype(np.float32),
    }
    scaled = net.node("Mul", "depth", net.constant(0.01))
    x = net.block(net.node("Concat", scaled, "infrared", axis=1), 3, 24, 3, 3, scale=0.1)
    return net.model(net.tail(net.block(x, 24, 24, 3, 3, stride=2), 24), feeds), feeds


def standardized() -> tuple[onnx.ModelProto, Feeds]:
    """No BatchNormalization is left, but the head takes a mean away and divides by a deviation."""
    net = Trained(x=("n", 1, 48, 48))
    feeds = {"x": (7400 + 350 * fields(16, 1, 48, 48)).astype(np.float32)}
    x = net.node("Div", net.node("Sub", "x", net.constant(7400)), net.constant(350))
    x = net.block(x, 1, 16, 3, 3, norm=False)
    return net.model(net.tail(net.block(x, 16, 24, 3, 3, stride=2, norm=False), 24), {}), feeds


# -- networks whose input may be anything: (model, realistic inputs)


def one_channel(x: np.ndarray) -> tuple[onnx.ModelProto, Feeds]:
    net, feeds = Trained(x=("n", 1, *x.shape[2:])), {"x": x.astype(np.float32)}
    y = net.block(net.block("x", 1, 16, 3, 3, stride=2), 16, 24, 3, 3, stride=2)
    return net.model(net.tail(net.block(y, 24, 24, 3, 3), 24), feeds), feeds


def each_of_deviation_one(x: np.ndarray) -> np.ndarray:
    return (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3), keepdims=True)


def spectrogram() -> tuple[onnx.ModelProto, Feeds]:
    """Harmonics for a while over a floor of noise in decibels, each of mean 0 and deviation 1."""
    random, x = np.random.default_rng(6), -60 + 5 * fields(32, 1, 64, 96, power=0.5)
    for sound in x:
        begin, pitch = random.integers(0, 60), random.integers(4, 16)
        sound[0, pitch::pitch, begin : begin + random.integers(8, 36)] = random.normal(-12, 5)
    return one_channel(each_of_deviation_one(x))


def scan() -> tuple[onnx.ModelProto, Feeds]:
    """A body in front of nothing, as of magnetic resonance, each of mean 0 and deviation 1."""
    x = fields(32, 1, 64, 64, power=1.3)
    return one_channel(each_of_deviation_one(np.where(x > 0.8, 1 + x, 0)))


def radiograph() -> tuple[onnx.ModelProto, Feeds]:
    """From 0 to 1, dark with a few bright parts."""
    return one_channel(np.clip(0.1 + 0.05 * np.exp(fields(32, 1, 64, 64)), 0, 1))


def folded_bands() -> tuple[onnx.ModelProto, Feeds]:
    net = Trained(x=("n", 8, 48, 48))
    feeds = {"x": (1800 + 500 * fields(16, 8, 48, 48)).astype(np.float32)}
    x = net.block("x", 8, 24, 3, 3, norm=False, scale=1e-3)
    return net.model(net.tail(net.block(x, 24, 24, 3, 3, stride=2, norm=False), 24), {}), feeds


def folded_picture() -> tuple[onnx.ModelProto, Feeds]:
    """Trained on -1 to 1, which nothing says."""
    return folded_classifier(net := Trained(x=("n", 3, 64, 64)), next(iter(net.inputs))), {"x": pixels() / 127.5 - 1}


def one_known_of_two() -> tuple[onnx.ModelProto, Feeds]:
    """Bands behind a BatchNormalization beside a vector that nothing is known of."""
    net = Trained(bands=("n", 6, 48, 48), state=("n", 5))
    feeds = {
        "bands": (900 + 200 * fields(16, 6, 48, 48)).astype(np.float32),
        "state": (50 + 30 * np.random.default_rng(4).standard_normal((16, 5))).astype(np.float32),
    }
    x = net.block("bands", 6, 24, 3, 3, stride=2, scale=1e-2)
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.block(x, 24, 24, 3, 3)))
    beside = net.node("Gemm", "state", net.constant(net.random.standard_normal((5, 24)) * 0.02))
    y = net.node("Relu", net.node("Add", flat, beside))
    return net.model(net.node("Gemm", y, net.constant(net.random.standard_normal((24, 10)) * 0.3)), feeds), feeds


def scaled_sound() -> tuple[onnx.ModelProto, Feeds]:
    """To divide by 32768 says how loud a sound may be, not how loud it is; the BatchNormalization stands too far."""
    net = Trained(sound=("n", 1, 4000))
    feeds = {"sound": (1500 * fields(16, 1, 4000, power=0.8)).astype(np.float32)}
    x = net.block(net.node("Div", "sound", net.constant(32768)), 1, 24, 33, stride=8, norm=False, scale=20)
    return net.model(net.tail(net.block(x, 24, 32, 9, stride=4), 32), feeds), feeds


KNOWN = (
    keras_head,
    around_zero,
    unit_head,
    turned_colours,
    padded_and_resized,
    norm_first,
    bands,
    mel_image,
    mel_frames,
    two_inputs,
    standardized,
)
UNKNOWN = (
    folded_bands,
    folded_picture,
    one_known_of_two,
    scaled_sound,
    waveform,
    volume,
    spectrogram,
    scan,
    radiograph,
)
HEADS = {keras_head: "raw", around_zero: "raw", unit_head: "unit", turned_colours: "raw", padded_and_resized: "raw"}


def sqnr(model: onnx.ModelProto, other: onnx.ModelProto, feeds: Feeds) -> float:
    want, got = (Session(m).run(dict(feeds))[0] for m in (model, other))
    return float(10 * np.log10(np.square(want).sum() / np.square(want - got).sum()))


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
def test_what_the_head_or_the_first_normalizations_tell_is_fed(
    kind: Callable[[], tuple[onnx.ModelProto, Feeds]],
) -> None:
    model, feeds = kind()
    made = dfmpc_onnx.quantize(model, recipe="int8", threads=1)
    report = made.report
    assert report.activations == "8" and not report.preprocess_choice.unknown and not report.warnings
    real = sqnr(model, made.model, feeds)
    assert real > 25
    assert report.fidelity is not None and report.fidelity.sqnr_db < real + 6  # what is claimed is what users get
    if kind in HEADS:
        assert (report.preprocess, report.preprocess_choice.by) == (HEADS[kind], "head")
    else:
        assert "mean" in report.preprocess_choice.reason and "deviation" in report.preprocess_choice.reason


@pytest.mark.parametrize("kind", UNKNOWN, ids=lambda kind: kind.__name__)
def test_where_nothing_tells_activations_stay_in_float_and_nothing_is_claimed(
    kind: Callable[[], tuple[onnx.ModelProto, Feeds]],
) -> None:
    model, feeds = kind()
    made = dfmpc_onnx.quantize(model, recipe="int8", threads=1)
    report = made.report
    assert report.activations == "none" and all(layer.bits == 8 for layer in report.layers)
    (unknown,) = report.preprocess_choice.unknown
    assert unknown.name == ("state" if kind is one_known_of_two else next(iter(feeds)))
    (warning,) = report.warnings
    assert "activations stay in float, and what the result loses is not known" in warning and "\n" not in warning
    assert f"--input-range '{unknown.name}=LOW:HIGH'" in warning
    assert ("--preprocess" in warning) == (kind in (folded_picture, spectrogram, scan))
    assert ("--images" in warning) == (len(feeds) == 1)
    assert sqnr(model, made.model, feeds) > 25


@pytest.mark.parametrize("recipe", ["mixed", "closed-form", "per-channel", "paper"])
def test_recipes_with_and_without_images_trust_the_same(recipe: str) -> None:
    known, unknown = (dfmpc_onnx.quantize(kind()[0], recipe=recipe, threads=1).report for kind in (bands, folded_bands))
    assert known.activations == ("none" if recipe == "paper" else "8") and unknown.activations == "none"
    assert known.preprocess_choice.by == "norms" and unknown.preprocess_choice.unknown[0].name == "x"
    (warning,) = (said for said in unknown.warnings if "the scale of input 'x' is not known" in said)
    assert ("activations stay in float" in warning) == (recipe != "paper")  # which quantizes none anyway


def test_whoever_asks_for_8_bits_gets_them_with_a_warning_and_no_verdict(tmp_path: pathlib.Path) -> None:
    model, _ = folded_picture()
    onnx.save(model, path := tmp_path / "m.onnx")
    result = dfmpc("quantize", path, "-o", tmp_path / "q.onnx", "--recipe", "int8", "--activations", 8)
    assert result.exit_code == 0
    (said,) = result.stderr.splitlines()
    assert said.startswith("warning: preprocess imagenet assumed (input of unit variance): ")
    assert "what the result loses is not known" in said and "stay in float" not in said
    assert "against the float model  not known: nothing tells the scale of 'x'" in result.stdout
    assert "SQNR" not in result.stdout and "integers" in result.stdout


@pytest.mark.parametrize("kind", [folded_bands, folded_picture, one_known_of_two], ids=lambda kind: kind.__name__)
def test_a_range_makes_an_input_known(
    kind: Callable[[], tuple[onnx.ModelProto, Feeds]], tmp_path: pathlib.Path
) -> None:
    model, feeds = kind()
    onnx.save(model, path := tmp_path / "m.onnx")
    name = "state" if kind is one_known_of_two else "x"
    bounds = {folded_bands: "-500:4100", folded_picture: "-1:1", one_known_of_two: "-70:170"}[kind]
    given = ("quantize", path, "-o", tmp_path / "q.onnx", "--recipe", "int8", "--input-range", f"{name}={bounds}")
    result = dfmpc(*given, "--json")
    assert result.exit_code == 0 and result.stderr == ""
    report = json.loads(result.stdout)
    assert report["activations"] == "8" and report["preprocess_choice"]["unknown"] == []
    real = sqnr(model, onnx.load(tmp_path / "q.onnx"), feeds)
    assert real > 25 and report["fidelity"]["sqnr_db"] < real + 6
    # verify feeds the same, as the file states; another range, as it is given.
    stated = {p.key.removeprefix("dfmpc_onnx."): p.value for p in onnx.load(tmp_path / "q.onnx").metadata_props}
    assert json.loads(stated["input_ranges"]) == {name: [float(v) for v in bounds.split(":")]}
    again = json.loads(dfmpc("verify", path, tmp_path / "q.onnx", "--json").stdout)
    assert again["providers"][0]["fidelity"]["sqnr_db"] == pytest.approx(report["fidelity"]["sqnr_db"], abs=3)
    far = dfmpc("verify", path, tmp_path / "q.onnx", "--input-range", f"{name}=-90000:90000", "--json")
    assert json.loads(far.stdout)["providers"][0]["fidelity"]["sqnr_db"] < 15
    made = dfmpc_onnx.quantize(model, recipe="int8", input_ranges=[f"{name}={bounds}"])
    assert made.report.activations == "8"


def loud(feeds: Feeds) -> Feeds:
    (name, x), *_ = feeds.items()
    return {name: 0.95 * x / np.abs(x).max(axis=1, keepdims=True)}


def test_what_a_stated_range_holds_goes_before_what_normalizations_saw() -> None:
    """Loud clips reach further than the BatchNormalizations of training say, quiet ones fill a few steps of 255."""
    model, feeds = waveform()
    made = dfmpc_onnx.quantize(model, recipe="int8", input_ranges=["sound=-1:1"], threads=1)
    assert made.report.activations == "8"
    assert min(sqnr(model, made.model, x) for x in (feeds, loud(feeds))) > 25
    assert made.report.fidelity is not None
    assert made.report.fidelity.sqnr_db < sqnr(model, made.model, feeds) + 6


def thermal(divided: bool) -> tuple[onnx.ModelProto, Feeds]:
    """16-bit pixels of which a scene fills a tenth; the first layer takes their mean away."""
    net, scale = Trained(x=("n", 1, 48, 48)), 65535 if divided else 1
    x = net.node("Div", "x", net.constant(65535)) if divided else "x"
    weight = net.random.standard_normal((16, 1, 3, 3)) * 0.5 * scale / 600
    bias = -weight.sum((1, 2, 3)) * 30000 / scale + 0.3 * net.random.standard_normal(16)
    y = net.node("Relu", net.node("Conv", x, net.constant(weight), net.constant(bias), strides=[2, 2]))
    y = net.block(y, 16, 24, 3, 3, stride=2, norm=False)
    return net.model(net.tail(y, 24), {}), {"x": (30000 + 600 * fields(16, 1, 48, 48)).astype(np.float32)}


@pytest.mark.parametrize("divided", [False, True])
def test_pixels_of_16_bits_are_not_rounded_to_8(divided: bool) -> None:
    model, feeds = thermal(divided)
    made = dfmpc_onnx.quantize(model, recipe="int8", input_ranges=["x=0:65535"], threads=1)
    first, second, _ = (layer.integer for layer in made.report.layers)
    assert second and not first
    assert sqnr(model, made.model, feeds) > 25
    assert made.report.fidelity is not None
    assert "an eighth of its contrast" in made.report.fidelity.origin


def test_verify_of_a_file_whose_input_nobody_knows_says_so(tmp_path: pathlib.Path) -> None:
    model, feeds = folded_bands()
    onnx.save(model, path := tmp_path / "m.onnx")
    dfmpc_onnx.quantize(path, tmp_path / "q.onnx", recipe="int8", threads=1)
    result = dfmpc("verify", path, tmp_path / "q.onnx")
    assert result.stderr == ""  # said when the file was made
    assert "NOT KNOWN - nothing tells the scale of 'x'" in " ".join(result.stdout.split())
    np.savez(tmp_path / "x.npz", x=feeds["x"])
    own = dfmpc("verify", path, tmp_path / "q.onnx", "--images", tmp_path / "x.npz")
    assert own.exit_code == 0 and "not known" not in own.stdout.lower()
    of_others = dfmpc("verify", path, path)
    assert "the scale of input 'x' is not known" in of_others.stderr


@pytest.mark.parametrize("kind", [folded_bands, scaled_sound, folded_picture], ids=lambda kind: kind.__name__)
def test_images_of_the_users_own_give_a_verdict_on_those_held_back_from_statistics(
    kind: Callable[[], tuple[onnx.ModelProto, Feeds]], tmp_path: pathlib.Path
) -> None:
    model, feeds = kind()
    (x,) = feeds.values()
    np.savez(tmp_path / "x.npz", x=x[:16])
    made = dfmpc_onnx.quantize(model, recipe="int8", images=tmp_path / "x.npz", threads=1)
    report = made.report
    assert report.activations == "8" and not report.warnings and not report.preprocess_choice.unknown
    assert report.fidelity is not None and not report.fidelity.not_known
    assert report.fidelity.origin == "4 images of yours that statistics did not see"
    held = {next(iter(feeds)): x[3:16:4]}
    assert report.fidelity.sqnr_db == pytest.approx(sqnr(model, made.model, held), abs=0.02)
    (statistics,) = (p.result for p in report.passes if p.name == "reconstruct_layers")
    assert any("12 of 16 images" in note for note in statistics.notes)


def test_of_very_few_images_none_is_held_back_and_that_is_said(tmp_path: pathlib.Path) -> None:
    model, feeds = folded_bands()
    np.savez(tmp_path / "x.npz", x=feeds["x"][:5])
    report = dfmpc_onnx.quantize(model, recipe="int8", images=tmp_path / "x.npz", threads=1).report
    (said,) = report.warnings
    assert "since 5 are too few to hold some back: give 8, or verify the file on others" in said
    assert report.fidelity is not None and report.fidelity.origin == "5 images of yours, which statistics saw"


def test_pixels_under_a_preprocess_that_is_a_guess_tell_no_scale(tmp_path: pathlib.Path) -> None:
    model, _ = folded_picture()
    onnx.save(model, path := tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.repeat(PHOTOGRAPHS, 2, 1).repeat(2, 2)[:16].astype(np.uint8))
    given = ("quantize", path, "-o", tmp_path / "q.onnx", "--recipe", "int8", "--images", tmp_path / "x.npz")
    guessed = dfmpc(*given, "--json")
    report = json.loads(guessed.stdout)
    assert report["activations"] == "none" and report["fidelity"]["sqnr_db"] is None
    assert "give --preprocess" in guessed.stderr and "--images" not in guessed.stderr
    tip = "if the network takes photos, try --preprocess raw:bgr, --preprocess imagenet or --preprocess unit"
    assert dfmpc(*given).stdout.splitlines()[-1] == tip
    known = json.loads(dfmpc(*given, "--preprocess", "half", "--json").stdout)
    assert known["activations"] == "8" and known["fidelity"]["sqnr_db"] > 25


def test_of_an_input_that_is_no_photo_no_preprocess_is_suggested(tmp_path: pathlib.Path) -> None:
    model, _ = folded_bands()
    onnx.save(model, path := tmp_path / "m.onnx")
    result = dfmpc("quantize", path, "-o", tmp_path / "q.onnx", "--recipe", "int8")
    assert "not known" in result.stdout and "takes photos" not in result.stdout


def test_json_has_null_and_the_reason_in_place_of_what_made_up_inputs_gave(tmp_path: pathlib.Path) -> None:
    model, feeds = folded_bands()
    onnx.save(model, path := tmp_path / "m.onnx")
    out = tmp_path / "q.onnx"
    made = json.loads(dfmpc("quantize", path, "-o", out, "--recipe", "int8", "--json").stdout)
    verified = json.loads(dfmpc("verify", path, out, "--json").stdout)
    for found in (made["fidelity"], verified["providers"][0]["fidelity"]):
        assert found["sqnr_db"] is found["agreement"] is found["max_error"] is found["outputs"][0]["sqnr_db"] is None
        assert found["not_known"] == "nothing tells the scale of 'x'"
    np.savez(tmp_path / "x.npz", x=feeds["x"])
    told = json.loads(dfmpc("verify", path, out, "--images", tmp_path / "x.npz", "--json").stdout)
    assert told["providers"][0]["fidelity"]["sqnr_db"] > 25


@pytest.mark.parametrize("threshold", ["--min-sqnr", "--min-agreement"])
def test_a_threshold_is_not_held_against_inputs_that_were_made_up(threshold: str, tmp_path: pathlib.Path) -> None:
    model, feeds = folded_bands()
    onnx.save(model, path := tmp_path / "m.onnx")
    dfmpc_onnx.quantize(path, out := tmp_path / "q.onnx", recipe="int8", threads=1)
    refused = dfmpc("verify", path, out, threshold, 5)
    assert_refused(refused, "nothing tells the scale of 'x'", "give --input-range 'x=LOW:HIGH' or --images")
    np.savez(tmp_path / "x.npz", x=feeds["x"])
    assert dfmpc("verify", path, out, threshold, 5, "--images", tmp_path / "x.npz").exit_code == 0


def test_all_inputs_that_are_not_known_are_named_in_one_line() -> None:
    net = Trained(x=("n", 3, 64, 64), state=("n", 5), place=("n", 2))
    x = net.block(net.block("x", 3, 16, 3, 3, stride=2, norm=False), 16, 24, 3, 3, norm=False)
    flat = net.node("Flatten", net.node("GlobalAveragePool", x))
    for name, size in (("state", 5), ("place", 2)):
        beside = net.node("Gemm", name, net.constant(net.random.standard_normal((size, 24))))
        flat = net.node("Add", flat, beside)
    model = net.model(net.node("Gemm", flat, net.constant(net.random.standard_normal((24, 10)))), {})
    (said,) = dfmpc_onnx.quantize(model, recipe="int8", threads=1).report.warnings
    assert said.startswith("preprocess imagenet assumed") and said.count("\n") == 0
    assert "the scale of inputs 'state', 'place' is not known" in said
    ranges = "--input-range 'state=LOW:HIGH' and --input-range 'place=LOW:HIGH'"
    assert said.endswith(f"give --preprocess and {ranges}")
    (rest,) = dfmpc_onnx.quantize(model, recipe="int8", input_ranges=["x=-2:2"], threads=1).report.warnings
    assert rest.endswith(f"give {ranges}") and "'x" not in rest
    told = ["x=-2:2", "state=-3:3", "place=-3:3"]
    assert not dfmpc_onnx.quantize(model, recipe="int8", input_ranges=told, threads=1).report.warnings


def test_pictures_of_the_users_own_are_normalized_once(tmp_path: pathlib.Path) -> None:
    """By the model itself, whose head shows it; under the usual preprocess too, activations lose 20 dB."""
    model, feeds = keras_head()
    np.savez(tmp_path / "x.npz", x=feeds["image"].astype(np.uint8))
    made = dfmpc_onnx.quantize(model, recipe="int8", images=tmp_path / "x.npz", threads=1)
    assert made.report.preprocess_choice.name == "raw" and not made.report.warnings
    assert sqnr(model, made.model, feeds) > 25


@pytest.mark.parametrize("kind", [bands, keras_head], ids=lambda kind: kind.__name__)
def test_of_images_of_the_users_own_the_closing_check_feeds_what_statistics_did_not_see(
    tmp_path: pathlib.Path, kind: Callable[[], tuple[onnx.ModelProto, Feeds]]
) -> None:
    model, feeds = kind()
    (x,) = feeds.values()
    np.savez(tmp_path / "x.npz", x=x)
    np.savez(tmp_path / "held.npz", x=x[3::4])
    made = dfmpc_onnx.quantize(model, tmp_path / "q.onnx", recipe="int8", images=tmp_path / "x.npz", threads=1)
    verified = dfmpc_onnx.verify(model, tmp_path / "q.onnx", images=tmp_path / "held.npz", threads=1)
    fidelity = made.report.fidelity
    assert fidelity is not None and fidelity.sqnr_db == verified.providers[0].fidelity.sqnr_db
    assert fidelity.origin == f"{len(x) // 4} images of yours that statistics did not see"
    assert made.verdict == msgspec.structs.replace(verified.verdict, origin=fidelity.origin)
    assert made.verdict is not None and made.verdict.basis == "images"
    assert made.report.images == f"{len(x)} images of x.npz, {len(x) // 4} of them unseen by statistics"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("x=nan:1", "LOW must be below HIGH"),
        ("x=1:1", "LOW must be below HIGH"),
        ("x=3:-3", "LOW must be below HIGH"),
        ("x=0:inf", "LOW must be below HIGH"),
        ("x=0:1e39", "LOW must be below HIGH"),
        ("x=5", "give NAME=LOW:HIGH"),
        ("x=a:b", "give NAME=LOW:HIGH"),
        ("x=1:2:3", "give NAME=LOW:HIGH"),
        ("0:1", "give NAME=LOW:HIGH"),
        ("=0:1", "give NAME=LOW:HIGH"),
        ("y=0:1", "no such input; the model has x"),
    ],
)
def test_a_range_that_is_none_is_one_line(given: str, said: str, tmp_path: pathlib.Path) -> None:
    onnx.save(folded_bands()[0], path := tmp_path / "m.onnx")
    result = dfmpc("quantize", path, "-o", tmp_path / "q.onnx", "--input-range", given)
    assert_refused(result, said)
    with pytest.raises(OptionError):
        dfmpc_onnx.quantize(path, input_ranges=[given])


def test_two_ranges_for_one_input_are_a_mistake() -> None:
    with pytest.raises(OptionError, match="a second one for that input"):
        dfmpc_onnx.quantize(folded_bands()[0], input_ranges=["x=0:1", "x=0:2"])


def test_an_input_that_no_layer_depends_on_is_not_doubted() -> None:
    """As the scale that boxes are put back to."""
    net = Trained(x=("n", 3, 64, 64), ratio=(1,))
    x = net.block(net.block("x", 3, 16, 3, 3, stride=2, norm=False), 16, 24, 3, 3, norm=False)
    model = net.model(net.node("Mul", net.tail(x, 24), "ratio"), {})
    report = dfmpc_onnx.quantize(model, recipe="int8", preprocess="imagenet", threads=1).report
    assert report.activations == "8" and not report.preprocess_choice.unknown


def clipped_bands(low: float = 0.0, high: float = 1.0, beside: bool = False) -> tuple[onnx.ModelProto, Feeds]:
    """Reflectances of 12 bands that a Clip bounds, normalizations folded. beside: whether a layer reads all of them."""
    net, feeds = Trained(x=("n", 12, 32, 32)), {"x": np.clip(0.3 + 0.1 * fields(4, 12, 32, 32), 0, 1).astype("f4")}
    bounded = net.node("Clip", "x", net.constant(low), net.constant(high))
    x = net.block(bounded, 12, 16, 3, 3, norm=False, scale=5.0)
    if beside:
        x = net.node("Add", x, net.block("x", 12, 16, 3, 3, norm=False))
    return net.model(net.tail(net.block(x, 16, 24, 3, 3, norm=False), 24), feeds), feeds


def test_the_bounds_of_a_clip_that_alone_reads_an_input_are_its_range(tmp_path: pathlib.Path) -> None:
    model, feeds = clipped_bands()
    source, target = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(model, source)
    made = dfmpc_onnx.quantize(source, target, recipe="int8", threads=1)
    choice = made.report.preprocess_choice
    assert choice.reason == "'x': 0 to 1, by the Clip at its head" and choice.by == "head" and not choice.unknown
    assert made.report.activations == "8" and not made.report.warnings
    assert sqnr(model, made.model, feeds) > 25
    given = dfmpc_onnx.quantize(source, recipe="int8", input_ranges=["x=0:1"], threads=1)
    assert made.report.fidelity == given.report.fidelity
    (row,) = dfmpc_onnx.verify(source, target).providers
    assert row.fidelity == made.report.fidelity


@pytest.mark.parametrize("given", [{"high": 3e38}, {"low": -65504.0, "high": 65504.0}, {"beside": True}])
def test_a_clip_that_guards_against_overflow_or_beside_another_reader_tells_nothing(given: dict[str, float]) -> None:
    report = dfmpc_onnx.quantize(clipped_bands(**given)[0], recipe="int8", threads=1).report  # type: ignore[arg-type]
    assert report.activations == "none" and [entry.name for entry in report.preprocess_choice.unknown] == ["x"]


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """In half precision between inputs and outputs of single."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    name = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["half" if read == name else read for read in node.input]
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["last" if made == last else made for made in node.output]
    model.graph.node.insert(0, helper.make_node("Cast", [name], ["half"], to=TensorProto.FLOAT16))
    model.graph.node.append(helper.make_node("Cast", ["last"], [last], to=TensorProto.FLOAT))
    return model


def raw_picture() -> tuple[onnx.ModelProto, Feeds]:
    net, feeds = Trained(x=("n", 3, 64, 64)), {"x": pixels()}
    x = net.block("x", 3, 16, 3, 3, stride=2, scale=0.01)
    return net.model(net.tail(net.block(x, 16, 24, 3, 3), 24), feeds), feeds


@pytest.mark.parametrize("kind", [raw_picture, mel_frames, around_zero], ids=lambda kind: kind.__name__)
def test_half_precision_says_what_single_precision_says(kind: Callable[[], tuple[onnx.ModelProto, Feeds]]) -> None:
    model, feeds = kind()
    single, half = (dfmpc_onnx.quantize(m, recipe="int8", threads=1) for m in (model, halved(model)))
    a, b = single.report.preprocess_choice, half.report.preprocess_choice
    assert (a.name, a.by, a.unknown) == (b.name, b.by, b.unknown) and a.by in ("images", "norms", "head")
    assert half.report.activations == "8" and sqnr(model, half.model, feeds) > 25


def test_a_preprocess_beside_a_range_is_refused_and_one_given_to_verify_goes_before_the_range_of_the_file(
    tmp_path: pathlib.Path,
) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "q.onnx"
    onnx.save(graphs.chain(), path)
    both = ("quantize", path, "-o", out, "--recipe", "int8", "--input-range", "x=0:1")
    refused = dfmpc(*both, "--preprocess", "caffe")
    assert refused.exit_code == 2 and "preprocess caffe: no input is left for it" in refused.stderr
    made = dfmpc(*both)
    assert made.exit_code == 0 and "'x' holds 0 to 1, as given" in " ".join(made.stdout.split())
    of_file, of_user = (dfmpc("verify", path, out, "--json", *more) for more in ((), ("--preprocess", "imagenet")))
    rows = [json.loads(found.stdout)["providers"][0]["fidelity"]["max_error"] for found in (of_file, of_user)]
    assert rows[0] != rows[1]


def test_a_picture_beside_one_whose_head_is_known_gets_in_verify_what_it_got_in_quantize(
    tmp_path: pathlib.Path,
) -> None:
    net = Trained(known=(1, 3, 16, 16), other=(1, 3, 16, 16))
    known = net.node("Div", net.node("Sub", "known", net.constant(0.5)), net.constant(0.5))
    both = [net.block(x, 3, 8, 3, 3, norm=False) for x in (known, "other")]
    model = net.model(net.tail(net.node("Concat", *both, axis=1), 16), {})
    source, target = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(model, source)
    report = dfmpc_onnx.quantize(source, target, weights="4").report
    assert report.preprocess_choice.by == "head"
    assert [entry.name for entry in report.preprocess_choice.unknown] == ["other"]
    (row,) = dfmpc_onnx.verify(source, target).providers
    assert report.fidelity is not None
    assert row.fidelity.sqnr_db == report.fidelity.sqnr_db
