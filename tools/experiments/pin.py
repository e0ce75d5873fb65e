#!/usr/bin/env python3
"""Whether a change of the code changes a byte: a sha256 of every network by every recipe for every target.

    python -m tools.experiments.pin > before.txt
    python -m tools.experiments.pin --against before.txt [--model SUBSTRING] [--recipe NAME]... [--target NAME]...

Prints one row a file: model, recipe, target and the sha256 of the quantized model without its metadata, which names
versions and passes; or "refused" and why. Everything is computed with one thread, or sums would be rounded in another
order on another machine; BLAS chooses its kernels by processor all the same, so compare on one machine. `--against`
prints only the rows that are not in that file, and those of the selection that are in it alone, and exits 1 where there
is one. All of models/ takes six minutes of one core, `--model plain_cifar10.onnx --target cpu` some seconds.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import itertools
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

import dfmpc_onnx

MODELS = pathlib.Path(__file__).parents[2] / "models"
Job = tuple[pathlib.Path, str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, default=MODELS, help="a folder of .onnx files")
    parser.add_argument("--model", default="", metavar="SUBSTRING", help="only files whose name holds it")
    parser.add_argument("--recipe", action="append", metavar="NAME")
    parser.add_argument("--target", action="append", metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--against", type=pathlib.Path, metavar="FILE", help="rows printed before")
    args = parser.parse_args(arguments)
    try:
        jobs = selected(args.models, args.model, args.recipe, args.target)
    except dfmpc_onnx.UserError as error:
        parser.error(str(error))
    if not jobs:
        parser.error(f"no .onnx file in {args.models} has '{args.model}' in its name")
    known = rows_of(args.against) if args.against else {}
    differing = 0
    for job, row in zip(jobs, made(jobs, args.jobs), strict=True):
        if known.pop(label(job), None) != row:
            differing += args.against is not None
            print(row, flush=True)
    recipes, targets = ({job[i] for job in jobs} for i in (1, 2))
    for name, row in known.items():
        model, recipe, target = name.split()
        if args.model in model and recipe in recipes and target in targets:
            differing += 1
            print(f"{row} (only in {args.against})")
    return 1 if differing else 0


def selected(
    folder: pathlib.Path, part: str, recipes: Sequence[str] | None, targets: Sequence[str] | None
) -> list[Job]:
    """What to quantize, sorted by name; recipes and targets of None: all there are. Raises UserError."""
    from dfmpc_onnx import catalog
    from dfmpc_onnx.pipeline.targets import TARGETS, parse_target

    for recipe in recipes or ():
        catalog.find_recipe(recipe)
    for target in targets or ():
        parse_target(target)
    files = sorted(path for path in folder.glob("*.onnx") if part in path.name)
    return list(itertools.product(files, recipes or sorted(catalog.recipes()), targets or sorted(TARGETS)))


def made(jobs: Sequence[Job], processes: int) -> Iterator[str]:
    """The rows of these jobs, in order, each made in one of so many fresh processes."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context, on_one_thread) as pool:
        yield from pool.map(row_of, jobs)


def on_one_thread() -> None:
    """Have BLAS start with one thread; holds only where numpy is not imported yet."""
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"


def row_of(job: Job) -> str:
    path, recipe, target = job
    try:
        model = dfmpc_onnx.quantize(path, recipe=recipe, target=target, check=False, threads=1).model
        del model.metadata_props[:]
        found = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    except dfmpc_onnx.UserError as error:
        found = f"refused: {error}"
    return f"{label(job)} {found}"


def label(job: Job) -> str:
    path, recipe, target = job
    return f"{path.name:32} {recipe:12} {target:9}"


def rows_of(file: pathlib.Path) -> dict[str, str]:
    """The rows of a file by model, recipe and target."""
    rows = file.read_text(encoding="utf-8").splitlines()
    return {f"{model:32} {recipe:12} {target:9}": row for row in rows for model, recipe, target, *_ in [row.split()]}


if __name__ == "__main__":
    sys.exit(main())
