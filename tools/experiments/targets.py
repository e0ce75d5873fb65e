#!/usr/bin/env python3
"""What each target's file declares, and how often it names the class that the float network names.

    python -m tools.experiments.targets [--only NETWORK]... [--target NAME]... [--recipe mixed] [--images TEST.npz]

The networks of tools/experiments/measure.py and their folded twins, quantized once for each target and run by
onnxruntime's CPU provider; `qnn-8` and `qnn-16` are `qnn` with activations of 8 and of 16 bits. `--tables docs/tables`
writes all tables of targets in one go, of the networks without their folded twins.

A bold row falls short: onnx.checker with full_check finds a fault, IR or opset are higher than the file needs, or the
agreement with the float network is further below the `cpu` target's than 0.5 points (3 for `tensorrt`, whose zero
points are 0, 1 for `vitisai`). Exits 1 where there is one. `--images` takes all CIFAR-10 test images
(tools/data/cifar10.py) for the networks of CIFAR-10: of 500 images 0.5 points are two or three.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence

import onnx

import dfmpc_onnx
from dfmpc_onnx.pipeline.targets import TARGETS
from tools.experiments.measure import Network, folded_twins, networks

HEADER = ("network", "target", "checker", "opset", "IR", "onnxruntime", "agreement %", "below cpu's", "drop", "SQNR dB")
HEAD = "| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER)
# The tables of the docs, with the rows of each; and the columns of targets.md, with the target measured for each.
TABLES = {"int8_targets.md": ("cpu", "tensorrt", "vitisai"), "qnn.md": ("cpu", "qnn", "qnn-8", "qnn-16")}
COLUMNS = {"cpu, openvino": "cpu", "portable": "portable", "cuda, webgpu": "cuda"}
ALLOWED = {"tensorrt": 3.0, "vitisai": 1.0}
# By the name of a row: the target, and the bits of its activations where they are not its own.
CASES: dict[str, tuple[str, str | None]] = {
    **{name: (name, None) for name in TARGETS},
    **{
        f"{name}-{bits}": (name, str(bits))
        for name, target in TARGETS.items()
        for bits in target.activation_bits
        if len(target.activation_bits) > 1 and str(bits) != target.activations
    },
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One target's file: what it declares, and how close it is to the float network. target: a name of `CASES`."""

    target: str
    fault: str
    opset: int
    ir: int
    oldest: str
    agreement: float
    drop: float
    sqnr: float


@dataclasses.dataclass(frozen=True)
class Rated:
    """A row of a network, and by how many points its agreement is below that of `cpu`."""

    network: str
    row: Row
    below: float

    @property
    def wrong(self) -> bool:
        return bool(self.row.fault) or self.below > ALLOWED.get(self.row.target, 0.5)

    @property
    def line(self) -> str:
        row = self.row
        name = f"**{row.target}**" if self.wrong else row.target
        cells = [self.network, name, row.fault or "passes", str(row.opset), str(row.ir), row.oldest]
        cells += [f"{value:.1f}" for value in (row.agreement, self.below, row.drop, row.sqnr)]
        return "| " + " | ".join(cells) + " |"


def measure(network: Network, target: str, recipe: str, weights: str | None, seed: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        made = dfmpc_onnx.quantize(
            str(network.model),
            out,
            recipe,
            weights=weights,
            activations=CASES[target][1],
            target=CASES[target][0],
            preprocess=network.preprocess,
            seed=seed,
            check=False,
        )
        found = dfmpc_onnx.verify(str(network.model), out, images=network.images).providers[0].fidelity
        fault = fault_of(out)
    opset = made.model.opset_import[0].version
    ir, oldest = made.model.ir_version, made.report.oldest_onnxruntime
    return Row(target, fault, opset, ir, oldest, found.agreement, found.drop or 0.0, found.sqnr_db)


def fault_of(file: pathlib.Path) -> str:
    """What is wrong with a file as ONNX; empty where nothing is."""
    model = onnx.load(file)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        return str(error).splitlines()[0][:80]
    if model.ir_version != onnx.helper.find_min_ir_version_for(model.opset_import):
        return "IR higher than its opset needs"
    return ""


def rows_of(network: Network, targets: Sequence[str], recipe: str, weights: str | None, seed: int) -> Iterator[Rated]:
    """A row for each target behind that of `cpu`, which the others are held against."""
    base: Row | None = None
    for target in ("cpu", *targets):
        row = measure(network, target, recipe, weights, seed)
        base = base or row
        yield Rated(network.label, row, round(base.agreement - row.agreement, 2))


def write_tables(folder: pathlib.Path, rows: Sequence[Rated]) -> None:
    """The tables of the docs, each from the rows that it shows."""
    for name, targets in TABLES.items():
        shown = [rated.line for rated in rows if rated.row.target in targets]
        (folder / name).write_text("\n".join([HEAD, *shown]) + "\n", encoding="utf-8")
    by_network: dict[str, dict[str, float]] = {}
    for rated in rows:
        by_network.setdefault(rated.network, {})[rated.row.target] = rated.row.agreement
    titles = "| " + " | ".join(("network", *COLUMNS)) + " |\n|" + "---|" * (1 + len(COLUMNS))
    lines = [
        "| " + " | ".join((network, *(f"{found[target]:.1f}" for target in COLUMNS.values()))) + " |"
        for network, found in by_network.items()
    ]
    (folder / "targets.md").write_text("\n".join([titles, *lines]) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {**networks(), **folded_twins()}
    parser.add_argument("--only", action="append", choices=list(known), help="a network; may be repeated")
    parser.add_argument("--target", action="append", choices=[t for t in CASES if t != "cpu"])
    parser.add_argument("--recipe", default="mixed")
    parser.add_argument("--weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=pathlib.Path, help="an .npz with more CIFAR-10 images")
    parser.add_argument("--tables", type=pathlib.Path, metavar="FOLDER", help="write the tables of the docs there")
    args = parser.parse_args()
    if args.tables and args.target:
        parser.error("--tables has targets of its own; leave --target out")
    targets = args.target or [t for t in CASES if t != "cpu"]
    if args.tables:
        targets = [t for t in dict.fromkeys((*COLUMNS.values(), *itertools.chain(*TABLES.values()))) if t != "cpu"]
    chosen = args.only or (networks() if args.tables else known)
    print(HEAD)
    rows: list[Rated] = []
    for network in (known[short] for short in chosen):
        if args.images and network.images.name.startswith("cifar10"):
            network = dataclasses.replace(network, images=args.images)
        for rated in rows_of(network, targets, args.recipe, args.weights, args.seed):
            rows.append(rated)
            print(rated.line, flush=True)
    if args.tables:
        write_tables(args.tables, rows)
    sys.exit(1 if any(rated.wrong for rated in rows) else 0)


if __name__ == "__main__":
    main()
