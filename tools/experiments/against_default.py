#!/usr/bin/env python3
"""Files planned at the bytes of an earlier default, and how many bytes its SQNR takes now.

    python -m tools.experiments.against_default --against COMMIT [--only NETWORK]... [--seeds 2] [--parts 1 0.92]

The commit is checked out into a git worktree of its own, which is taken away again, and its default recipe is run by
this Python and its packages. Of each network files are then written with `--max-size`, at parts of the bytes of that
file. SQNR and agreement of all of them are measured with labelled images that take no part in making them; figures are
means over the seeds. The bytes that the earlier SQNR takes now are interpolated between parts, in the logarithm. The
last rows are means over the networks, of agreement the least. `--rows` keeps what is measured, and goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

import dfmpc_onnx
from tools.bench.run import ONE_THREAD, worktree
from tools.experiments.measure import Network, asked, networks

PARTS = (1.0, 0.92)  # of the bytes of the earlier default
HEADER = ("network", "bytes before", "SQNR dB before", "agreement % before")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A file, measured. sqnr: in dB. agreement: in per cent of the images."""

    bytes: float
    sqnr: float
    agreement: float


@dataclasses.dataclass(frozen=True)
class Row:
    """A network's files: that of the earlier default, and by part of its bytes those of today."""

    network: str
    before: Outcome
    now: Mapping[float, Outcome]

    def gain(self, part: float) -> float:
        """In dB, at a part of the bytes."""
        return self.now[part].sqnr - self.before.sqnr

    @property
    def bytes_at_same(self) -> float:
        """Bytes that the earlier SQNR takes now, as a share of those it took: on the line through the first two parts
        in the logarithm of bytes. NaN where fewer bytes give no lower SQNR."""
        (a, first), (b, second), *_ = self.now.items()
        slope = (first.sqnr - second.sqnr) / math.log(a / b)
        return a * math.exp(-(first.sqnr - self.before.sqnr) / slope) if slope > 0 else math.nan


def mean_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Each figure's mean."""
    return Outcome(*map(statistics.fmean, zip(*map(dataclasses.astuple, outcomes), strict=True)))


def by_tree(tree: pathlib.Path, network: Network, seed: int, out: pathlib.Path) -> None:
    """Write the file of the default recipe of a tree, by its command line, in a process of its own."""
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'passes'}"}
    command = [sys.executable, "-m", "dfmpc_onnx", "quantize", str(network.model), "-o", str(out)]
    command += ["--preprocess", network.preprocess, "--seed", str(seed)]
    done = subprocess.run(command, cwd=out.parent, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{network.label} by {tree}: the conversion failed: {done.stderr.strip()[-300:]}")


def by_size(network: Network, seed: int, size: int, out: pathlib.Path) -> None:
    """Write a file of at most so many bytes."""
    dfmpc_onnx.quantize(str(network.model), out, max_size=size, preprocess=network.preprocess, seed=seed, check=False)


def measured(network: Network, write: Callable[[pathlib.Path], None]) -> Outcome:
    """What a file is that a function writes."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        write(out)
        found = dfmpc_onnx.verify(str(network.model), out, images=network.images).providers[0].fidelity
        assert found.agreement is not None  # classifiers have one
        return Outcome(out.stat().st_size, found.sqnr_db, found.agreement)


class Measurements:
    """Outcomes by what they are of; those in a file of JSON lines are not measured again."""

    def __init__(self, path: pathlib.Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self._found = {tuple(key): Outcome(**outcome) for key, outcome in map(json.loads, lines)}

    def get(self, key: tuple[str, ...], measure: Callable[[], Outcome]) -> Outcome:
        if key not in self._found:
            self._found[key] = measure()
            if self._path is not None:
                with self._path.open("a") as file:
                    file.write(json.dumps([key, dataclasses.asdict(self._found[key])]) + "\n")
        return self._found[key]


def row_of(
    network: Network, tree: pathlib.Path, commit: str, parts: Sequence[float], seeds: int, kept: Measurements
) -> Row:
    """The files of one network, each seed at the bytes of its own."""
    before: list[Outcome] = []
    now: dict[float, list[Outcome]] = {part: [] for part in parts}
    for seed in range(seeds):
        key = network.model.stem, str(seed)
        write = functools.partial(by_tree, tree, network, seed)
        earlier = kept.get((*key, commit), functools.partial(measured, network, write))
        before.append(earlier)
        for part in parts:
            write = functools.partial(by_size, network, seed, int(part * earlier.bytes))
            now[part].append(kept.get((*key, f"{part:g}"), functools.partial(measured, network, write)))
    return Row(network.label, mean_of(before), {part: mean_of(found) for part, found in now.items()})


def cells(row: Row) -> tuple[str, ...]:
    """A line of the table."""
    before, found = row.before, []
    for part, now in row.now.items():
        found += [f"{now.bytes / before.bytes:.3f}", f"{now.sqnr:.1f} ({row.gain(part):+.1f})", f"{now.agreement:.1f}"]
    same = "" if math.isnan(row.bytes_at_same) else f"{row.bytes_at_same:.3f}"
    return row.network, f"{before.bytes:.0f}", f"{before.sqnr:.1f}", f"{before.agreement:.1f}", *found, same


def summary(rows: Sequence[Row]) -> tuple[str, ...]:
    """The last line: means over the networks, and of agreement the change that is worst."""
    found: list[str] = []
    for part in rows[0].now:
        gain = statistics.fmean(row.gain(part) for row in rows)
        size = statistics.fmean(row.now[part].bytes / row.before.bytes for row in rows)
        worst = min(row.now[part].agreement - row.before.agreement for row in rows)
        found += [f"{size:.3f}", f"({gain:+.2f})", f"{worst:+.1f} at worst"]
    same = [row.bytes_at_same for row in rows if not math.isnan(row.bytes_at_same)]
    return "mean", "", "", "", *found, f"{statistics.fmean(same):.3f}" if same else ""


def header(parts: Sequence[float]) -> tuple[str, ...]:
    found: list[str] = []
    for part in parts:
        found += [f"bytes, of {part:g}", "SQNR dB", "agreement %"]
    return *HEADER, *found, "bytes at the SQNR before"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True, metavar="COMMIT")
    parser.add_argument("--only", action="append", choices=list(networks()), help="a network; may be repeated")
    parser.add_argument("--parts", type=float, nargs="+", default=PARTS, help="of the bytes before; two or more")
    parser.add_argument("--seeds", type=int, default=2, help="measure each file with this many seeds")
    parser.add_argument("--rows", type=pathlib.Path, metavar="FILE", help="JSON lines of what is measured")
    args = parser.parse_args(arguments)
    if len(args.parts) < 2:
        parser.error("--parts: give two or more")
    print("| " + " | ".join(header(args.parts)) + " |\n|" + "---|" * len(header(args.parts)))
    rows, kept = [], Measurements(args.rows)
    with worktree(args.against) as tree:
        for network in asked(args.only or networks()):
            rows.append(row_of(network, tree, args.against, args.parts, args.seeds, kept))
            print("| " + " | ".join(cells(rows[-1])) + " |", flush=True)
    print("| " + " | ".join(summary(rows)) + " |")


if __name__ == "__main__":
    main()
