#!/usr/bin/env python3
"""Seconds and peak memory of a conversion, the closing check not included; its split by pass, and against a floor.

    python -m tools.bench.conversion [MODEL.onnx] [--recipe paper]... [--runs 5]

Without a model a ResNet-50 with random weights (25.5M) is made. Each run is a process of its own; medians are
printed, and the peak memory as a multiple of the model's size, with and without what the imports take. The floor is
what numpy takes, in runs that alternate with these, for the least that has to be done to the same weights: one copy,
dot products a channel, rounding (ternary in low layers, 6 bits elsewhere) and packing; and onnx to load and save the
same model. `paper` may take ten times the former, and the latter once. Exits 1 where it takes more.
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
from collections.abc import Callable

BOUND = 10.0  # times the floor, by `paper`


def peak_memory() -> int:
    """Bytes; of this program alone, where the system tells (ru_maxrss counts the parent's before the exec too)."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one(model: str, recipe: str) -> None:
    """Convert once in this process and print the figures as JSON."""
    import dfmpc_onnx.api.quantize

    empty = peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        began, cpu = time.perf_counter(), time.process_time()
        result = dfmpc_onnx.quantize(model, f"{folder}/out.onnx", recipe, preprocess="imagenet", check=False)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak, report = peak_memory(), result.report
    passes = {p.name: p.seconds for p in report.passes}
    low = [layer.name for layer in report.layers if layer.ternary]
    figures = {"seconds": seconds, "cpu": cpu, "peak": peak, "imports": empty, "passes": passes}
    weights = sum(layer.weights for layer in report.layers)
    print(json.dumps({**figures, "bytes": report.bytes, "weights": weights, "low": low}))


def floor(model: str, low: set[str]) -> None:
    """Do the least there is to do to the weights of a model, and print the seconds of each part as JSON."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    seconds: dict[str, float] = {}

    def timed(part: str, work: Callable[[], object]) -> object:
        began = time.perf_counter()
        made = work()
        seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - began
        return made

    def rounded(rows: np.ndarray) -> np.ndarray:
        scale = np.abs(rows).max() / np.float32(31)
        codes = rows / scale
        np.rint(codes, out=codes)
        return np.clip(codes, -32, 31, out=codes).astype(np.int8)

    def ternary(rows: np.ndarray) -> np.ndarray:
        magnitude = np.abs(rows)
        above = magnitude > np.float32(0.7) * magnitude.mean()
        magnitude[above].mean()
        return np.sign(rows).astype(np.int8) * above

    def packed(codes: np.ndarray, step: int) -> bytes:
        flat = codes.reshape(-1)
        flat = np.pad(flat, (0, -len(flat) % step)).view(np.uint8)
        made = np.zeros(len(flat) // step, np.uint8)
        for lane in range(step):
            made |= flat[lane::step] << np.uint8(lane * 8 // step)
        return made.tobytes()

    loaded = timed("load and save", lambda: onnx.load(model))
    initializers = {t.name: t for t in loaded.graph.initializer}
    weights = {n.name: initializers.get(n.input[1]) for n in loaded.graph.node if n.op_type in ("Conv", "Gemm")}
    for name, tensor in weights.items():
        if tensor is None:
            continue
        raw = numpy_helper.to_array(tensor)
        rows = timed("copy", lambda raw=raw: raw.reshape(len(raw), -1).copy())
        timed("dot products", lambda rows=rows: np.einsum("oi,oi->o", rows, rows))
        codes = timed("rounding", lambda rows=rows, name=name: (ternary if name in low else rounded)(rows))
        timed("packing", lambda codes=codes, name=name: packed(codes, 4 if name in low else 2))
    with tempfile.TemporaryDirectory() as folder:
        timed("load and save", lambda: onnx.save(loaded, f"{folder}/out.onnx"))
    print(json.dumps(seconds))


def run(*arguments: str) -> dict:
    done = subprocess.run([sys.executable, "-m", "tools.bench.conversion", *arguments], check=True, capture_output=True)
    return json.loads(done.stdout.splitlines()[-1])


def median(rows: list[dict], *keys: str) -> float:
    for key in keys:
        rows = [row[key] for row in rows]
    return statistics.median(rows)


def compare(model: str, recipe: str, count: int) -> bool:
    """Print how long a conversion takes; returns whether `paper` takes more than it may."""
    runs, floors = [], []
    for _ in range(count):
        runs.append(run(model, "--one", recipe))
        floors.append(run(model, "--floor", json.dumps(runs[-1]["low"])))
    seconds, peak, size = median(runs, "seconds"), median(runs, "peak"), pathlib.Path(model).stat().st_size
    own = statistics.median(r["peak"] - r["imports"] for r in runs)
    print(
        f"\n{recipe}: {seconds:.2f} s ({median(runs, 'cpu'):.2f} s of processor); peak {peak / 1e6:.0f} MB = "
        f"{peak / size:.1f}x the model ({own / size:.1f}x without imports); {runs[0]['bytes'] / 1e6:.1f} MB written"
    )
    for name in runs[0]["passes"]:
        print(f"  {name:24s} {median(runs, 'passes', name):7.3f} s")
    passes = sum(median(runs, "passes", name) for name in runs[0]["passes"])
    print(f"  {'load, check and save':24s} {seconds - passes:7.3f} s")
    parts = {part: median(floors, part) for part in floors[0]}
    files = parts.pop("load and save")
    least = sum(parts.values())
    print("  floor: " + ", ".join(f"{part} {1000 * spent:.0f} ms" for part, spent in parts.items()), end="; ")
    times = statistics.median(
        (r["seconds"] - f["load and save"]) / sum(v for part, v in f.items() if part != "load and save")
        for r, f in zip(runs, floors, strict=True)
    )
    print(f"together {1000 * least:.0f} ms; onnx loads and saves in {1000 * files:.0f} ms")
    print(f"  {times:.1f} times the floor beyond load and save, {passes / least:.1f} times in passes")
    return recipe == "paper" and times > BOUND


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--floor", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.model, args.one)
        return
    if args.floor:
        floor(args.model, set(json.loads(args.floor)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if model is None:
            import onnx

            from tools.bench.networks import resnet

            model = f"{folder}/resnet50.onnx"
            onnx.save(resnet(50), model)
        size = pathlib.Path(model).stat().st_size
        print(f"{pathlib.Path(model).name}: {size / 1e6:.1f} MB, median of {args.runs} runs")
        over = [compare(model, recipe, args.runs) for recipe in args.recipe or ["paper", "closed-form", "int8"]]
    sys.exit(1 if any(over) else 0)


if __name__ == "__main__":
    main()
