#!/usr/bin/env python3
"""Planned files against one width for all weights, at equal bytes.

    python -m tools.experiments.plans [--only NETWORK]... [--parts 1 0.8 0.65] [--seeds 2] [--estimator probe]
        [--search greedy]

Uniform: `--weights 4 --activations none`. Planned: `plan --max-size`, a part of the bytes of that file, and `quantize`
by that plan; what it predicts stands beside what is real. SQNR and drop are measured on labelled images that take no
part in making the files; each is the mean of the seeds. `--activations 8` rounds activations too. `--search greedy`
plans each file by the greedy search too, in a line of its own. The last column is the threshold rule of version
0.1.0.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import statistics
import tempfile
from collections.abc import Sequence

import dfmpc_onnx
from tools.experiments.measure import Network, asked, networks

NETWORKS = ("resnet20", "resnet56", "mobilenetv2", "mobilenetv1")
PARTS = (1.0, 0.8, 0.65)  # of the bytes of uniform 4 bits
# SQNR in dB of the threshold rule of version 0.1.0 at these bytes, as it was measured before plans took its place.
THRESHOLD_RULE = {
    "ResNet-20": {"1": 21.4, "0.8": 15.1, "0.65": 11.8},
    "ResNet-56": {"1": 21.9, "0.8": 17.3, "0.65": 14.2},
    "MobileNetV2": {"1": 20.0, "0.8": 14.8, "0.65": 9.9},
}
HEADER = ("network", "of uniform 4", "bytes", "SQNR dB, predicted", "SQNR dB", "drop", "SQNR dB by thresholds")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A file that was written and measured. predicted, sqnr: in dB; predicted is NaN where nothing was planned."""

    bytes: float
    predicted: float
    sqnr: float
    drop: float


def mean_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Each figure's mean."""
    columns = zip(*map(dataclasses.astuple, outcomes), strict=True)
    return Outcome(*map(statistics.fmean, columns))


def cells(network: str, part: str, outcome: Outcome) -> tuple[str, ...]:
    """A line of the table."""
    predicted = "" if math.isnan(outcome.predicted) else f"{outcome.predicted:.1f}"
    before = THRESHOLD_RULE.get(network, {}).get(part)
    figures = (f"{outcome.bytes:.0f}", predicted, f"{outcome.sqnr:.1f}", f"{outcome.drop:.1f}")
    return network, part, *figures, "" if before is None else f"{before:.1f}"


def uniform(network: Network, seed: int, activations: str = "none") -> Outcome:
    """4 bits everywhere but in the first and the last layer and depthwise ones, which have 8."""
    return _measured(network, "mixed", seed, activations, math.nan, weights="4")


def planned(
    network: Network, seed: int, size: int, estimator: str, activations: str = "none", search: str = "knapsack"
) -> Outcome:
    """A file of at most so many bytes, by way of a plan file. search: as `dfmpc_onnx.plan` takes it."""
    with tempfile.TemporaryDirectory() as folder:
        recipe, plan = (pathlib.Path(folder) / name for name in ("recipe.toml", "plan.toml"))
        text = f'extends = "mixed"\n[passes.measure_sensitivity]\nestimator = "{estimator}"\n'
        recipe.write_text(text, encoding="utf-8")
        options = {"activations": activations, "preprocess": network.preprocess, "seed": seed, "search": search}
        found = dfmpc_onnx.plan(str(network.model), plan, str(recipe), max_size=size, **options)  # type: ignore[arg-type]
        assert found.record.sqnr_db is not None  # a plan that was made here states what it predicts
        return _measured(network, str(plan), seed, activations, found.record.sqnr_db)


def _measured(
    network: Network, recipe: str, seed: int, activations: str, predicted: float, weights: str | None = None
) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        dfmpc_onnx.quantize(
            str(network.model),
            out,
            recipe,
            weights=weights,
            activations=activations,
            preprocess=network.preprocess,
            seed=seed,
            check=False,
        )
        found = dfmpc_onnx.verify(str(network.model), out, images=network.images).providers[0].fidelity
        size = out.stat().st_size
    assert found.drop is not None  # images of the experiments have labels
    return Outcome(size, predicted, found.sqnr_db, found.drop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(networks()), help="a network; may be repeated")
    parser.add_argument("--parts", type=float, nargs="+", default=PARTS, help="of the bytes of uniform 4 bits")
    parser.add_argument("--seeds", type=int, default=2, help="measure each row with this many seeds")
    parser.add_argument("--estimator", default="probe", choices=("probe", "measured", "closed-form"))
    parser.add_argument("--activations", default="none", choices=("none", "8"))
    parser.add_argument("--search", default="knapsack", choices=("knapsack", "greedy"), help="beside the knapsack")
    args = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for network in asked(args.only or NETWORKS):
        seeds = range(args.seeds)
        base = mean_of([uniform(network, seed, args.activations) for seed in seeds])
        print("| " + " | ".join(cells(network.label, "itself", base)) + " |", flush=True)
        for part in args.parts:
            size = int(base.bytes * part)
            for search in dict.fromkeys(("knapsack", args.search)):
                how = (size, args.estimator, args.activations, search)
                found = mean_of([planned(network, seed, *how) for seed in seeds])
                named = f"{part:g}" if search == "knapsack" else f"{part:g}, {search}"
                print("| " + " | ".join(cells(network.label, named, found)) + " |", flush=True)


if __name__ == "__main__":
    main()
