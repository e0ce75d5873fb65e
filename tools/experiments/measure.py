#!/usr/bin/env python3
"""Accuracy, size and fidelity of written files, through onnxruntime's CPU provider: the tables of docs/results.

    python -m tools.experiments.measure [--only NETWORK] [--recipe NAME] [--setting WEIGHTS] [--seeds 5]

The project's own networks in models/ are always measured. Networks of others are measured too where the environment
variable DFMPC_DATA names a folder with `models/` and `images/` (docs/results/accuracy.md says which they are).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator

import dfmpc_onnx

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = os.environ.get("DFMPC_DATA")


@dataclasses.dataclass(frozen=True)
class Network:
    """A model, labelled images for it, and its preprocess."""

    label: str
    model: pathlib.Path
    images: pathlib.Path
    preprocess: str = "imagenet"


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting to measure on one network."""

    network: str
    recipe: str
    weights: str | None = None
    activations: str | None = None


def networks() -> dict[str, Network]:
    """The networks at hand, by short name."""
    found = {
        name: Network(label, ROOT / f"models/{file}_cifar10.onnx", ROOT / "models/cifar10_sample.npz")
        for name, label, file in (
            ("own", "ResNet-20 (models/)", "resnet20"),
            ("ownmobile", "mobile net (models/)", "mobilenet"),
            ("ownplain", "plain chain (models/)", "plain"),
            ("owndense", "DenseNet (models/)", "densenet"),
            ("ownefficient", "EfficientNet-like (models/)", "efficientnet"),
            ("ownmobilev3", "MobileNetV3-like (models/)", "mobilenetv3"),
        )
    }
    if DATA:
        folder = pathlib.Path(DATA)
        cifar, imagenet = folder / "images/cifar10_test_0000-0999.npz", folder / "images/imagenet_samples"
        others = {
            "resnet20": ("ResNet-20", "cifar10_resnet20", cifar, "imagenet"),
            "resnet56": ("ResNet-56", "cifar10_resnet56", cifar, "imagenet"),
            "vgglike": ("VGG-like, Conv-Relu-BN", "cifar10_vgglike_relubn", cifar, "raw"),
            "mobilenetv2": ("MobileNetV2", "imagenet_mobilenet_v2", imagenet, "imagenet"),
            "mobilenetv1": ("MobileNetV1-0.25", "imagenet_mobilenet_v1_025", imagenet, "keras"),
        }
        for name, (label, file, images, preprocess) in others.items():
            found[name] = Network(label, folder / f"models/{file}.onnx", images, preprocess)
    return found


def asked(names: Iterable[str]) -> Iterator[Network]:
    """The networks of those names, one after another; a line on standard error on each that is not there."""
    known = networks()
    for name in names:
        if name in known:
            yield known[name]
        else:
            print(f"{name}: skipped, DFMPC_DATA names no folder that holds it", file=sys.stderr)


def folded_twins() -> dict[str, Network]:
    """The same networks as exporters leave them, their BatchNormalizations folded into the Convs."""
    return {
        f"{name}folded": dataclasses.replace(
            network, label=f"{network.label}, folded", model=network.model.with_suffix(".folded.onnx")
        )
        for name, network in networks().items()
        if network.model.with_suffix(".folded.onnx").exists()
    }


