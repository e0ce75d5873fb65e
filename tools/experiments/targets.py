#!/usr/bin/env python3
"""What each target's file declares, and how often it names the class that the float network names.

    python -m tools.experiments.targets [--only NETWORK]... [--target NAME]... [--recipe mixed] [--images TEST.npz]

The networks of tools/experiments/measure.py and their folded twins, quantized once for each target and run by
onnxruntime's CPU provider. A bold row falls short: onnx.checker with full_check finds a fault, IR or opset are higher
than the file needs, or the agreement with the float network is further below the `cpu` target's than 0.5 points (3
for `tensorrt`, whose zero points are 0, 1 for `vitisai`). Exits 1 where there is one. `--images` takes all CIFAR-10
test images (tools/data/cifar10.py) for the networks of CIFAR-10: of 500 images 0.5 points are two or three.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import tempfile

import onnx

import dfmpc_onnx
from dfmpc_onnx.pipeline.targets import TARGETS
from tools.experiments.measure import Network, folded_twins, networks

HEADER = ("network", "target", "checker", "opset", "IR", "onnxruntime", "agreement %", "below cpu's", "drop", "SQNR dB")
ALLOWED = {"tensorrt": 3.0, "vitisai": 1.0}


@dataclasses.dataclass(frozen=True)
class Row:
    """One target's file: what it declares, and how close it is to the float network."""

    target: str
    fault: str
    opset: int
    ir: int
    oldest: str
    agreement: float
    drop: float
    sqnr: float


def measure(network: Network, target: str, recipe: str, weights: str | None, seed: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        made = dfmpc_onnx.quantize(
            str(network.model),
            out,
            recipe,
            weights=weights,
            target=target,
            preprocess=network.preprocess,
            seed=seed,
            check=False,
        )
        found = dfmpc_onnx.verify(str(network.model), out, images=network.images).providers[0].fidelity
        fault = fault_of(out)
    opset = made.model.opset_import[0].version
    ir, oldest = made.model.ir_version, made.report.oldest_onnxruntime
    return Row(target, fault, opset, ir, oldest, found.agreement, found.drop or 0.0, found.sqnr_db)


def fault_of(file: pathlib.Path) -> str:
    """What is wrong with a file as ONNX; empty where nothing is."""
    model = onnx.load(file)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        return str(error).splitlines()[0][:80]
    if model.ir_version != onnx.helper.find_min_ir_version_for(model.opset_import):
        return "IR higher than its opset needs"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {**networks(), **folded_twins()}
    parser.add_argument("--only", action="append", choices=list(known), help="a network; may be repeated")
    parser.add_argument("--target", action="append", choices=[t for t in TARGETS if t != "cpu"])
    parser.add_argument("--recipe", default="mixed")
    parser.add_argument("--weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=pathlib.Path, help="an .npz with more CIFAR-10 images")
    args = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    failed = False
    for short, network in known.items():
        if args.only and short not in args.only:
            continue
        if args.images and network.images.name.startswith("cifar10"):
            network = dataclasses.replace(network, images=args.images)
        base: Row | None = None
        for target in ("cpu", *(args.target or [t for t in TARGETS if t != "cpu"])):
            row = measure(network, target, args.recipe, args.weights, args.seed)
            base = base or row
            below = round(base.agreement - row.agreement, 2)
            wrong = bool(row.fault) or below > ALLOWED.get(target, 0.5)
            failed |= wrong
            cells = (
                network.label,
                f"**{target}**" if wrong else target,
                row.fault or "passes",
                str(row.opset),
                str(row.ir),
                row.oldest,
                f"{row.agreement:.1f}",
                f"{below:.1f}",
                f"{row.drop:.1f}",
                f"{row.sqnr:.1f}",
            )
            print("| " + " | ".join(cells) + " |", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
