#!/usr/bin/env python3
"""How well estimates of sensitivity rank what rounding does to a network on real images.

    python -m tools.experiments.sensitivity [--only NETWORK]... [--images 100] [--layers 24] [--joint 40]

Settings: single layers (at most `--layers`, evenly spread) at 2, 3 and 4 bits, all others in float; and joint ones, in
which every layer has a random width. Prints Spearman and Kendall with the Kullback-Leibler divergence from the float
network's classes, and Spearman with the drop of top-1. The ceiling is what one half of the images says of the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import kendalltau, spearmanr

from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.quantization.layer_rebuilder import ReconstructLayersOptions
from dfmpc_onnx.quantization.sensitivity import SensitivityMeter
from dfmpc_onnx.quantization.statistics_source import statistics_source
from dfmpc_onnx.quantization.width_losses import PLANNED_WIDTHS
from tools.experiments.measure import Network, networks
from tools.experiments.trials import ALL, Answers, Trials, divergences, in_batches, joined, labelled, measurable

NETWORKS = ("resnet20", "resnet56", "mobilenetv2", "owndense")
SINGLE = (2, 3, 4)  # bits
HEADER = ("network", "estimate", "single: Spearman", "Kendall", "with the drop", "joint: Spearman", "with the drop")
Damages = Mapping[str, Mapping[object, float]]


def correlations(estimate: Sequence[float], divergence: Sequence[float], drop: Sequence[float]) -> list[float]:
    """Spearman and Kendall with the divergence, Spearman with the drop."""
    return [
        float(spearmanr(estimate, divergence)[0]),
        float(kendalltau(estimate, divergence)[0]),
        float(spearmanr(estimate, drop)[0]),
    ]


def drop_of(plain: Float32, hat: Float32, labels: np.ndarray) -> float:
    """By how much top-1 falls, in points."""
    return 100 * float((plain.argmax(axis=1) == labels).mean() - (hat.argmax(axis=1) == labels).mean())


def random_widths(weights: Sequence[str], count: int, seed: int) -> list[dict[str, object]]:
    """Settings of all weights: around a random level each, so that they span from coarse to fine."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        level = generator.uniform(1.5, 6.0)
        index = np.clip(np.rint(generator.normal(level, 1.5, len(weights))), 0, len(PLANNED_WIDTHS) - 1).astype(int)
        found.append({name: PLANNED_WIDTHS[i] for name, i in zip(weights, index, strict=True)})
    return found


def estimates(network: Network, seed: int) -> tuple[Trials, dict[str, Damages], object]:
    """The trials, and each estimate's table of damages by weight and width."""
    workspace = measurable(network, seed)
    source = statistics_source(workspace, "images", 0)
    trials = Trials(workspace, source)
    found: dict[str, Damages] = {
        "error of the weight": {w: {b: trials.error_of_weight(w, b) for b in PLANNED_WIDTHS} for w in trials.weights},
        "local loss": trials.losses,
    }
    for estimator in ("closed-form", "probe", "measured"):
        meter = SensitivityMeter(workspace, source, estimator, ReconstructLayersOptions())  # type: ignore[arg-type]
        losses, gains = meter.losses(), meter.gains()
        found[estimator] = {w: {b: gains[w] * loss for b, loss in losses[w].items()} for w in losses}
    return trials, found, workspace


def study(network: Network, images: int, layers: int, joint: int, at_once: int) -> list[tuple[str, ...]]:
    """The lines of one network."""
    trials, tables, workspace = estimates(network, 0)
    real = labelled(network, workspace, images)  # type: ignore[arg-type]
    feeds = {workspace.inputs.image_input().name: real.x}  # type: ignore[attr-defined]
    index = np.unique(np.linspace(0, len(trials.weights) - 1, min(layers, len(trials.weights))).astype(int))
    chosen = [trials.weights[i] for i in index]
    single = {
        b: joined([trials.alone(dict.fromkeys(chosen, b), f, norms="exported") for f in in_batches(feeds, at_once)])
        for b in SINGLE
    }
    settings = random_widths(trials.weights, joint, 0)
    together = [joined([trials.together(s, f) for f in in_batches(feeds, at_once)]) for s in settings]  # type: ignore[arg-type]
    return _lines(network.label, tables, single, settings, together, real)


def _lines(
    label: str,
    tables: Mapping[str, Damages],
    single: Mapping[int, Answers],
    settings: Sequence[Mapping[str, object]],
    together: Sequence[Answers],
    real: Images,
) -> list[tuple[str, ...]]:
    assert real.y is not None  # images of the experiments have labels
    keys = [(b, w) for b in single for w in single[b].settings]
    spread = [divergences(single[b].plain, single[b].settings[w]) for b, w in keys]
    drops = [drop_of(single[b].plain, single[b].settings[w], real.y) for b, w in keys]
    joint_kl = [float(divergences(a.plain, a.settings[ALL]).mean()) for a in together]
    joint_drop = [drop_of(a.plain, a.settings[ALL], real.y) for a in together]
    halves = [_mean(spread, slice(0, None, 2)), _mean(spread, slice(1, None, 2))]
    lines = [(label, "half of the images for the other", f"{spearmanr(*halves)[0]:.3f}", "", "", "", "")]
    for name, table in tables.items():
        alone = correlations([table[w][b] for b, w in keys], _mean(spread, slice(None)), drops)
        sums = [sum(table[w][b] for w, b in setting.items()) for setting in settings]
        all_of = correlations(sums, joint_kl, joint_drop)
        lines.append((label, name, *(f"{x:.3f}" for x in (*alone, all_of[0], all_of[2]))))
    return lines


def _mean(spread: Sequence[Float], part: slice) -> list[float]:
    return [float(kl[part].mean()) for kl in spread]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = networks()
    parser.add_argument("--only", action="append", choices=list(known), help="a network; may be repeated")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--joint", type=int, default=40)
    parser.add_argument("--at-once", type=int, default=16, help="images that are run together")
    args = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for name in args.only or NETWORKS:
        if name not in known:
            print(f"{name}: skipped, DFMPC_DATA names no folder that holds it")
            continue
        for line in study(known[name], args.images, args.layers, args.joint, args.at_once):
            print("| " + " | ".join(line) + " |", flush=True)


if __name__ == "__main__":
    main()
