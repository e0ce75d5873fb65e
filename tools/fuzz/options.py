"""Every option of `quantize`, drawn, and how near the result has to be under it."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence

import numpy as np
import onnx

from dfmpc_onnx.pipeline.targets import TARGETS

RECIPES = ("mixed", "mixed", "int8", "int8", "int4", "closed-form", "per-channel", "paper")
WEIGHTS = ("8", "8", "7", "6", "5", "4", "3", "2", "2/6", "2/8", "4/8", "3/5", "ternary/6", "ternary/8", "auto")
PREPROCESSES = ("imagenet", "lite", "keras", "unit", "raw", "caffe", "half", "half:bgr", "127.5/127.5", "0/1")
FAR = ("raw", "caffe", "0/1")  # of pixels that are a hundred times as large as what cases are judged on
IMAGES = "images.npz"


def options_for(
    model: onnx.ModelProto, input_shapes: Sequence[str], rng: random.Random
) -> tuple[dict[str, object], float | None, bytes | None]:
    """Options, the least SQNR in dB where weights are such as training leaves, and an .npz of images is drawn.

    Only weights of 8 bits have to be near: at few bits, in networks of a few channels, no figure holds for all.
    """
    options: dict[str, object] = {"recipe": rng.choice(RECIPES), "input_shapes": tuple(input_shapes), "threads": 1}
    if rng.random() < 0.4:
        options["weights"] = rng.choice(WEIGHTS)
    if rng.random() < 0.65:  # else they stay in float where nothing says what an input holds
        options["activations"] = rng.choice(["none", "8", "8", "8"])
    if rng.random() < 0.4:
        options["target"] = rng.choice(sorted(TARGETS))
    if rng.random() < 0.2:
        options["reduce_range"] = rng.choice([True, True, False])
    if rng.random() < 0.25:
        options["layers"] = _layers(model, rng)
    if rng.random() < 0.4:
        options["preprocess"] = rng.choice(PREPROCESSES)
    if rng.random() < 0.2:
        options["seed"] = rng.randrange(1, 5)
    if rng.random() < 0.05:
        options["threads"] = rng.choice([0, 2])
    if rng.random() < 0.05:
        options["check"] = False
    runs = options["recipe"] in ("mixed", "int8", "int4") or rng.random() < 0.1  # the others take no images
    images = _images(model, input_shapes, rng) if runs and rng.random() < 0.2 else None
    if images is not None:
        options["images"] = IMAGES
    return options, _least(options), images


def _layers(model: onnx.ModelProto, rng: random.Random) -> tuple[str, ...]:
    names = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul") and node.name]
    globs = [*(rng.sample(names, min(2, len(names)))), "*Conv*", "*1", "*"]
    bits = ("float", "8", "4", "2", "6")
    return tuple(f"{rng.choice(globs)}={rng.choice(bits)}" for _ in range(rng.choice([1, 1, 2])))


def _images(model: onnx.ModelProto, input_shapes: Sequence[str], rng: random.Random) -> bytes:
    """A few images for the first input: as the network takes them, or bytes with channels last."""
    value = model.graph.input[0]
    given = dict(item.rpartition(":")[::2] for item in input_shapes)
    dims = [dim.dim_value or 4 for dim in value.type.tensor_type.shape.dim]
    if value.name in given:
        dims = [int(d) for d in given[value.name].split("x")]
    values, count = np.random.default_rng(rng.randrange(2**32)), rng.choice([1, 3, 8])
    if len(dims) == 4 and rng.random() < 0.4:
        x = values.integers(0, 256, (count, *dims[2:], dims[1]), np.uint8)
    else:
        x = values.standard_normal((count, *dims[1:])).astype(np.float32)
    file = io.BytesIO()
    np.savez(file, x=x)
    return file.getvalue()


def _least(options: dict[str, object]) -> float | None:
    """What 8 bits of weights promise; ranges of activations depend on what the procedural inputs hold."""
    usual = {"int8": "8", "per-channel": "", "closed-form": ""}
    if options.get("weights", usual.get(str(options["recipe"]), "")) != "8" or "layers" in options:
        return None
    if options.get("preprocess") in FAR:  # then corrections of biases are as large as errors on such inputs
        return None
    if options.get("activations") == "none" and not options.get("reduce_range"):
        return 20.0
    return None
