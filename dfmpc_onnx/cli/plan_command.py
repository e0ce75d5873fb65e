"""The command `plan`: bits by budget."""

from __future__ import annotations

import sys

import click
import cloup

import dfmpc_onnx
from dfmpc_onnx.cli.console import say, standard_output
from dfmpc_onnx.cli.shared_options import (
    ACTIVATIONS,
    FORCE_OVER_PLAN,
    IMAGE_SEED,
    IMAGE_SOURCE,
    INPUT_SHAPES,
    JSON,
    LAYERS,
    LOOK,
    MAX_FLOAT,
    MAX_SECONDS,
    MAX_SIZE,
    MEAN_BITS,
    PREPROCESS,
    QUIET,
    RANGES,
    RECIPE,
    REDUCE_RANGE,
    TARGET,
    THREADS,
    VERBOSE,
    examples,
    min_agreement,
    min_sqnr,
    model_argument,
)
from dfmpc_onnx.errors import printable
from dfmpc_onnx.memory import keep_freed_memory, limit_memory


@cloup.command(
    short_help="Choose bits layer by layer for a size or a quality.",
    formatter_settings=LOOK,
    epilog=examples(
        "dfmpc-onnx plan model.onnx --max-size 25% -o plan.toml",
        "dfmpc-onnx quantize model.onnx --recipe plan.toml -o small.onnx",
        "dfmpc-onnx plan model.onnx --images photos/ --min-agreement 98 -o plan.toml",
        "dfmpc-onnx plan --from plan.toml --mean-bits 4 -o smaller.toml",
    ),
)
@model_argument(required=False)
@cloup.option_group(
    "Output",
    cloup.option(
        "-o",
        "--output",
        type=click.Path(),
        metavar="FILE.toml",
        help="where to write the plan; - for standard output; without it, it is shown alone",
    ),
    FORCE_OVER_PLAN,
    JSON,
    VERBOSE,
    QUIET,
)
@cloup.option_group(
    "Limits",
    MAX_SIZE,
    MEAN_BITS,
    min_sqnr("the least predicted signal-to-noise ratio"),
    MAX_FLOAT,
    min_agreement("how often the first answer is that of the float model on --images, at least, by its 95 % interval"),
    MAX_SECONDS,
)
@cloup.option_group(
    "Plan",
    cloup.option("--pareto", default=0, type=click.IntRange(min=0), metavar="N", help="show N plans, smallest to best"),
    cloup.option(
        "--search",
        type=click.Choice(["knapsack", "greedy"], case_sensitive=False),
        default="knapsack",
        show_default=True,
        metavar="NAME",
        help="knapsack, from what each layer costs alone; or greedy, which runs the network at every step",
    ),
    cloup.option(
        "--from", "table_from", type=click.Path(), metavar="PLAN.toml", help="plan again from what this plan measured"
    ),
    RECIPE,
    ACTIVATIONS,
    LAYERS,
    REDUCE_RANGE,
)
@cloup.option_group("Input", PREPROCESS, INPUT_SHAPES, RANGES, IMAGE_SOURCE)
@cloup.option_group("Run", TARGET, IMAGE_SEED, THREADS)
def plan(
    model: str | None,
    output: str | None,
    json_wanted: bool,
    verbose: bool,
    quiet: bool,
    search: str,
    recipe: str | None,
    shapes: tuple[str, ...],
    ranges: tuple[str, ...],
    **options: object,
) -> None:
    """Choose the bits of all weights of MODEL for a size or a quality, as a file that `quantize --recipe` takes.

    The file is a text: look at it, and change what you like. Without a limit the recipe's own holds. A plan that you
    changed, and any other file of yours, is not written over without --force.
    """
    from dfmpc_onnx.cli.output import check_stream, write_bytes
    from dfmpc_onnx.cli.progress import progress
    from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE
    from dfmpc_onnx.report.json_text import as_json
    from dfmpc_onnx.report.plan_text import plan_table

    to_stream = check_stream(output, json_wanted)
    keep_freed_memory()
    with limit_memory(), progress(verbose - quiet, alone=json_wanted) as report:
        found = dfmpc_onnx.plan(
            model,
            None if to_stream else output,
            recipe or DEFAULT_RECIPE,
            search="greedy" if search == "greedy" else "knapsack",
            input_shapes=shapes,
            input_ranges=ranges,
            progress=_of_search if search == "greedy" and not (quiet or json_wanted or sys.stderr.isatty()) else report,
            **options,  # type: ignore[arg-type]  # each option under the name that plan() has for it
        )
    for warning in found.warnings:
        say(f"warning: {printable(warning)}")
    if to_stream:
        write_bytes(found.text.encode())
    if json_wanted:
        click.echo(as_json(found.record, agreement=found.agreement, warnings=found.warnings, output=output))
    elif not quiet:
        where = "standard output" if to_stream else output
        plan_table(found.record, found.agreement, where, standard_output(error=to_stream), verbose=verbose)


def _of_search(done: int, total: int, name: str) -> None:
    """How far a search is, as lines of a log: it takes minutes, and there is no terminal to show them in."""
    if name.startswith("greedy step"):
        say(name)
