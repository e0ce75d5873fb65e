#!/usr/bin/env python3
"""How often the interval that 32 images give holds what a planned file agrees on the others.

    python -m tools.experiments.agreement [--only NETWORK]... [--parts 1 0.8 0.65] [--images 32] [--draws 1000]
        > docs/tables/agreement.md

For each network and each part of the bytes of uniform 4 bits a file is planned. Of 32 of the images of that network,
evenly spread, the interval of how often their first answers agree (95 %, as `plan --images` states it) is held
against the agreement on all other images; then the same of 32 images that are drawn, many times. No label is read.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

import dfmpc_onnx
from dfmpc_onnx.evaluation.fidelity import outputs
from dfmpc_onnx.inputs.files import read_images
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.numerics.proportions import exact_interval
from dfmpc_onnx.runtime.session import Session
from tools.experiments.measure import Network, asked, networks

NETWORKS = ("resnet20", "resnet56", "mobilenetv1", "ownmobile", "owndense")
PARTS = (1.0, 0.8, 0.65)
HEADER = (
    "network",
    "of uniform 4",
    "agreement %",
    "interval of 32 images",
    "the others",
    "holds",
    "of all draws hold %",
    "begin too high %",
)
Same = npt.NDArray[np.bool_]


def spread_interval(same: Same, count: int) -> tuple[tuple[float, float], float]:
    """The interval from `count` images that are evenly spread, and the agreement on the others, per cent."""
    chosen = np.zeros(len(same), bool)
    chosen[np.linspace(0, len(same) - 1, count).astype(int)] = True
    low, high = exact_interval(int(same[chosen].sum()), int(chosen.sum()))
    return (100 * low, 100 * high), 100 * float(same[~chosen].mean())


def held(same: Same, count: int, draws: int, seed: int) -> tuple[float, float]:
    """The per cent of intervals, each from `count` images, that hold the agreement on the others; and of those that
    begin above it. same: of each image whether the first answers agree."""
    generator = np.random.default_rng(seed)
    inside = above = 0
    for _ in range(draws):
        drawn = generator.permutation(len(same))
        low, high = exact_interval(int(same[drawn[:count]].sum()), count)
        others = float(same[drawn[count:]].mean())
        inside += low <= others <= high
        above += low > others
    return 100 * inside / draws, 100 * above / draws


def agreeing(network: Network, parts: Sequence[float]) -> list[Same | None]:
    """Of each image whether the planned file gives the float network's first answer, for each part; None for a part
    that is below the smallest file."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        options = {"activations": "none", "preprocess": network.preprocess, "check": False}
        size = dfmpc_onnx.quantize(str(network.model), out, weights="4", **options).report.bytes  # type: ignore[arg-type]
        plain = Session(network.model.read_bytes(), label="the float network")
        shape = tuple(plain.inputs[0][1])
        images = read_images(network.images, (None, *shape[1:]), Preprocess.parse(network.preprocess)).x  # type: ignore[arg-type]
        want = outputs(plain, images)[0].reshape(len(images), -1).argmax(1)
        found: list[Same | None] = []
        for part in parts:
            try:
                dfmpc_onnx.quantize(str(network.model), out, max_size=int(part * size), **options)  # type: ignore[arg-type]
            except dfmpc_onnx.OptionError:
                found.append(None)
                continue
            got = outputs(Session(out, label="the planned network"), images)[0].reshape(len(images), -1).argmax(1)
            found.append(np.asarray(want == got))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(networks()), help="a network; may be repeated")
    parser.add_argument("--parts", type=float, nargs="+", default=PARTS, help="of the bytes of uniform 4 bits")
    parser.add_argument("--images", type=int, default=32, help="that an interval comes from")
    parser.add_argument("--draws", type=int, default=1000)
    args = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for network in asked(args.only or NETWORKS):
        for part, same in zip(args.parts, agreeing(network, args.parts), strict=True):
            if same is None:
                print(f"| {network.label} | {part:g} | below the smallest file | | | | | |", flush=True)
                continue
            (low, high), others = spread_interval(same, args.images)
            inside, above = held(same, args.images, args.draws, 0)
            one = (f"{low:.1f} to {high:.1f}", f"{others:.1f}", "yes" if low <= others <= high else "no")
            cells = (network.label, f"{part:g}", f"{100 * same.mean():.1f}", *one, f"{inside:.1f}", f"{above:.1f}")
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
