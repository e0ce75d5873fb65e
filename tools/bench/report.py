#!/usr/bin/env python3
"""What the HTML page adds to a run of quantize, beside the comparison of layers that it shows.

    python -m tools.bench.report MODEL... [--pairs 5] [--threads 1]

Each model is quantized with --layers and with --report in turns, each in a process of its own. Median seconds of the
processor and of the clock, what the page takes more (the median of the pairs' differences), and bytes of the page.
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HEADER = "| model | processor s, --layers | --report | more | clock s, --layers | --report | more | page, kB |"


def taken(model: str, folder: pathlib.Path, *options: str) -> tuple[float, float]:
    """Seconds of the processor and of the clock of one run."""
    command = [sys.executable, "-m", "dfmpc_onnx", "quantize", model, "-o", str(folder / "out.onnx"), *options]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended - began


def row(model: str, pairs: int, threads: str) -> str:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        page = folder / "page.html"
        found = [
            (
                taken(model, folder, "--threads", threads, "--layers"),
                taken(model, folder, "--threads", threads, "--report", str(page)),
            )
            for _ in range(pairs)
        ]
        size = page.stat().st_size
    cells = []
    for which in (0, 1):
        cells += [statistics.median(pair[run][which] for pair in found) for run in (0, 1)]
        cells.append(statistics.median(pair[1][which] - pair[0][which] for pair in found))
    return f"| {pathlib.Path(model).name} | {' | '.join(f'{cell:.2f}' for cell in cells)} | {size / 1000:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", default="1")
    args = parser.parse_args()
    print(f"{HEADER}\n|{'---|' * (HEADER.count('|') - 1)}")
    for model in args.models:
        print(row(model, args.pairs, args.threads), flush=True)


if __name__ == "__main__":
    main()
