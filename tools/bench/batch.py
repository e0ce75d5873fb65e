#!/usr/bin/env python3
"""What several workers gain over one, and whether a batch that is killed comes to the same rows and bytes.

    python -m tools.bench.batch SOURCE... [--recipe int8] [--workers 1 --workers 2]
    python -m tools.bench.batch SOURCE... --kills 3 [--seed 1]

Each run has a folder of its own, so nothing is kept from another. With --kills a second run is killed so many times by
signal 9, at seeded moments within the time that the first one took, and then resumed. Exits 1 where it differs. The
table is on standard output. --keep puts the runs where they can be looked at.
"""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from dfmpc_onnx.jobs.ledger import read_rows

HEADER = ("workers", "jobs", "s", "of one worker's", "load before")
KILL_HEADER = ("run", "killed after", "rows", "written", "not written, by code", "rows and files that differ")


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


def made(folder: pathlib.Path) -> tuple[dict[str, dict[str, object]], dict[str, bytes]]:
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
    whole, killed = scratch / "undisturbed", scratch / "killed"
    took = seconds(command(sources, whole, recipe, 2))
    lost = []
    for _ in range(count):
        moment = moments.uniform(0, took)
        with subprocess.Popen(command(sources, killed, recipe, 2)) as process:
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
        rows = len(read_rows(killed)) if (killed / "results.jsonl").is_file() else 0
        lost.append(f"{moment:.0f} s ({rows} rows)")
        print(f"killed after {lost[-1]}", file=sys.stderr, flush=True)
    seconds(command(sources, killed, recipe, 2))
    print("\n".join(table(whole, killed, lost)))
    return 1 if differences(whole, killed) else 0


def differences(whole: pathlib.Path, other: pathlib.Path) -> list[str]:
    """What two runs made otherwise: rows with the columns that differ, and files."""
    (rows, files), (other_rows, other_files) = made(whole), made(other)
    found = []
    for name in sorted({*rows, *other_rows}):
        here, there = rows.get(name, {}), other_rows.get(name, {})
        columns = [column for column in {**here, **there} if here.get(column) != there.get(column)]
        if columns:
            found.append(f"{name}: {', '.join(columns)}")
    return found + [name for name in sorted({*files, *other_files}) if files.get(name) != other_files.get(name)]


def table(whole: pathlib.Path, killed: pathlib.Path, lost: Sequence[str]) -> Iterator[str]:
    """Both runs as Markdown. lost: when the second one was killed, and how many rows were there."""
    yield f"| {' | '.join(KILL_HEADER)} |\n|{'---|' * len(KILL_HEADER)}"
    other = differences(whole, killed)
    for run, folder, at in (("undisturbed", whole, ""), ("killed and resumed", killed, ", ".join(lost))):
        rows = read_rows(folder).values()
        codes = collections.Counter(row.code for row in rows if not row.written)
        why = ", ".join(f"{n} x {code}" for code, n in codes.most_common())
        differing = (", ".join(other) or "none") if folder == killed else ""
        yield f"| {run} | {at} | {len(rows)} | {sum(row.written for row in rows)} | {why} | {differing} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="as of dfmpc-onnx batch")
    parser.add_argument("--recipe", default="int8")
    parser.add_argument("--workers", type=int, action="append")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path, metavar="FOLDER", help="for the runs; a new one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = args.keep or pathlib.Path(folder)
        if args.kills:
            return kills(args.sources, scratch, args.recipe, args.kills, args.seed)
        return speed(args.sources, scratch, args.recipe, args.workers or [1, 2])


if __name__ == "__main__":
    sys.exit(main())
