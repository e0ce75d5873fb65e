#!/usr/bin/env python3
"""How well estimates of sensitivity rank what rounding does to a network on real images.

    python -m tools.experiments.sensitivity [--only NETWORK]... [--images 100] [--layers 24] [--joint 40]
        [--equal 40]

Settings: single layers (at most `--layers`, evenly spread) at 2, 3 and 4 bits, all others in float; joint ones, in
which every layer has a random width; and joint ones of equal bytes, 4 bits a weight. Prints Spearman and Kendall with
the Kullback-Leibler divergence from the float network's classes, and Spearman with the drop of top-1. The first line
of a network is what one half of the images says of the other; of joint settings the second line, what the relative
error on the same images says of the divergence, is the ceiling of whatever ranks by relative error.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import kendalltau, spearmanr

from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.pipeline.weight_plan import bits_of
from dfmpc_onnx.quantization.layer_rebuilder import ReconstructLayersOptions
from dfmpc_onnx.quantization.sensitivity import PROBES, SensitivityMeter, expected_gains
from dfmpc_onnx.quantization.statistics_source import statistics_source
from dfmpc_onnx.quantization.width_losses import PLANNED_WIDTHS
from dfmpc_onnx.statistics.batch_axis import statistics_batch
from tools.experiments.measure import Network, asked, networks
from tools.experiments.trials import ALL, Answers, Trials, divergences, in_batches, joined, labelled, measurable

NETWORKS = ("resnet20", "resnet56", "mobilenetv2", "owndense")
SINGLE = (2, 3, 4)  # bits
EQUAL_BITS = 4  # a weight, of joint settings at equal bytes
MOST_MOVES = 20_000
PROCEDURAL = 16  # images that the divergence is measured on
HEADER = (
    "network",
    "estimate",
    "single: Spearman",
    "Kendall",
    "with the drop",
    "joint: Spearman",
    "with the drop",
    "equal bytes",
)
Damages = Mapping[str, Mapping[object, float]]
Settings = Sequence[tuple[Mapping[str, object], Answers]]


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


def at_equal_bytes(
    settings: Sequence[Mapping[str, object]], sizes: Mapping[str, int], seed: int
) -> list[dict[str, object]]:
    """The settings, each moved a width at a time at random until it has `EQUAL_BITS` a weight within a percent."""
    generator = np.random.default_rng(seed)
    names, widths = list(sizes), [bits_of(width) for width in PLANNED_WIDTHS]  # type: ignore[arg-type]
    count = np.array([sizes[name] for name in names])
    found = []
    for setting in settings:
        index = np.array([PLANNED_WIDTHS.index(setting[name]) for name in names])  # type: ignore[arg-type]
        for _ in range(MOST_MOVES):
            mean = float(count @ np.array(widths)[index]) / count.sum()
            if abs(mean / EQUAL_BITS - 1) < 0.01:
                break
            moved = generator.integers(len(names))
            index[moved] = np.clip(index[moved] + (1 if mean < EQUAL_BITS else -1), 0, len(PLANNED_WIDTHS) - 1)
        found.append({name: PLANNED_WIDTHS[i] for name, i in zip(names, index, strict=True)})
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
    feeds = statistics_batch(workspace.graph, workspace.inputs, seed, 0).last(PROCEDURAL).feeds
    found["probe, divergence"] = by_divergence(trials, feeds)
    return trials, found, workspace


def by_divergence(trials: Trials, feeds: Mapping[str, np.ndarray]) -> Damages:
    """As the probe, with the divergence of the classes in place of the relative error: cross-entropy with the float
    network's own answers, less what is the same for all settings. feeds: procedural inputs."""
    ((bits, norms),) = PROBES["probe"]
    answers = trials.alone(dict.fromkeys(trials.weights, bits), feeds, norms=norms)
    logs = {}
    for name, hat in answers.settings.items():
        lost, loss = float(divergences(answers.plain, hat).mean()), trials.losses[name][bits]
        if lost > 0 and loss > 0:
            logs[name] = math.log(lost / loss)
    gains = expected_gains(logs)
    typical = float(np.median(list(gains.values())))
    return {w: {b: gains.get(w, typical) * loss for b, loss in trials.losses[w].items()} for w in trials.weights}


