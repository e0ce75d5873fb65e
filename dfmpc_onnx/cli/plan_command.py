"""The command `plan`: bits by budget."""

from __future__ import annotations

import sys

import click

import dfmpc_onnx
from dfmpc_onnx.cli.console import progress, say, standard_output
from dfmpc_onnx.cli.shared_options import (
    ACTIVATIONS,
    INPUT_SHAPES,
    JSON,
    MAX_FLOAT,
    MAX_SIZE,
    MEAN_BITS,
    RANGES,
    RECIPE,
    REDUCE_RANGE,
    THREADS,
)
from dfmpc_onnx.errors import printable
from dfmpc_onnx.memory import limit_memory
from dfmpc_onnx.pipeline.targets import TARGETS


@click.command()
@click.argument("model", type=click.Path(), required=False)
@click.option("-o", "--output", type=click.Path(), help="where to write the plan (.toml)")
@MAX_SIZE
@MEAN_BITS
@click.option("--min-sqnr", type=float, metavar="DB", help="predicted signal-to-noise ratio, at least")
@MAX_FLOAT
@click.option("--images", type=click.Path(), help="unlabelled images that plans are judged on (.npz or folder)")
@click.option("--min-agreement", type=float, metavar="PERCENT", help="on --images, at least, by its 95 % interval")
@click.option("--pareto", default=0, type=click.IntRange(min=0), metavar="N", help="show N plans, smallest to best")
@click.option("--search", type=click.Choice(["knapsack", "greedy"]), default="knapsack", show_default=True)
@click.option("--from", "table_from", type=click.Path(), metavar="PLAN", help="plan again from this plan's table")
@RECIPE
@ACTIVATIONS
@click.option("--layer", "layers", multiple=True, metavar="GLOB=BITS|float", help="fixed for matching layers")
@click.option("--target", default="cpu", show_default=True, metavar="|".join(TARGETS), help="the provider it is for")
@REDUCE_RANGE
@click.option("--preprocess", default="auto", show_default=True, metavar="NAME|MEAN/STD", help="as of quantize")
@INPUT_SHAPES
@RANGES
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="of procedural images")
@THREADS
@JSON
def plan(
    model: str | None,
    output: str | None,
    max_size: str | None,
    mean_bits: float | None,
    min_sqnr: float | None,
    max_float_layers: int,
    images: str | None,
    min_agreement: float | None,
    pareto: int,
    search: str,
    table_from: str | None,
    recipe: str | None,
    activations: str | None,
    layers: tuple[str, ...],
    target: str,
    reduce_range: bool | None,
    preprocess: str,
    shapes: tuple[str, ...],
    ranges: tuple[str, ...],
    seed: int,
    threads: int,
    json_wanted: bool,
) -> None:
    """Choose the bits of all weights of MODEL under one budget, as a file that quantize --recipe takes."""
    from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE
    from dfmpc_onnx.report.json_text import as_json
    from dfmpc_onnx.report.plan_text import plan_table

    with limit_memory(), progress(quiet=json_wanted) as tell:
        found = dfmpc_onnx.plan(
            model,
            output,
            recipe or DEFAULT_RECIPE,
            max_size=max_size,
            mean_bits=mean_bits,
            min_sqnr=min_sqnr,
            max_float_layers=max_float_layers,
            min_agreement=min_agreement,
            pareto=pareto,
            search="greedy" if search == "greedy" else "knapsack",
            table_from=table_from,
            activations=activations,
            layers=layers,
            reduce_range=reduce_range,
            target=target,
            preprocess=preprocess,
            input_shapes=shapes,
            input_ranges=ranges,
            images=images,
            seed=seed,
            threads=threads,
            progress=_said_of_search if search == "greedy" and not sys.stderr.isatty() else tell,
        )
    for warning in found.warnings:
        say(f"warning: {printable(warning)}")
    if json_wanted:
        click.echo(as_json(found.record, agreement=found.agreement, warnings=found.warnings))
    else:
        plan_table(found.record, found.agreement, output, standard_output())


def _said_of_search(line: str) -> None:
    """How far a search is, as lines of a log: it takes minutes, and there is no terminal to show them in."""
    if line.startswith("greedy step"):
        say(line)
