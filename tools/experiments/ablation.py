#!/usr/bin/env python3
"""What each part of the default recipe brings: the same network with one part changed at a time.

    python -m tools.experiments.ablation [--only NETWORK]...

Prints drop from FP32 in points and SQNR in dB on labelled images, weights only unless said.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile

import msgspec

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.pipeline.recipe import Recipe
from tools.experiments.measure import Network, networks

SETTINGS = {
    "own": "2/6",
    "ownmobile": "2/6",
    "ownplain": "2/6",
    "owndense": "2/6",
    "resnet20": "2/6",
    "resnet56": "2/6",
    "mobilenetv2": "4",
    "mobilenetv1": "4",
    "vgglike": "2/4",
}
VARIANTS: dict[str, dict[str, object] | str] = {
    "everything": {},
    "round to nearest": {"rounding": "nearest"},
    "one factor per input channel": {"compensate": "diagonal"},
    "no compensation": {"compensate": "none"},
    "no re-calibration": {"recalibrate": False},
    "nearest, no compensation": {"rounding": "nearest", "compensate": "none"},
    "none of the three": {"rounding": "nearest", "compensate": "none", "recalibrate": False},
    "ternary low layers": "ternary",
}


def variant(base: Recipe, change: dict[str, object], step: str = "reconstruct_layers") -> Recipe:
    """The recipe with other options of one of its passes."""
    steps = tuple(
        msgspec.structs.replace(s, options={**s.options, **change}) if s.use == step else s for s in base.steps
    )
    return msgspec.structs.replace(base, steps=steps)


def row(network: Network, recipe: Recipe, weights: str) -> str:
    """Drop and SQNR of one variant."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        dfmpc_onnx.quantize(
            str(network.model),
            out,
            recipe,
            weights=weights,
            activations="none",
            preprocess=network.preprocess,
            check=False,
        )
        found = dfmpc_onnx.verify(str(network.model), out, images=network.images).providers[0].fidelity
    return f"{found.drop:.1f} ({found.sqnr_db:.1f} dB)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a network by its short name; may be repeated")
    args = parser.parse_args()
    known = {name: n for name, n in networks().items() if not args.only or name in args.only}
    base = catalog.find_recipe("mixed")
    print("| variant | " + " | ".join(f"{n.label}, {SETTINGS[name]}" for name, n in known.items()) + " |")
    print("|---" * (len(known) + 1) + "|")
    for label, change in VARIANTS.items():
        cells = []
        for name, network in known.items():
            weights = SETTINGS[name]
            if isinstance(change, str):
                weights = f"{change}/{weights.rpartition('/')[2]}"
            if isinstance(change, str) and "/" not in SETTINGS[name]:
                cells.append("-")
                continue
            cells.append(row(network, variant(base, {} if isinstance(change, str) else change), weights))
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
