#!/usr/bin/env python3
"""What learned images are worth for statistics: files made with them against files made with procedural ones.

    python -m tools.experiments.learned --real IMAGES.npz > docs/tables/learned.md
    python -m tools.experiments.learned --table > docs/tables/learned.md     # measure nothing, print what is there

Of each kind 64 images through the same path into statistics. Figures are those of written files on real images, weights
only; `4/4`: weights and activations of 4 bits. `real`: 64 pictures that nothing is measured on, such as training
images, as the most that data could bring. `folded`: the export whose BatchNormalizations are folded is quantized, on
images that are learned from the one that keeps them.

PLAN is the table. Each figure is stored as it is found (--rows), and what is stored is not measured again: the same
command goes on where it was stopped. Needs PyTorch (extra `learned`) and networks of others: see measure.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator

import numpy as np

import dfmpc_onnx
from dfmpc_onnx.inputs.files import read_images
from dfmpc_onnx.inputs.learned_file import LearnedRecord, learned_bytes
from dfmpc_onnx.inputs.preprocess import Preprocess
from tools.experiments.measure import Network, joined, networks

COUNT = 64
ROWS = pathlib.Path("docs/tables/learned.jsonl")
SETTINGS = ("2/6", "ternary/6", "3/6", "4", "4/4")
KINDS = ("procedural", "zeroq", "labelled", "dsg", "dsg-labelled", "real")
PUBLISHED = ("zeroq", "dsg", "dsg-labelled")
HEADER = ("network", "images", "steps", "setting", "seeds", "top-1 %", "FP32 %", "drop", "SQNR dB", "distance to BN")
MEASURED = ("top1", "float_top1", "drop", "sqnr_db", "distance", "seconds")


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of the table: each kind of images, each setting, each seed. images: how many real ones to measure on."""

    network: str
    kinds: tuple[str, ...]
    settings: tuple[str, ...]
    seeds: int = 1
    steps: int = 100
    start: str = "procedural"
    folded: bool = False
    images: int | None = None


# In the order of what they tell, for who has no time for all of it.
BOTH = ("procedural", "zeroq")
PLAN = (
    Part("ownplain", BOTH, ("2/6", "4"), steps=60),
    Part("ownefficient", BOTH, ("2/6", "4"), steps=60),
    Part("vgglike", BOTH, ("2/6", "4"), steps=60),
    Part("mobilenetv1", BOTH, ("2/6", "4"), steps=60, images=250),
    Part("own", BOTH, ("2/6", "4"), steps=60),
    Part("resnet20", KINDS, SETTINGS, seeds=3),
    Part("mobilenetv2", BOTH, ("2/6", "4", "4/4"), steps=60, images=250),
    Part("resnet20", PUBLISHED, SETTINGS, start="noise"),
    Part("resnet56", ("procedural", "zeroq", "dsg", "labelled", "real"), ("2/6", "ternary/6", "4/4"), 2, 60),
    Part("resnet20", ("procedural", "zeroq", "real"), ("2/6", "4"), steps=60, folded=True),
    Part("owndense", BOTH, ("2/6", "4"), steps=60),
    Part("ownmobile", BOTH, ("2/6", "4"), steps=60),
    Part("ownmobilev3", BOTH, ("2/6", "4"), steps=60),
    Part("mobilenetv2", ("labelled", "dsg"), ("2/6", "4", "4/4"), steps=60, images=250),
)


@dataclasses.dataclass(frozen=True)
class Images:
    """A file of images. distance: to what the BatchNormalizations measured, after learning."""

    path: pathlib.Path
    distance: str
    seconds: str


def side(network: Network) -> tuple[int, int]:
    """Height and width of what the network takes."""
    if network.images.is_dir():
        return 224, 224
    height, width = np.load(network.images)["x"].shape[1:3]
    return height, width


def real_images(network: Network, source: str, seed: int, path: pathlib.Path) -> Images:
    """Pictures that were not learned, in a file that takes the same path: none of them is held back."""
    preprocess = Preprocess.parse(network.preprocess)
    found = read_images(source, (1, 3, *side(network)), preprocess)
    chosen = np.random.default_rng(seed).permutation(len(found.x))[:COUNT]
    record = LearnedRecord("none", preprocess.name, "given", "", 0, 0.0, seed, "")
    path.write_bytes(learned_bytes(found.x[chosen], None, record))
    return Images(path, "-", "-")


