#!/usr/bin/env python3
"""What equalization, compensation, error feedback and re-calibration bring where scales are coarse: for `vitisai`.

    python -m tools.experiments.coarse_scales [--only NETWORK]... [--weights 8]... > docs/tables/coarse_scales.md

One scale a tensor, a power of two, for weights, activations and biases. Prints how often the written file names the
class of the float network, in per cent, and SQNR in dB, on labelled images.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Sequence

import msgspec

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.pipeline.recipe import Recipe
from tools.experiments.ablation import variant
from tools.experiments.measure import Network, asked, networks

NETWORKS = ("own", "ownmobile", "ownplain", "mobilenetv2")
EQUALIZERS = ("equalize_channels", "equalize_for_one_scale")
NONE = {"rounding": "nearest", "compensate": "none", "recalibrate": False}
# What is changed of rebuilding layers, and the passes that are left out.
PARTS: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "all": ({}, ()),
    "no equalization": ({}, EQUALIZERS),
    "no compensation": ({"compensate": "none"}, ()),
    "no re-calibration": ({"recalibrate": False}, ()),
    "equalization alone": (NONE, ()),
    "none of them": (NONE, EQUALIZERS),
}


def part(base: Recipe, label: str) -> Recipe:
    """The recipe with one of `PARTS`."""
    change, left = PARTS[label]
    steps = tuple(step for step in base.steps if step.use not in left)
    return variant(msgspec.structs.replace(base, steps=steps), change)


def cell(network: Network, recipe: Recipe, weights: str) -> str:
    """Agreement and SQNR of one file."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        dfmpc_onnx.quantize(
            str(network.model),
            out,
            recipe,
            weights=weights,
            target="vitisai",
            preprocess=network.preprocess,
            check=False,
        )
        found = dfmpc_onnx.verify(str(network.model), out, images=network.images).providers[0].fidelity
    return f"{found.agreement:.1f} ({found.sqnr_db:.1f} dB)"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = networks()
    parser.add_argument("--only", action="append", choices=list(known), help="a network; may be repeated")
    parser.add_argument("--weights", action="append", help="bits; may be repeated")
    args = parser.parse_args(arguments)
    chosen = list(asked(args.only or NETWORKS))
    base = catalog.find_recipe("int8")
    print("| weights | with | " + " | ".join(network.label for network in chosen) + " |")
    print("|---" * (len(chosen) + 2) + "|")
    for weights in args.weights or ["8"]:
        for label in PARTS:
            cells = [cell(network, part(base, label), weights) for network in chosen]
            print(f"| {weights} bits | {label} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
