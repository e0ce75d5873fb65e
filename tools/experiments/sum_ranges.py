#!/usr/bin/env python3
"""What one rounded sum of what BatchNormalizations give costs, by how far its 8-bit codes reach.

    python -m tools.experiments.sum_ranges MODEL --images FILE.npz|FOLDER [--preprocess NAME] [--sums 2] [--count 24]

Of the float network only that sum is rounded. SQNR of the output in dB, for codes between -c and c.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dfmpc_onnx.evaluation.fidelity import outputs
from dfmpc_onnx.evaluation.output_differences import sqnr
from dfmpc_onnx.inputs.files import read_images
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import resolve
from dfmpc_onnx.runtime.session import Session

REACHES = (3, 5, 7, 10, 14, 20, 28)
COUNT = 24  # images


def sums(model: onnx.ModelProto, last: int) -> list[str]:
    """The outputs of the last Adds of two computed tensors, in the order of the network."""
    constants = {one.name for one in model.graph.initializer}
    found = [node.output[0] for node in model.graph.node if node.op_type == "Add" and not constants & set(node.input)]
    return found[-last:]


def with_codes(model: onnx.ModelProto, tensor: str, reach: float) -> onnx.ModelProto:
    """The network with QuantizeLinear and DequantizeLinear behind one tensor."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    scale = numpy_helper.from_array(np.float32(2 * reach / 255), "sum_scale")
    middle = numpy_helper.from_array(np.uint8(128), "sum_zero_point")
    made.graph.initializer.extend([scale, middle])
    for node in made.graph.node:
        for place, name in enumerate(node.input):
            if name == tensor:
                node.input[place] = "sum_rounded"
    at = next(index for index, node in enumerate(made.graph.node) if tensor in node.output) + 1
    names = ["sum_scale", "sum_zero_point"]
    made.graph.node.insert(at, helper.make_node("QuantizeLinear", [tensor, *names], ["sum_codes"]))
    made.graph.node.insert(at + 1, helper.make_node("DequantizeLinear", ["sum_codes", *names], ["sum_rounded"]))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--images", type=pathlib.Path, required=True, metavar="FILE.npz|FOLDER")
    parser.add_argument("--preprocess", default="imagenet")
    parser.add_argument("--sums", type=int, default=2, help="how many sums, the last ones of the network")
    parser.add_argument("--count", type=int, default=COUNT, help="how many images")
    args = parser.parse_args()
    model, preprocess = onnx.load(args.model), Preprocess.parse(args.preprocess)
    shape = resolve(model, {}, preprocess).specs[0].shape
    x = read_images(args.images, shape, preprocess).x[: args.count]
    want = outputs(Session(model), x)
    print("| c | " + " | ".join(map(str, REACHES)) + " |\n" + "|---" * (len(REACHES) + 1) + "|")
    for tensor in sums(model, args.sums):
        cells = [f"{sqnr(want, outputs(Session(with_codes(model, tensor, c)), x)):.1f}" for c in REACHES]
        print(f"| {tensor} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
