#!/usr/bin/env python3
"""Bytes of the written files against what their codes need, for every network at hand and several recipes.

    python -m tools.bench.sizes [--only NETWORK]... [--recipe RECIPE[:WEIGHTS]]... [--target cpu]

Allowed are 1.03 times the codes (bits/8 a weight, 1.6 bits a ternary one), the biases and scales, and 1,500 bytes a
quantized layer for nodes, names and what the file says of itself. The networks of tools/experiments/measure.py, their
folded twins, ResNet-18's shape, and a network of two tiny layers. Exits 1 where a file is larger.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile

import onnx
from onnx import numpy_helper

import dfmpc_onnx
from dfmpc_onnx.pipeline.targets import TARGETS
from dfmpc_onnx.report.schema import Report
from tools.bench.networks import Builder, resnet
from tools.experiments.measure import folded_twins, networks

RECIPES = ("mixed", "int8", "int4", "per-channel:2/6", "per-channel:3/5", "per-channel:ternary/7", "paper")
HEADER = ("network", "setting", "layers", "codes", "biases and scales", "bytes", "allowed", "of allowed")
OVERHEAD = 1500


def tiny() -> onnx.ModelProto:
    """Two Convs of a few hundred weights."""
    b = Builder()
    x = b.conv(b.conv("input", 3, 8, 3), 8, 16, 3)
    return b.model(b.op("Flatten", [b.op("GlobalAveragePool", [x])], axis=1), (3, 16, 16), 16)


def code_bytes(report: Report) -> float:
    """What the codes of the quantized layers need."""
    layers = [layer for layer in report.layers if layer.refused is None]
    return sum(layer.weights * (1.6 if layer.ternary else layer.bits) / 8 for layer in layers)


def parameter_bytes(model: onnx.ModelProto) -> int:
    """Biases, in whatever type, and the scales and zero points of weights, biases and activations.

    Where activations stay in float, scales and zero points of weights are operands of Mul and Sub.
    """
    values = {t.name: t for t in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found, worked_out = set(), set(values)
    for node in model.graph.node:
        constant = worked_out.issuperset(node.input)
        worked_out.update(node.output if constant else ())
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or (constant and node.op_type in ("Mul", "Sub")):
            found.update(node.input[1:])
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
            maker = makers.get(node.input[2])
            found.add(maker.input[0] if maker is not None else node.input[2])
    return sum(numpy_helper.to_array(values[name]).nbytes for name in found if name in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a network by its short name; may be repeated")
    parser.add_argument("--recipe", action="append", help="such as mixed, or per-channel:2/6; may be repeated")
    parser.add_argument("--target", default="cpu", choices=TARGETS)
    args = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        known = {s: (n.label, n.model, n.preprocess) for s, n in {**networks(), **folded_twins()}.items()}
        for short, label, model in (("tiny", "two tiny layers", tiny()), ("shape18", "ResNet-18 shape", resnet(18))):
            onnx.save(model, folder / f"{short}.onnx")
            known[short] = label, folder / f"{short}.onnx", "imagenet"
        for short, (label, path, preprocess) in known.items():
            if args.only and short not in args.only:
                continue
            for setting in args.recipe or RECIPES:
                recipe, _, weights = setting.partition(":")
                if short == "shape18" and recipe in ("mixed", "int8", "int4") and not args.recipe:
                    continue  # minutes, for the same forms
                out = folder / "out.onnx"
                options = {"weights": weights or None, "preprocess": preprocess, "target": args.target}
                report = dfmpc_onnx.quantize(str(path), out, recipe, **options, check=False).report
                codes, parameters = code_bytes(report), parameter_bytes(onnx.load(out))
                quantized = sum(layer.refused is None for layer in report.layers)
                allowed = 1.03 * codes + parameters + OVERHEAD * quantized
                size = out.stat().st_size
                failed |= size > allowed
                share = f"{size / allowed:.3f}"
                cells = (quantized, f"{codes:.0f}", parameters, size, f"{allowed:.0f}")
                share = f"**{share}**" if size > allowed else share
                print(f"| {label} | {setting} | {' | '.join(map(str, cells))} | {share} |", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
