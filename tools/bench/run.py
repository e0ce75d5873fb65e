#!/usr/bin/env python3
"""What a change of the code does to the cost of a conversion: a fixed list of networks, in pairs with a named commit.

    python -m tools.bench.run --against COMMIT [--only SUBSTRING] [--runs 3] [--recipe mixed]

The commit is checked out into a git worktree of its own, which is taken away again; both are run by this Python and its
packages, one after the other, with one thread and on one core. What counts is the processor's time of the whole command
(user and system), closing check and imports included, and what it takes of memory at most; beside them stand bytes and
SQNR, which a change for speed must leave. Of several runs the median of the pairs' ratios is printed. The table goes to
standard output, all figures into benchmarks/COMMIT.json.

The list: what models/ holds, networks that others have trained where the environment variable DFMPC_DATA names their
folder, and a ResNet-50 with random weights.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).parents[2]
OWN = ("resnet20_cifar10", "mobilenetv3_cifar10", "efficientnet_cifar10.folded", "densenet_cifar10")
TRAINED = (
    "imagenet_mobilenet_v2",
    "cifar10_resnet56",
    "linzaer_version-RFB-320",
    "yunet_n_320",
    "ch_PP-OCRv4_det_infer",
)
MADE = "resnet50_random"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one conversion. seconds: of the processor. peak: bytes of memory. sqnr: of the first output; None without."""

    seconds: float
    peak: int
    size: int
    sqnr: float | None


@dataclasses.dataclass(frozen=True)
class Row:
    """A network's conversions: those of this tree and those of the other commit, in pairs."""

    network: str
    here: tuple[Cost, ...]
    there: tuple[Cost, ...]

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios of processor time."""
        return statistics.median(a.seconds / b.seconds for a, b in zip(self.here, self.there, strict=True))


def convert(tree: pathlib.Path, model: pathlib.Path, recipe: str) -> Cost:
    """Convert by the command line of a tree, in a process of its own."""
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'passes'}"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or each run compiles all modules, as no user's second run does
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dfmpc_onnx", "quantize", str(model), "-o", f"{folder}/out.onnx"]
        command += ["--recipe", recipe, "--json"]
        with (pathlib.Path(folder) / "report.json").open("w+") as report:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=report, stderr=subprocess.DEVNULL, preexec_fn=_one_core
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            report.seek(0)
            if process.returncode:
                raise SystemExit(f"{model.name} by {tree}: the conversion failed")
            found = json.load(report)
    outputs = (found["fidelity"] or {}).get("outputs") or [found["fidelity"] or {}]
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, found["bytes"], outputs[0].get("sqnr_db"))


def _one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


@contextlib.contextmanager
def worktree(commit: str) -> Iterator[pathlib.Path]:
    """A commit of this repository in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder) / "tree"
        _git("worktree", "add", "--detach", "--quiet", str(tree), commit)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextlib.contextmanager
def networks(only: str) -> Iterator[list[pathlib.Path]]:
    """The files of the list whose names hold `only`."""
    found = [ROOT / "models" / f"{name}.onnx" for name in OWN]
    if "DFMPC_DATA" in os.environ:
        found += [pathlib.Path(os.environ["DFMPC_DATA"]) / "models" / f"{name}.onnx" for name in TRAINED]
    found = [path for path in found if only in path.stem]
    with tempfile.TemporaryDirectory() as folder:
        if only in MADE:
            import onnx

            from tools.bench.networks import resnet

            found.append(pathlib.Path(folder) / f"{MADE}.onnx")
            onnx.save(resnet(50), found[-1])
        yield found


def measured(here: pathlib.Path, there: pathlib.Path, model: pathlib.Path, recipe: str, runs: int) -> Row:
    """Pairs of conversions, each after the other, so that what else the machine does meets both."""
    pairs = [(convert(here, model, recipe), convert(there, model, recipe)) for _ in range(runs)]
    return Row(model.stem, tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))


def table(rows: Sequence[Row]) -> str:
    """For people: medians of this tree, and what they are of the other's."""
    lines = [
        "| network | s of processor | ratio | peak MB | ratio | bytes | ratio | SQNR dB | before |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        here, there = (_median(costs) for costs in (row.here, row.there))
        sqnr = " | ".join("" if cost.sqnr is None else f"{cost.sqnr:.1f}" for cost in (here, there))
        lines.append(
            f"| {row.network} | {here.seconds:.1f} | {row.ratio:.2f} | {here.peak / 1e6:.0f} | "
            f"{here.peak / there.peak:.2f} | {here.size} | {here.size / there.size:.3f} | {sqnr} |"
        )
    return "\n".join(lines)


def _median(costs: Sequence[Cost]) -> Cost:
    """Medians of each figure; size and SQNR are the same in every run."""
    middle = statistics.median
    return dataclasses.replace(
        costs[0], seconds=middle(c.seconds for c in costs), peak=int(middle(c.peak for c in costs))
    )


def as_json(rows: Sequence[Row], recipe: str, commit: str, against: str) -> str:
    """All figures, and what they were measured with."""
    import onnxruntime

    found = {
        "commit": commit,
        "against": against,
        "recipe": recipe,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "machine": platform.machine(),
        "rows": [{**dataclasses.asdict(row), "ratio": round(row.ratio, 3)} for row in rows],
    }
    return json.dumps(found, indent=1) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True, metavar="COMMIT")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="networks whose names hold it")
    parser.add_argument("--runs", type=int, default=3, help="pairs of each network")
    parser.add_argument("--recipe", default="mixed")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "benchmarks", help="where the figures go")
    args = parser.parse_args(arguments)
    against = _git("rev-parse", "--short", f"{args.against}^{{commit}}")
    commit = _git("describe", "--always", "--dirty", "--exclude", "*")
    with worktree(against) as there, networks(args.only) as models:
        rows = [measured(ROOT, there, model, args.recipe, args.runs) for model in models]
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / f"{commit}.json").write_text(as_json(rows, args.recipe, commit, against))
    print(table(rows))


if __name__ == "__main__":
    main()
