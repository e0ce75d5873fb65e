"""The command `plan`: bits by budget."""

from __future__ import annotations

import click

import dfmpc_onnx
from dfmpc_onnx.cli.console import progress, say, standard_output
from dfmpc_onnx.errors import printable
from dfmpc_onnx.memory import limit_memory
from dfmpc_onnx.pipeline.targets import TARGETS

MAX_SIZE = click.option("--max-size", metavar="2MB|25%", help="of the file: bytes, or a share of the float file")
MEAN_BITS = click.option("--mean-bits", type=float, metavar="B", help="of all weights, at most")
MAX_FLOAT = click.option(
    "--max-float-layers", default=0, type=click.IntRange(min=0), metavar="N", help="how many may stay in float for that"
)


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
@click.option("--recipe", default=None, help="a recipe by name, or a .toml file  [default: mixed]")
@click.option("--activations", metavar="8|none", help="bits of the activations; the recipe's if not given")
@click.option("--layer", "layers", multiple=True, metavar="GLOB=BITS|float", help="fixed for matching layers")
@click.option("--target", default="cpu", show_default=True, metavar="|".join(TARGETS), help="the provider it is for")
@click.option("--reduce-range", is_flag=True, default=None, help="7 bits in place of 8, for processors that lack VNNI")
@click.option("--preprocess", default="auto", show_default=True, metavar="NAME|MEAN/STD", help="as of quantize")
@click.option("--input-shape", "shapes", multiple=True, metavar="NAME:1x3x224x224", help="for dynamic inputs")
@click.option("--input-range", "ranges", multiple=True, metavar="NAME=LOW:HIGH", help="what lies in an input")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="of procedural images")
@click.option("--threads", default=0, type=click.IntRange(min=0), metavar="N", help="of onnxruntime and BLAS")
@click.option("--json", "json_wanted", is_flag=True, help="one JSON object on standard output, and nothing else")
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
            progress=tell,
        )
    for warning in found.warnings:
        say(f"warning: {printable(warning)}")
    if json_wanted:
        click.echo(as_json(found.record, agreement=found.agreement, warnings=found.warnings))
    else:
        plan_table(found.record, found.agreement, output, standard_output())
