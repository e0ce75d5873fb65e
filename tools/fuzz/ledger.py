"""What became of each case of a run, a line a case, so that a run goes on where it was stopped; and the table of runs.

A ledger is a file of JSON lines: the grammar and the seed, then a row a case with the commit that it was tried at.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from tools.fuzz.trial import GOOD, Case, Outcome

ROOT = pathlib.Path(__file__).parents[2]
DEFECT = "defect"


@dataclasses.dataclass
class Ledger:
    """The file of one grammar and seed, and the last row of each case by its number."""

    path: pathlib.Path
    grammar: str
    seed: int
    rows: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def left(self, numbers: Sequence[int]) -> list[int]:
        """The numbers without a row, in front of them those whose row is a defect: it may have been fixed since."""
        failed = [number for number in numbers if self.rows.get(number, {}).get("outcome") == DEFECT]
        return failed + [number for number in numbers if number not in self.rows]

    def add(self, number: int, case: Case, outcome: Outcome, commit: str) -> None:
        """Append a row."""
        kind = outcome.outcome if outcome.outcome in GOOD else DEFECT
        row = {"number": number, "kind": case.kind, "outcome": kind, "seconds": round(outcome.seconds, 3)}
        row |= {"commit": commit, **({"place": outcome.place} if kind == DEFECT else {})}
        self.rows[number] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def opened(path: pathlib.Path, grammar: str, seed: int) -> Ledger:
    """The ledger of a file, which is begun where there is none; raises ValueError where it is that of other cases."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"grammar": grammar, "seed": seed}) + "\n", encoding="utf-8")
    elif not path.read_bytes().endswith(b"\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")  # behind the line that a killed process left half written
    held = read(path)
    if (held.grammar, held.seed) != (grammar, seed):
        raise ValueError(f"{path}: holds seed {held.seed} of {held.grammar}; give these cases a file of their own")
    return held


def read(path: pathlib.Path) -> Ledger:
    """The last row of each case. A line that a killed process left half written is none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = json.loads(lines[0])
    rows: dict[int, dict[str, Any]] = {}
    for line in lines[1:]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows.pop(row["number"], None)  # rows stand in the order in which they came
        rows[row["number"]] = row
    return Ledger(path, head["grammar"], head["seed"], rows)


def commit() -> str:
    """The commit of this checkout, with a plus where files differ from it; "unknown" without git."""
    try:
        asked = ("rev-parse", "--short=7", "HEAD"), ("status", "--porcelain", "--untracked-files=no")
        head, changed = (
            subprocess.run(["git", *given], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for given in asked
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+" if changed else head


def table(paths: Sequence[pathlib.Path]) -> Iterator[str]:
    """A row for each run, as Markdown: what its cases came to, and the commits of the first and the last of them."""
    yield f"| grammar | seed | at commit | cases | {' | '.join(GOOD)} | {DEFECT} | processor s a case |"
    yield "|---" * (len(GOOD) + 6) + "|"
    for path in paths:
        held = read(path)
        rows = list(held.rows.values())
        counts = collections.Counter(row["outcome"] for row in rows)
        commits = list(dict.fromkeys(row["commit"] for row in rows))
        stated = commits[0] if len(commits) == 1 else f"{commits[0]} to {commits[-1]}" if commits else ""
        found = [f"{counts[outcome]:,}" for outcome in (*GOOD, DEFECT)]
        seconds = f"{sum(row['seconds'] for row in rows) / max(len(rows), 1):.2f}"
        yield f"| {' | '.join([held.grammar, str(held.seed), stated, f'{len(rows):,}', *found, seconds])} |"