ROWS = (
    Row("own", "mixed"),
    Row("own", "int8"),
    Row("own", "int4"),
    Row("own", "mixed", "2/6", "none"),
    Row("own", "mixed", "ternary/6", "none"),
    Row("own", "closed-form", "2/6", "none"),
    Row("own", "paper"),
    Row("ownmobile", "mixed"),
    Row("ownmobile", "int8"),
    Row("ownmobile", "mixed", "4", "none"),
    Row("ownmobile", "mixed", "2/6", "none"),
    Row("ownmobile", "closed-form", "2/6", "none"),
    Row("ownmobile", "closed-form", "4", "none"),
    Row("ownplain", "mixed"),
    Row("ownplain", "mixed", "2/6", "none"),
    Row("ownplain", "closed-form", "2/6", "none"),
    Row("owndense", "mixed"),
    Row("owndense", "int8"),
    Row("owndense", "mixed", "2/6", "none"),
    Row("owndense", "mixed", "ternary/6", "none"),
    Row("owndense", "closed-form", "2/6", "none"),
    Row("owndense", "closed-form", "ternary/6", "none"),
    Row("owndense", "per-channel", "2/6", "none"),
    Row("owndense", "paper"),
    Row("owndensefolded", "mixed", "2/6", "none"),
    Row("owndensefolded", "int8"),
    Row("ownefficient", "mixed"),
    Row("ownefficient", "int8"),
    Row("ownefficientfolded", "mixed"),
    Row("ownefficientfolded", "int8"),
    Row("ownmobilev3", "mixed"),
    Row("ownmobilev3", "int8"),
    Row("ownmobilev3folded", "mixed"),
    Row("ownmobilev3folded", "int8"),
    Row("resnet56", "mixed"),
    Row("resnet56", "mixed", "2/6", "none"),
    Row("resnet56", "mixed", "ternary/6", "none"),
    Row("resnet56", "mixed", "1.6/6", "none"),
    Row("resnet56", "mixed", "2", "none"),
    Row("resnet56", "closed-form", "2/6", "none"),
    Row("resnet56", "paper"),
    Row("resnet56", "int8"),
    Row("resnet56", "closed-form", "ternary/6", "none"),
    Row("resnet56", "per-channel", "2/6", "none"),
    Row("resnet20", "mixed", "2/6", "none"),
    Row("resnet20", "mixed", "ternary/6", "none"),
    Row("resnet20", "mixed", "1.6/6", "none"),
    Row("resnet20", "mixed", "4", "8"),
    Row("resnet20", "closed-form", "ternary/6", "none"),
    Row("resnet20", "paper"),
    Row("mobilenetv2", "mixed"),
    Row("mobilenetv2", "mixed", "8", "8"),
    Row("mobilenetv2", "mixed", "6", "8"),
    Row("mobilenetv2", "mixed", "4", "none"),
    Row("mobilenetv2", "mixed", "3/6", "none"),
    Row("mobilenetv2", "mixed", "2/6", "none"),
    Row("mobilenetv2", "int8"),
    Row("mobilenetv2", "closed-form", "8", "8"),
    Row("mobilenetv2", "closed-form", "4", "none"),
    Row("mobilenetv1", "mixed", "8", "8"),
    Row("mobilenetv1", "mixed"),
    Row("resnet56folded", "int8"),
    Row("resnet56folded", "mixed", "2/6", "none"),
    Row("mobilenetv2folded", "int8"),
    Row("mobilenetv2folded", "mixed", "4", "none"),
    Row("mobilenetv2folded", "mixed"),
    Row("vgglike", "mixed", "8", "8"),
    Row("vgglike", "mixed"),
)
SEEDED = ("mixed", "int8", "int4")  # the other recipes make no images
HEADER = ("network", "setting", "top-1 %", "FP32 %", "drop", "SQNR dB", "MB", "FP32 MB", "bits", "s")


def measure(network: Network, row: Row, seed: int) -> tuple[str, ...]:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        began = time.perf_counter()
        made = dfmpc_onnx.quantize(
            str(network.model),
            out,
            row.recipe,
            weights=row.weights,
            activations=row.activations,
            preprocess=network.preprocess,
            seed=seed,
            check=False,
        )
        seconds = time.perf_counter() - began
        found = dfmpc_onnx.verify(str(network.model), out, images=network.images).providers[0].fidelity
    options = " ".join(
        f"--{key} {value}" for key, value in (("weights", row.weights), ("activations", row.activations)) if value
    )
    report = made.report
    return (
        network.label,
        f"{row.recipe} {options}".strip(),
        f"{found.top1:.1f}",
        f"{found.float_top1:.1f}",
        f"{found.drop:.1f}",
        f"{found.sqnr_db:.1f}",
        f"{report.bytes / 1e6:.3f}",
        f"{report.float_bytes / 1e6:.2f}",
        f"{report.mean_weight_bits:.2f}",
        f"{seconds:.1f}",
    )


def joined(lines: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The lines of several seeds as one: of numbers that differ, the least and the largest."""
    cells = []
    for column in zip(*lines, strict=True):
        if len(set(column)) == 1:
            cells.append(column[0])
        else:
            numbers = sorted(column, key=float)
            cells.append(f"{numbers[0]} to {numbers[-1]}")
    return tuple(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {**networks(), **folded_twins()}
    parser.add_argument("--only", action="append", choices=list(known), help="a network; may be repeated")
    parser.add_argument("--recipe", action="append", help="only rows of this recipe; may be repeated")
    parser.add_argument("--setting", action="append", help="only rows of these weights, such as 2/6; may be repeated")
    parser.add_argument("--seeds", type=int, default=1, help="measure each row with this many seeds")
    args = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for row in ROWS:
        if row.network not in known or (args.only and row.network not in args.only):
            continue
        if args.recipe and row.recipe not in args.recipe:
            continue
        if args.setting and (row.weights or "default") not in args.setting:
            continue
        seeds = range(args.seeds if row.recipe in SEEDED else 1)
        print("| " + " | ".join(joined([measure(known[row.network], row, seed) for seed in seeds])) + " |", flush=True)


if __name__ == "__main__":
    main()