def study(network: Network, images: int, layers: int, joint: int, equal: int, at_once: int) -> list[tuple[str, ...]]:
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
    alike = at_equal_bytes(settings[:equal], {w: trials.size(w) for w in trials.weights}, 1)

    def joint_answers(setting: Mapping[str, object]) -> Answers:
        return joined([trials.together(setting, f) for f in in_batches(feeds, at_once)])  # type: ignore[arg-type]

    together = [(s, joint_answers(s)) for s in settings]
    return _lines(network.label, tables, single, together, [(s, joint_answers(s)) for s in alike], real)


def _lines(
    label: str,
    tables: Mapping[str, Damages],
    single: Mapping[int, Answers],
    together: Settings,
    equal: Settings,
    real: Images,
) -> list[tuple[str, ...]]:
    assert real.y is not None  # images of the experiments have labels
    keys = [(b, w) for b in single for w in single[b].settings]
    spread = [divergences(single[b].plain, single[b].settings[w]) for b, w in keys]
    drops = [drop_of(single[b].plain, single[b].settings[w], real.y) for b, w in keys]
    joint, alike = (np.array([divergences(a.plain, a.settings[ALL]) for _, a in part]) for part in (together, equal))
    joint_drop = [drop_of(a.plain, a.settings[ALL], real.y) for _, a in together]
    halves = [f"{spearmanr(part[:, ::2].mean(1), part[:, 1::2].mean(1))[0]:.3f}" for part in (np.array(spread), joint)]
    lines = [(label, "half of the images for the other", halves[0], "", "", halves[1], "", "")]
    errors = [[relative_error(a.plain, a.settings[ALL]) for _, a in part] for part in (together, equal)]
    known = [relative_error(single[b].plain, single[b].settings[w]) for b, w in keys]
    lines.append(_line(label, "relative error, same images", known, *errors, spread, drops, joint, joint_drop, alike))
    for name, table in tables.items():
        alone = [table[w][b] for b, w in keys]
        sums, same = ([sum(table[w][b] for w, b in s.items()) for s, _ in part] for part in (together, equal))
        lines.append(_line(label, name, alone, sums, same, spread, drops, joint, joint_drop, alike))
    return lines


def _line(
    label: str,
    name: str,
    alone: Sequence[float],
    sums: Sequence[float],
    same: Sequence[float],
    spread: Sequence[Float],
    drops: Sequence[float],
    joint: Float,
    joint_drop: Sequence[float],
    alike: Float,
) -> tuple[str, ...]:
    """Of one estimate: single layers, sums of joint settings, and those at equal bytes."""
    all_of = correlations(sums, list(joint.mean(1)), joint_drop)
    figures = (*correlations(alone, _mean(spread, slice(None)), drops), all_of[0], all_of[2])
    return (label, name, *(f"{x:.3f}" for x in (*figures, float(spearmanr(same, alike.mean(1))[0]))))


def relative_error(plain: Float32, hat: Float32) -> float:
    """Squared error of scores over what they differ by between images."""
    return float(np.square(hat - plain, dtype=np.float64).mean(0).sum() / plain.astype(np.float64).var(0).sum())


def _mean(spread: Sequence[Float], part: slice) -> list[float]:
    return [float(kl[part].mean()) for kl in spread]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(networks()), help="a network; may be repeated")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--joint", type=int, default=40)
    parser.add_argument("--equal", type=int, default=40, help="how many of the joint settings are taken to equal bytes")
    parser.add_argument("--at-once", type=int, default=16, help="images that are run together")
    args = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for network in asked(args.only or NETWORKS):
        for line in study(network, args.images, args.layers, args.joint, args.equal, args.at_once):
            print("| " + " | ".join(line) + " |", flush=True)


if __name__ == "__main__":
    main()
