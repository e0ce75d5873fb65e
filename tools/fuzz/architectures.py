"""Cases of the second grammar: whole architectures, small, with trained weights, as an exporter might write them."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools.fuzz import backbones, detectors, guided, sequences
from tools.fuzz.builder import OPSETS, Builder
from tools.fuzz.export_habits import exported
from tools.fuzz.networks import with_types
from tools.fuzz.options import IMAGES, options_for
from tools.fuzz.training import measured
from tools.fuzz.trial import Case

ARCHITECTURES: dict[str, Callable[[Builder], None]] = {
    "resnet": backbones.resnet,
    "densenet": backbones.densenet,
    "convnext": backbones.convnext,
    "inverted": backbones.inverted,
    "shuffle": backbones.shuffle,
    "fpn": backbones.fpn,
    "unet": backbones.unet,
    "siamese": backbones.siamese,
    "yolo": detectors.yolo,
    "nms": detectors.selecting,
    "two-stage": detectors.regions,
    "stn": detectors.straightened,
    "vit": sequences.vit,
    "crnn": sequences.reader,
    "audio": sequences.waveform,
    "spectrogram": sequences.spectrogram,
    "two inputs": sequences.two_inputs,
    "masked": guided.masked,
    "styled": guided.styled,
    "looped": guided.looped,
}
MEASURED_ON = 8  # inputs


def drawn_architecture(seed: int, number: int) -> Case:
    """The case with a number: the same whenever the seed and this code are the same."""
    rng = random.Random(f"architectures/{seed}/{number}")
    kind = rng.choice(sorted(ARCHITECTURES))
    build, model = trained(kind, rng)
    written = exported(model, build, rng)
    options, least, images = options_for(written.model, written.input_shapes, rng)
    ordinary = build.traits.ordinary and written.ordinary and not build.varying
    beside = {**written.beside, **({} if images is None else {IMAGES: images})}
    source = f"opset {build.opset}, {', '.join(written.habits) or 'plain'}"
    model = written.model.SerializeToString()
    least = least if ordinary else None
    return Case(kind, source, model, options, least, beside, tuple(build.varying), ordinary)


def trained(kind: str, rng: random.Random) -> tuple[Builder, onnx.ModelProto]:
    """An architecture with a batch of its own, whose normalizations hold what several inputs gave."""
    opset, state, batch = rng.choice(OPSETS), rng.getrandbits(64), rng.choice([1, 1, 1, 1, 2])

    def built(batch: int) -> Builder:
        build = Builder(random.Random(state), batch, opset)
        ARCHITECTURES[kind](build)
        return build

    found = measured(built(MEASURED_ON).model({}))
    build = built(batch)
    model = build.model(found)
    if build.traits.scaled:
        _scale(build, model, rng)
    if folds(rng):
        _fold(build, model)
    if build.traits.scaled:
        _cancel(build, model, rng)
    for node in model.graph.node:
        node.ClearField("doc_string")
    model = with_types(model)
    for value in model.graph.output:
        if not value.type.tensor_type.HasField("shape") and (shape := build.shapes[value.name]):
            value.type.CopyFrom(helper.make_tensor_value_info("", TensorProto.FLOAT, [None] * len(shape)).type)
    return build, model


def folds(rng: random.Random) -> bool:
    """Whether normalizations are exported as part of the layers in front of them."""
    return rng.random() < 0.4


def _scale(build: Builder, model: onnx.ModelProto, rng: random.Random) -> None:
    """Layers' channels in scales of many sizes, which their normalizations take back."""
    readers = {node.input[0]: node for node in model.graph.node if node.op_type == "BatchNormalization"}
    made = {node.output[0]: node for node in model.graph.node}
    done: set[str] = set()
    for output, weight in build.foldable:
        conv, norm = made[output], readers[output]
        if weight in done or rng.random() < 0.5:
            continue
        done.add(weight)
        factors = np.exp(build.values.normal(0, rng.choice([1.0, 3.0]), build.shapes[output][1])).astype(np.float32)
        for name in conv.input[1:]:
            _times(model, name, factors)
        _times(model, norm.input[3], factors)
        _times(model, norm.input[4], factors**2)


def _fold(build: Builder, model: onnx.ModelProto) -> None:
    """Normalizations as part of the layers in front of them, as exporters of trained networks write them."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    readers = {node.input[0]: node for node in model.graph.node if node.op_type == "BatchNormalization"}
    biases: dict[str, str] = {}
    for output, weight in build.foldable:
        conv, norm = made[output], readers[output]
        if weight not in biases:
            gamma, beta, mean, variance = (numpy_helper.to_array(held[name]) for name in norm.input[1:])
            factors = gamma / np.sqrt(variance + np.float32(build.traits.epsilon))
            bias = numpy_helper.to_array(held[conv.input[2]]) if len(conv.input) > 2 else 0.0
            biases[weight] = f"{weight}.bias"
            _times(model, weight, factors)
            folded = np.asarray(beta + (bias - mean) * factors, np.float32)
            model.graph.initializer.append(numpy_helper.from_array(folded, biases[weight]))
        del conv.input[2:]
        conv.input.append(biases[weight])
        conv.output[0] = norm.output[0]
        model.graph.node.remove(norm)
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _cancel(build: Builder, model: onnx.ModelProto, rng: random.Random) -> None:
    """Scales of many sizes in a layer that the next one, behind a Relu, takes back: no normalization shows them."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for first in model.graph.node:
        chain = [first]
        for op in ("Relu", "Conv"):
            found = readers.get(chain[-1].output[0], [])
            if len(found) != 1 or found[0].op_type != op:
                break
            chain.append(found[0])
        if (
            len(chain) < 3
            or first.op_type != "Conv"
            or any(len(readers[n]) > 1 for n in (*first.input[1:], chain[2].input[1]))
        ):
            continue
        if next(a.i for a in chain[2].attribute if a.name == "group") != 1 or rng.random() < 0.3:
            continue
        factors = np.exp(build.values.normal(0, rng.choice([1.0, 4.0]), build.shapes[first.input[1]][0]))
        for name in first.input[1:]:
            _times(model, name, factors)
        _times(model, chain[2].input[1], 1 / factors, axis=1)


def _times(model: onnx.ModelProto, name: str, factors: np.ndarray, axis: int = 0) -> None:
    """A tensor times a factor for each entry of an axis."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            value = numpy_helper.to_array(tensor)
            column = factors.reshape(-1, *(1,) * (value.ndim - 1 - axis))
            tensor.CopyFrom(numpy_helper.from_array((value * column).astype(np.float32), name))
