"""Cases of the second grammar: whole architectures, small, with trained weights, as an exporter might write them."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools.fuzz import backbones, detectors, sequences
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
    return Case(kind, source, model, options, least if ordinary else None, beside, tuple(build.varying))


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
    if rng.random() < 0.4:
        _fold(build, model)
    for node in model.graph.node:
        node.ClearField("doc_string")
    model = with_types(model)
    for value in model.graph.output:
        if not value.type.tensor_type.HasField("shape") and (shape := build.shapes[value.name]):
            value.type.CopyFrom(helper.make_tensor_value_info("", TensorProto.FLOAT, [None] * len(shape)).type)
    return build, model


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


def _times(model: onnx.ModelProto, name: str, factors: np.ndarray) -> None:
    """A tensor times a factor for each entry of its first axis."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            value = numpy_helper.to_array(tensor)
            column = factors.reshape(-1, *(1,) * (value.ndim - 1))
            tensor.CopyFrom(numpy_helper.from_array((value * column).astype(np.float32), name))