def made_images(network: Network, part: Part, kind: str, seed: int, path: pathlib.Path, threads: int) -> Images:
    """Images that are learned; procedural ones are those that learning begins with, moved by next to nothing."""
    began = time.perf_counter()
    unmoved = kind == "procedural"
    made = dfmpc_onnx.learn_images(
        str(network.model),
        path,
        "zeroq" if unmoved else kind,
        count=COUNT,
        steps=1 if unmoved else part.steps,
        learning_rate=1e-12 if unmoved else 0.05,
        start=part.start,
        seed=seed,
        preprocess=network.preprocess,
        threads=threads,
    )
    before, after = made.report.distance
    if unmoved:
        return Images(path, f"{before:.3f}", "-")
    return Images(path, f"{after:.3f}", f"{time.perf_counter() - began:.0f}")


def figures(
    network: Network, part: Part, setting: str, seed: int, images: Images, out: pathlib.Path, threads: int
) -> dict[str, str]:
    """What the table says of one file."""
    weights, activations = ("4", "4") if setting == "4/4" else (setting, "none")
    model = str(network.model.with_suffix(".folded.onnx") if part.folded else network.model)
    dfmpc_onnx.quantize(
        model,
        out,
        weights=weights,
        activations=activations,
        preprocess=network.preprocess,
        images=images.path,
        seed=seed,
        check=False,
        threads=threads,
        force=True,
    )
    verified = dfmpc_onnx.verify(model, out, images=network.images, count=part.images)
    found = verified.providers[0].fidelity
    return {
        "top1": f"{found.top1:.1f}",
        "float_top1": f"{found.float_top1:.1f}",
        "drop": f"{found.drop:.1f}",
        "sqnr_db": f"{found.sqnr_db:.2f}",
        "distance": images.distance,
        "seconds": images.seconds,
    }


def row_of(network: Network, part: Part, kind: str, setting: str, seed: int) -> dict[str, str]:
    """What tells a row from all others."""
    learned = kind not in ("procedural", "real")
    return {
        "network": f"{network.label}, folded" if part.folded else network.label,
        "kind": f"{kind}, from noise" if part.start == "noise" else kind,
        "steps": str(part.steps) if learned else "-",
        "setting": setting,
        "seed": str(seed),
    }


def stored(rows: pathlib.Path) -> list[dict[str, str]]:
    """The rows that were found before."""
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []


def measure(network: Network, part: Part, kind: str, seed: int, args: argparse.Namespace) -> None:
    """Find and store what is missing of one kind and seed."""
    known = [{key: row[key] for key in row if key not in MEASURED} for row in stored(args.rows)]
    wanted = [(setting, row_of(network, part, kind, setting, seed)) for setting in part.settings]
    missing = [(setting, row) for setting, row in wanted if row not in known]
    if not missing or (kind == "real" and not args.real):
        return
    with tempfile.TemporaryDirectory() as name:
        path, out = pathlib.Path(name) / "images.npz", pathlib.Path(name) / "out.onnx"
        if kind == "real":
            images = real_images(network, args.real, seed, path)
        else:
            images = made_images(network, part, kind, seed, path, args.threads)
        for setting, row in missing:
            found = row | figures(network, part, setting, seed, images, out, args.threads)
            with args.rows.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(" ".join(found.values()), file=sys.stderr, flush=True)


def table(rows: Iterable[dict[str, str]]) -> Iterator[str]:
    """The rows as a table, those of several seeds as one, network by network."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["kind"], row["steps"], row["setting"]), []).append(row)
    networks_in_order = list(dict.fromkeys(key[0] for key in groups))
    yield "| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER)
    for key in sorted(groups, key=lambda key: networks_in_order.index(key[0])):
        cells = [tuple(row[name] for name in MEASURED[:-1]) for row in groups[key]]
        yield "| " + " | ".join((*key, str(len(cells)), *joined(cells))) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(networks()), help="a network; may be repeated")
    parser.add_argument("--data", action="append", choices=KINDS, help="a kind of images; may be repeated")
    parser.add_argument("--real", help="pictures that nothing is measured on, for the rows `real`")
    parser.add_argument("--rows", type=pathlib.Path, default=ROWS, help=f"where figures are kept  [default: {ROWS}]")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    known = networks()
    for part in () if args.table else PLAN:
        if part.network not in known or (args.only and part.network not in args.only):
            continue
        for seed in range(part.seeds):
            for kind in part.kinds:
                if not args.data or kind in args.data:
                    measure(known[part.network], part, kind, seed, args)
    print("\n".join(table(stored(args.rows))))


if __name__ == "__main__":
    main()
