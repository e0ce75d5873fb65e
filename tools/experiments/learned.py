#!/usr/bin/env python3
"""What learned images are worth for statistics: files made with them against files made with procedural ones.

    python -m tools.experiments.learned [--only NETWORK] [--setting WEIGHTS] [--data KIND] [--seeds 3] [--steps 100]
        [--real IMAGES.npz] [--images 200] [--folded]

Of each kind 64 images, from the same procedural ones, through the same path into statistics. Figures are those of
written files on real images, weights only. `real`: 64 pictures that nothing is measured on, such as training images,
as the most that data could bring. `--folded`: the export whose BatchNormalizations are folded is quantized, on images
that are learned from the one that keeps them. Needs PyTorch (extra `learned`) and networks of others: see measure.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence

import numpy as np

import dfmpc_onnx
from dfmpc_onnx.inputs.files import read_images
from dfmpc_onnx.inputs.learned_file import LearnedRecord, learned_bytes
from dfmpc_onnx.inputs.preprocess import Preprocess
from tools.experiments.measure import Network, joined, networks

COUNT = 64
SETTINGS = ("2/6", "ternary/6", "3/6", "4")
KINDS = ("procedural", "zeroq", "dsg", "dsg-labelled", "labelled", "real")
HEADER = ("network", "images", "setting", "top-1 %", "FP32 %", "drop", "SQNR dB", "distance to BN", "s to learn")


@dataclasses.dataclass(frozen=True)
class Made:
    """A file of images. distance: to what the BatchNormalizations measured, after learning."""

    path: pathlib.Path
    distance: str
    seconds: str


def marked(x: np.typing.NDArray[np.float32], network: Network, seed: int, path: pathlib.Path) -> Made:
    """Images that were not learned, in a file that takes the same path: none of them is held back."""
    record = LearnedRecord("none", Preprocess.parse(network.preprocess).name, "given", "", 0, 0.0, seed, "")
    path.write_bytes(learned_bytes(x, None, record))
    return Made(path, "-", "-")


def make(network: Network, kind: str, seed: int, args: argparse.Namespace, folder: pathlib.Path) -> Made:
    """The images of one kind and seed."""
    path = folder / f"{kind}.npz"
    if kind == "real":
        found = read_images(args.real_images, (1, 3, *side(network)), Preprocess.parse(network.preprocess))
        chosen = np.random.default_rng(seed).permutation(len(found.x))[:COUNT]
        return marked(found.x[chosen], network, seed, path)
    began = time.perf_counter()
    made = dfmpc_onnx.learn_images(
        str(network.model),
        path,
        "zeroq" if kind == "procedural" else kind,
        count=COUNT,
        # One step at a rate of next to nothing gives what the others start from.
        steps=1 if kind == "procedural" else args.steps,
        learning_rate=1e-12 if kind == "procedural" else args.learning_rate,
        seed=seed,
        preprocess=network.preprocess,
        threads=args.threads,
    )
    before, after = made.report.distance
    if kind == "procedural":
        return Made(path, f"{before:.3f}", "-")
    return Made(path, f"{after:.3f}", f"{time.perf_counter() - began:.0f}")


def side(network: Network) -> tuple[int, int]:
    """Height and width of what the network takes."""
    if network.images.is_dir():
        return 224, 224
    height, width = np.load(network.images)["x"].shape[1:3]
    return height, width


def lines(
    network: Network, kind: str, seed: int, settings: Sequence[str], args: argparse.Namespace
) -> Iterator[tuple[str, ...]]:
    """A line of the table for each setting."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        images, out = make(network, kind, seed, args, folder), folder / "out.onnx"
        model = str(network.model.with_suffix(".folded.onnx") if args.folded else network.model)
        label = f"{network.label}, folded" if args.folded else network.label
        for setting in settings:
            dfmpc_onnx.quantize(
                model,
                out,
                weights=setting,
                activations="none",
                preprocess=network.preprocess,
                images=images.path,
                seed=seed,
                check=False,
                threads=args.threads,
            )
            verified = dfmpc_onnx.verify(model, out, images=network.images, count=args.images)
            found = verified.providers[0].fidelity
            scores = (f"{found.top1:.1f}", f"{found.float_top1:.1f}", f"{found.drop:.1f}", f"{found.sqnr_db:.2f}")
            yield label, kind, setting, *scores, images.distance, images.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(networks()), help="a network; may be repeated")
    parser.add_argument("--setting", action="append", help="weights, such as 2/6; may be repeated")
    parser.add_argument("--data", action="append", choices=KINDS, help="a kind of images; may be repeated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--images", type=int, help="measure on so many real images; all of them if not given")
    parser.add_argument("--real", dest="real_images", help="pictures that nothing is measured on, for the row real")
    parser.add_argument("--folded", action="store_true", help="quantize the folded export")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    known = networks()
    kinds = [kind for kind in args.data or KINDS if kind != "real" or args.real_images]
    settings = args.setting or SETTINGS
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for name in args.only or ("resnet20", "resnet56", "mobilenetv2"):
        for kind in kinds:
            rows = [list(lines(known[name], kind, seed, settings, args)) for seed in range(args.seeds)]
            for row in zip(*rows, strict=True):
                print("| " + " | ".join(joined(list(row))) + " |", flush=True)


if __name__ == "__main__":
    main()
