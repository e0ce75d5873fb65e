#!/usr/bin/env python3
"""Seconds and peak memory of a conversion, load and save included, the closing check not; and its split by pass.

    python tools/bench/conversion.py [MODEL.onnx] [--recipe paper]... [--runs 5]

Without a model a ResNet-50 with random weights (25.5M) is made. Each run is a process of its own; medians are
printed, and the peak memory as a multiple of the model's size, with and without what the imports take.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time


def peak_memory() -> int:
    """Bytes; of this program alone, where the system tells (ru_maxrss counts the parent's before the exec too)."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one(model: str, recipe: str) -> None:
    """Convert once in this process and print the figures as JSON."""
    import dfmpc_onnx.api

    empty = peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = dfmpc_onnx.api.quantize(model, f"{folder}/out.onnx", recipe, check=False)
        seconds = time.perf_counter() - began
    peak = peak_memory()
    passes = {p.name: p.seconds for p in result.report.passes}
    figures = {"seconds": seconds, "peak": peak, "imports": empty, "passes": passes, "bytes": result.report.bytes}
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.model, args.one)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if model is None:
            import onnx
            from networks import resnet

            model = f"{folder}/resnet50.onnx"
            onnx.save(resnet(50), model)
        size = pathlib.Path(model).stat().st_size
        print(f"{pathlib.Path(model).name}: {size / 1e6:.1f} MB, median of {args.runs} runs")
        for recipe in args.recipe or ["paper", "closed-form", "int8"]:
            command = [sys.executable, __file__, model, "--one", recipe]
            runs = [
                json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(args.runs)
            ]
            seconds = statistics.median(r["seconds"] for r in runs)
            peak = statistics.median(r["peak"] for r in runs)
            own = statistics.median(r["peak"] - r["imports"] for r in runs)
            print(
                f"\n{recipe}: {seconds:.2f} s; peak {peak / 1e6:.0f} MB = {peak / size:.1f}x the model "
                f"({own / size:.1f}x without imports); {runs[0]['bytes'] / 1e6:.1f} MB written"
            )
            for name in runs[0]["passes"]:
                print(f"  {name:24s} {statistics.median(r['passes'][name] for r in runs):7.3f} s")
            rest = seconds - sum(statistics.median(r["passes"][n] for r in runs) for n in runs[0]["passes"])
            print(f"  {'load, check and save':24s} {rest:7.3f} s")


if __name__ == "__main__":
    main()
