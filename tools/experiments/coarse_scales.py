#!/usr/bin/env python3
"""What compensation, error feedback and re-calibration bring where scales are coarse: files for `vitisai`.

    python -m tools.experiments.coarse_scales [--only NETWORK]... [--weights 8]... > docs/tables/coarse_scales.md

One scale a tensor, a power of two, for weights, activations and biases. Prints how often the written file names the
class of the float network, in per cent, and SQNR in dB, on labelled images.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Sequence

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.pipeline.recipe import Recipe
from tools.experiments.ablation import variant
from tools.experiments.measure import Network, networks

NETWORKS = ("own", "ownmobile", "ownplain")
PARTS: dict[str, dict[str, object]] = {
    "all three": {},
    "no compensation": {"compensate": "none"},
    "no re-calibration": {"recalibrate": False},
    "none of the three": {"rounding": "nearest", "compensate": "none", "recalibrate": False},
}


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
    chosen = [known[name] for name in args.only or NETWORKS]
    base = catalog.find_recipe("int8")
    print("| weights | with | " + " | ".join(network.label for network in chosen) + " |")
    print("|---" * (len(chosen) + 2) + "|")
    for weights in args.weights or ["8", "4"]:
        for label, change in PARTS.items():
            cells = [cell(network, variant(base, change), weights) for network in chosen]
            print(f"| {weights} bits | {label} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
