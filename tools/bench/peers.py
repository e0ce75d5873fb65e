#!/usr/bin/env python3
"""Ours against onnxruntime's own quantizer, in one run: accuracy and bytes of files that each wrote.

    python -m tools.bench.peers [--only NETWORK] [--real 32]

Peers: static QDQ with random inputs (what one has without data), static QDQ with real images, and dynamic. All 8-bit,
per channel. Real images are taken from the end of the labelled set and are left out of what is scored.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import tempfile

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import dfmpc_onnx
from dfmpc_onnx.evaluation.fidelity import compare
from dfmpc_onnx.inputs.files import Images, read_images
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.runtime.session import Session
from tools.experiments.measure import Network, networks

HEADER = ("network", "setting", "top-1 %", "drop", "one standard error", "SQNR dB", "bytes")


class Reader(CalibrationDataReader):
    """One calibration image at a time."""

    def __init__(self, name: str, x: np.ndarray) -> None:
        self._rows = iter([{name: row[None]} for row in x])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rows, None)


def peers(network: Network, real: np.ndarray, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Files written by onnxruntime's quantizer, by setting."""
    prepared = folder / "prepared.onnx"
    quant_pre_process(str(network.model), str(prepared), skip_symbolic_shape=True)
    name = onnx.load(network.model).graph.input[0].name
    noise = np.random.default_rng(0).standard_normal((32, *real.shape[1:])).astype(np.float32)
    made = {}
    inputs = {"random inputs": noise, f"{len(real)} real images": real}
    for label, x in ((f"onnxruntime static, {kind}", x) for kind, x in inputs.items()):
        made[label] = folder / f"{len(made)}.onnx"
        quantize_static(
            str(prepared),
            str(made[label]),
            Reader(name, x),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
    made["onnxruntime dynamic"] = folder / "dynamic.onnx"
    quantize_dynamic(str(prepared), str(made["onnxruntime dynamic"]), weight_type=QuantType.QUInt8)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a network by its short name; may be repeated")
    parser.add_argument("--real", type=int, default=32)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for short, network in networks().items():
        if args.only and short not in args.only:
            continue
        reference = Session(network.model)
        shape = tuple(d if isinstance(d, int) else 1 for d in reference.inputs[0][1])
        images = read_images(network.images, shape, Preprocess.parse(network.preprocess))
        assert images.y is not None
        scored = Images(images.x[: -args.real], images.y[: -args.real], images.origin)
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            files = peers(network, images.x[-args.real :], folder)
            for recipe, weights in (("mixed", "8"), ("int8", "8"), ("mixed", None)):
                label = f"ours, {recipe}{' --weights 8' if recipe == 'mixed' and weights else ''}"
                files[label] = folder / f"{recipe}_{weights}.onnx"
                options = {"weights": weights, "preprocess": network.preprocess}
                dfmpc_onnx.quantize(str(network.model), files[label], recipe, **options, check=False)
            for label, file in files.items():
                found = compare(reference, Session(file), scored)
                assert found.top1 is not None
                error = (found.top1 / 100 * (1 - found.top1 / 100) / len(scored.x)) ** 0.5 * 100
                print(
                    f"| {network.label} | {label} | {found.top1:.1f} | {found.drop:.1f} | {error:.1f} | "
                    f"{found.sqnr_db:.1f} | {file.stat().st_size} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
