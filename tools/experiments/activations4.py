#!/usr/bin/env python3
"""What activations of 4 bits cost: top-1 and SQNR of written files, the worst of some seeds.

python -m tools.experiments.activations4 [--only NETWORK]... [--seeds 3] > docs/tables/activations4.md

Networks and labelled images are those of `tools.experiments.measure`.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile

import dfmpc_onnx
from tools.experiments.measure import Network, asked

NETWORKS = ("resnet20", "mobilenetv2", "own", "owndense", "resnet56")
SETTINGS = (("8", "4"), ("4", "4"), ("2/6", "4"), ("8", "auto"))
COLUMNS = ("network", "FP32 %", *(f"W{weights} A{bits}" for weights, bits in SETTINGS))


def measured(network: Network, weights: str, activations: str, seed: int) -> tuple[float, float, float]:
    """Points of top-1 lost, SQNR in dB, and the float network's top-1."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        dfmpc_onnx.quantize(
            str(network.model),
            out,
            weights=weights,
            activations=activations,
            preprocess=network.preprocess,
            seed=seed,
            check=False,
        )
        found = dfmpc_onnx.verify(str(network.model), out, images=network.images).providers[0].fidelity
    return found.drop, found.sqnr_db, found.float_top1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a network by its short name; may be repeated")
    parser.add_argument("--seeds", type=int, default=3, help="of each file; the worst drop counts  [default: 3]")
    args = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for network in asked(args.only or NETWORKS):
        cells, level = [], 0.0
        for weights, activations in SETTINGS:
            rows = [measured(network, weights, activations, seed) for seed in range(args.seeds)]
            drop, sqnr, level = max(rows)
            cells.append(f"{drop:.1f} ({sqnr:.1f} dB)")
        print(f"| {network.label} | {level:.1f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
