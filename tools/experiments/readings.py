#!/usr/bin/env python3
"""What each reading of the paper's "re-calibrated" mean and deviation gives: top-1 of ternary/6, weights only.

python -m tools.experiments.readings [--only NETWORK]... [--weights ternary/6]
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile

import msgspec

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.pipeline.recipe import Recipe
from tools.experiments.ablation import variant
from tools.experiments.measure import networks

NONE = "no re-calibration, no c"
READINGS = (NONE, "unchanged", "norm_ratio", "analytic", "analytic_ratio", "projection")


def with_reading(base: Recipe, reading: str) -> Recipe:
    """The recipe with another reading, or quantized directly without either of the two passes."""
    if reading == NONE:
        kept = tuple(s for s in base.steps if s.use not in ("recalibrate_batch_norm", "compensate"))
        return msgspec.structs.replace(base, steps=kept)
    return variant(base, {"reading": reading}, "recalibrate_batch_norm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a network by its short name; may be repeated")
    parser.add_argument("--weights", default="ternary/6")
    args = parser.parse_args()
    known = {name: n for name, n in networks().items() if name in (args.only or ("own", "resnet20", "resnet56"))}
    columns = [(network, recipe) for recipe in ("paper", "per-channel") for network in known.values()]
    print("| reading of m^, s^ | " + " | ".join(f"{n.label} `{r}`" for n, r in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for reading in READINGS:
        cells = []
        for network, name in columns:
            recipe = with_reading(catalog.find_recipe(name), reading)
            with tempfile.TemporaryDirectory() as folder:
                out = pathlib.Path(folder) / "out.onnx"
                options = {"weights": args.weights, "activations": "none", "preprocess": network.preprocess}
                dfmpc_onnx.quantize(str(network.model), out, recipe, **options, check=False)
                found = dfmpc_onnx.verify(str(network.model), out, images=network.images).providers[0].fidelity
            cells.append(f"{found.top1:.1f}")
        print(f"| {reading} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
