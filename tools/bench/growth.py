#!/usr/bin/env python3
"""How seconds and peak memory of a conversion grow with the number of weights, from 0.3 to 100 million.

    python -m tools.bench.growth [--recipe paper]... [--most 100] [--runs 1]

Networks of ResNet-18's and ResNet-50's shape with other widths and random weights, each conversion in a process of its
own, without the closing check. `--most` leaves out networks of more million weights.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import tempfile

import onnx

from tools.bench.conversion import run
from tools.bench.networks import resnet

SHAPES = ((18, 0.125), (18, 0.25), (18, 0.5), (18, 1.0), (50, 1.0), (50, 2.0))
HEADER = ("million weights", "network", "recipe", "s", "s of processor", "peak MB", "of the model", "ms a million")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--most", type=float, default=200.0)
    parser.add_argument("--least", type=float, default=0.0)
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for depth, width in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder) / "model.onnx"
            onnx.save(resnet(depth, width), model)
            size = model.stat().st_size
            if not 4e6 * args.least <= size <= 4e6 * args.most:
                continue
            for recipe in args.recipe or ["paper", "per-channel", "int8", "mixed"]:
                runs = [run(str(model), "--one", recipe) for _ in range(args.runs)]
                seconds, cpu, peak = (statistics.median(r[key] for r in runs) for key in ("seconds", "cpu", "peak"))
                weights = runs[0]["weights"] / 1e6
                cells = (f"{weights:.1f}", f"ResNet-{depth}, width {width:g}", recipe, f"{seconds:.2f}", f"{cpu:.2f}")
                rest = (f"{peak / 1e6:.0f}", f"{peak / size:.1f}", f"{1000 * cpu / weights:.0f}")
                print("| " + " | ".join((*cells, *rest)) + " |", flush=True)


if __name__ == "__main__":
    main()
