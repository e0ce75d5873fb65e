#!/usr/bin/env python3
"""What several workers gain over one, and whether a batch that is killed comes to the same rows and bytes.

    python -m tools.bench.batch SOURCE... [--recipe int8] [--workers 1 --workers 2]
    python -m tools.bench.batch SOURCE... --kills 3 [--seed 1]

Each run has a folder of its own, so nothing is kept from another. With --kills a second run is killed so many times by
signal 9, at seeded moments within the time that the first one took, and then resumed. Exits 1 where it differs.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from dfmpc_onnx.jobs.ledger import read_rows

HEADER = ("workers", "jobs", "s", "of one worker's", "load before")


def command(sources: Sequence[str], folder: pathlib.Path, recipe: str, workers: int) -> list[str]:
    words = ["batch", *sources, "-o", str(folder), "--recipe", recipe, "--workers", str(workers), "-q"]
    return [sys.executable, "-m", "dfmpc_onnx", *words]


def seconds(words: Sequence[str]) -> float:
    """How long a batch takes; raises CalledProcessError where it does not come to its end."""
    began = time.perf_counter()
    ended = subprocess.run(words, check=False)
    if ended.returncode not in (0, 1, 5):
        raise subprocess.CalledProcessError(ended.returncode, words)
    return time.perf_counter() - began


def made(folder: pathlib.Path) -> tuple[object, object]:
    """The rows of a run but for times, and the bytes of its models."""
    rows = {name: row.made for name, row in read_rows(folder).items()}
    return rows, {path.name: path.read_bytes() for path in (folder / "models").iterdir()}


def speed(sources: Sequence[str], scratch: pathlib.Path, recipe: str, workers: Sequence[int]) -> int:
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    first = 0.0
    for count in workers:
        folder, load = scratch / f"workers{count}", os.getloadavg()[0]
        took = seconds(command(sources, folder, recipe, count))
        first = first or took
        cells = (count, len(read_rows(folder)), f"{took:.1f}", f"{took / first:.2f}", f"{load:.1f}")
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return 0


def kills(sources: Sequence[str], scratch: pathlib.Path, recipe: str, count: int, seed: int) -> int:
    moments = random.Random(seed)
    took = seconds(command(sources, scratch / "undisturbed", recipe, 2))
    for _ in range(count):
        moment = moments.uniform(0, took)
        with subprocess.Popen(command(sources, scratch / "killed", recipe, 2)) as process:
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
        results = scratch / "killed" / "results.jsonl"
        lines = len(results.read_bytes().splitlines()) if results.is_file() else 0
        print(f"killed after {moment:.1f} s, {lines} rows are there", flush=True)
    seconds(command(sources, scratch / "killed", recipe, 2))
    same = made(scratch / "undisturbed") == made(scratch / "killed")
    rows = read_rows(scratch / "killed")
    print(f"{len(rows)} jobs, {sum(row.written for row in rows.values())} written; rows and bytes {same=}")
    return 0 if same else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="as of dfmpc-onnx batch")
    parser.add_argument("--recipe", default="int8")
    parser.add_argument("--workers", type=int, action="append")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        if args.kills:
            return kills(args.sources, scratch, args.recipe, args.kills, args.seed)
        return speed(args.sources, scratch, args.recipe, args.workers or [1, 2])


if __name__ == "__main__":
    sys.exit(main())
