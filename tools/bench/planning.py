#!/usr/bin/env python3
"""Processor time and memory of `plan`, each run a process of its own with one thread.

    python -m tools.bench.planning [--only NETWORK]... [--pareto 12] > docs/tables/planning.md
    python -m tools.bench.planning --knapsack

Networks: those of `tools.experiments.measure` that are at hand, and `resnet50`, which has random weights. Each is
planned for `--max-size 18%`, about what 4 bits everywhere take, once alone and once with a front; then for 15 % from
the table of that plan. `--knapsack` prints the seconds of the front of a knapsack by itself, by the number of layers.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import onnx

import dfmpc_onnx
from dfmpc_onnx.numerics.bit_budget import BudgetFront, WeightOptions
from tools.bench.conversion import peak_memory
from tools.bench.networks import resnet
from tools.experiments.measure import asked

NETWORKS = ("resnet20", "resnet56", "mobilenetv2", "resnet50")
SIZE, SMALLER = "18%", "15%"  # of the float file
HEADER = ("network", "layers", "seconds", "with a front", "from the table", "peak MB")
LAYERS = (25, 50, 100, 200)
BITS = (1.6, 2, 3, 4, 5, 6, 7, 8, 32)


def network(layers: int) -> list[WeightOptions]:
    """Layers of 1,000 to 1,000,000 weights at the widths that storage has, the last in float."""
    generator, widths = np.random.default_rng(layers), np.array(BITS)
    sizes, gains = 10 ** generator.uniform(3, 6, layers), 10 ** generator.uniform(-3, 0, layers)
    return [
        WeightOptions((size * widths / 8).astype(np.int64), np.append(gain * 4.0 ** -widths[:-1], 0.0), widths == 32)
        for size, gain in zip(sizes, gains, strict=True)
    ]


def knapsacks() -> None:
    """Print the seconds of each front."""
    print("| layers | seconds |\n|---|---|")
    for layers in LAYERS:
        items = network(layers)
        began = time.perf_counter()
        BudgetFront(items)
        print(f"| {layers} | {time.perf_counter() - began:.2f} |", flush=True)


def one(model: str, preprocess: str, pareto: int) -> None:
    """Plan once in this process and print the figures as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        plan = pathlib.Path(folder) / "plan.toml"
        began = time.process_time()
        found = dfmpc_onnx.plan(model, plan, max_size=SIZE, pareto=pareto, preprocess=preprocess, threads=1)
        seconds, peak = time.process_time() - began, peak_memory()
        began = time.process_time()
        dfmpc_onnx.plan(None, table_from=plan, max_size=SMALLER)
        again = time.process_time() - began
    print(json.dumps({"seconds": seconds, "again": again, "peak": peak, "layers": len(found.record.layers)}))


def run(model: str, preprocess: str, pareto: int) -> dict[str, float]:
    """The figures of `one`, in a process of its own."""
    command = [sys.executable, "-m", "tools.bench.planning", "--one", model, "--preprocess", preprocess]
    done = subprocess.run([*command, "--pareto", str(pareto)], check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def planned(label: str, model: str, preprocess: str, pareto: int) -> None:
    """Print the line of a network."""
    alone, front = (run(model, preprocess, points) for points in (0, pareto))
    figures = (f"{alone['layers']:.0f}", *(f"{s:.1f}" for s in (alone["seconds"], front["seconds"], front["again"])))
    print("| " + " | ".join((label, *figures, f"{front['peak'] / 1e6:.0f}")) + " |", flush=True)


def plans(names: Sequence[str], pareto: int) -> None:
    """Print the table."""
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for found in asked(name for name in names if name != "resnet50"):
        planned(found.label, str(found.model), found.preprocess, pareto)
    if "resnet50" in names:
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder) / "resnet50.onnx"
            onnx.save(resnet(50), model)
            planned("ResNet-50, random weights", str(model), "imagenet", pareto)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=NETWORKS, help="a network; may be repeated")
    parser.add_argument("--pareto", type=int, default=12, help="points of the front")
    parser.add_argument("--knapsack", action="store_true", help="time the knapsack alone")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--preprocess", default="imagenet", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.knapsack:
        knapsacks()
    elif args.one:
        one(args.one, args.preprocess, args.pareto)
    else:
        plans(args.only or NETWORKS, args.pareto)


if __name__ == "__main__":
    main()
