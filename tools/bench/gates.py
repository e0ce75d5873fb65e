#!/usr/bin/env python3
"""What a gate between two Convs costs on onnxruntime's CPU provider: as nodes give it, in integers, and equalized.

    python -m tools.bench.gates [--channels 64] [--size 56] [--rounds 200]

The same network, random weights, channels whose deviations are up to 16 times apart, 8/8, quantized with and without
the passes `integer_gates` and `equalize_gates`, and with Relu in place of the gate; one thread, timed in turns: median
and least microseconds of each, and what the gate adds to Relu.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import dfmpc_onnx

WITHOUT = 'extends = "int8"\nsummary = "int8, gates otherwise"\nwithout = ["keep_activations_float"%s]\n'
BOTH, EQUALIZED = ', "integer_gates", "equalize_gates"', ', "equalize_gates"'
CASES = (
    ("Relu", "Relu", ""),
    ("HardSwish, as it is", "HardSigmoid", BOTH),
    ("HardSwish, in integers", "HardSigmoid", ""),
    ("SiLU", "Sigmoid", EQUALIZED),
    ("SiLU, equalized", "Sigmoid", ""),
)


def network(channels: int, size: int, gate: str) -> onnx.ModelProto:
    """Conv -> BatchNormalization -> a gate times its argument, or Relu -> Conv, 1x1, random weights."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(
            (random.standard_normal((channels, inputs, 1, 1)) / inputs**0.5).astype(np.float32), f"w{inputs}.{i}"
        )
        for i, inputs in enumerate((3, channels, channels))
    ]
    names = [tensor.name for tensor in weights]
    between = [helper.make_node("Relu", ["u"], ["y"])]
    if gate != "Relu":
        slope = {"alpha": 1 / 6, "beta": 0.5} if gate == "HardSigmoid" else {}
        between = [helper.make_node(gate, ["u"], ["g"], **slope), helper.make_node("Mul", ["u", "g"], ["y"])]
    spread, zeros = np.linspace(0.25, 1, channels, dtype=np.float32) ** 2, np.zeros(channels, np.float32)
    norm = {"gamma": 4 * spread, "beta": zeros, "mean": zeros, "variance": 1 + zeros}
    weights += [numpy_helper.from_array(values, name) for name, values in norm.items()]
    nodes = [
        helper.make_node("Conv", ["x", names[0]], ["s"]),
        helper.make_node("Relu", ["s"], ["r"]),
        helper.make_node("Conv", ["r", names[1]], ["c"]),
        helper.make_node("BatchNormalization", ["c", *norm], ["u"]),
        *between,
        helper.make_node("Conv", ["y", names[2]], ["z"]),
    ]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])]
    result = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, channels, size, size])]
    graph = helper.make_graph(nodes, "gate", ends, result, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=56)
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {}
    with tempfile.TemporaryDirectory() as folder:
        for label, gate, left_out in CASES:
            recipe = Path(folder) / "recipe.toml"
            recipe.write_text(WITHOUT % left_out)
            model = network(args.channels, args.size, gate)
            made = dfmpc_onnx.quantize(model, recipe=str(recipe), preprocess="imagenet", check=False).model
            sessions[label] = onnxruntime.InferenceSession(made.SerializeToString(), options)
    x = np.random.default_rng(1).standard_normal((1, 3, args.size, args.size)).astype(np.float32)
    times: dict[str, list[float]] = {label: [] for label in sessions}
    for _ in range(args.rounds):
        for label, session in sessions.items():
            began = time.perf_counter()
            session.run(None, {"x": x})
            times[label].append(1e6 * (time.perf_counter() - began))
    relu = statistics.median(times["Relu"])
    for label, found in times.items():
        median = statistics.median(found)
        print(f"{label}: {median:.0f} us, {median - relu:+.0f} us; least {min(found):.0f} us")


if __name__ == "__main__":
    main()
