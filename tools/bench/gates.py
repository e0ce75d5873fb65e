#!/usr/bin/env python3
"""What a HardSwish between two Convs costs on onnxruntime's CPU provider: as nodes give it, and written for integers.

    python -m tools.bench.gates [--channels 64] [--size 56] [--rounds 200]

The same network, random weights, 8/8, quantized with and without the pass `integer_gates`, and with Relu in place of
the gate; one thread, timed in turns: median microseconds of each, and what the gate adds to Relu.
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

WITHOUT = 'extends = "int8"\nsummary = "int8, gates as they are"\nwithout = ["integer_gates"]\n'


def network(channels: int, size: int, gate: bool) -> onnx.ModelProto:
    """Conv -> HardSigmoid times its argument, or Relu -> Conv, 1x1, random weights."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(
            (random.standard_normal((channels, inputs, 1, 1)) / inputs**0.5).astype(np.float32), f"w{inputs}.{i}"
        )
        for i, inputs in enumerate((3, channels, channels))
    ]
    names = [tensor.name for tensor in weights]
    between = [helper.make_node("Relu", ["u"], ["y"])]
    if gate:
        between = [
            helper.make_node("HardSigmoid", ["u"], ["g"], alpha=1 / 6, beta=0.5),
            helper.make_node("Mul", ["u", "g"], ["y"]),
        ]
    nodes = [
        helper.make_node("Conv", ["x", names[0]], ["s"]),
        helper.make_node("Relu", ["s"], ["r"]),
        helper.make_node("Conv", ["r", names[1]], ["u"]),
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
        recipe = Path(folder) / "without.toml"
        recipe.write_text(WITHOUT)
        cases = (("Relu", False, "int8"), ("gate, as it is", True, str(recipe)), ("gate, in integers", True, "int8"))
        for label, gate, used in cases:
            model = network(args.channels, args.size, gate)
            made = dfmpc_onnx.quantize(model, recipe=used, preprocess="imagenet", check=False).model
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
        print(f"{label}: {statistics.median(found):.0f} us, {statistics.median(found) - relu:+.0f} us")


if __name__ == "__main__":
    main()
