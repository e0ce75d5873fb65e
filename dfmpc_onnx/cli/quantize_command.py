"""The command `quantize`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import cloup

import dfmpc_onnx
from dfmpc_onnx.cli.console import reader_may_leave, say, standard_output
from dfmpc_onnx.cli.shared_options import (
    ACTIVATIONS,
    FLOAT16,
    FORCE,
    IMAGE_SEED,
    IMAGE_SOURCE,
    INPUT_SHAPES,
    JSON,
    LAYER_ERRORS,
    LAYERS,
    LOOK,
    MAX_FLOAT,
    MAX_SECONDS,
    MAX_SIZE,
    MEAN_BITS,
    MODEL,
    PREPROCESS,
    QUIET,
    RANGES,
    RECIPE,
    REDUCE_RANGE,
    TARGET,
    THREADS,
    VERBOSE,
    WEIGHTS,
    examples,
    max_latency,
    min_sqnr,
)
from dfmpc_onnx.errors import printable
from dfmpc_onnx.memory import keep_freed_memory, limit_memory

if TYPE_CHECKING:
    from dfmpc_onnx.evaluation.fidelity import Fidelity


@cloup.command(
    short_help="Make a model smaller and faster, and check the result.",
    formatter_settings=LOOK,
    epilog=examples(
        "dfmpc-onnx quantize model.onnx -o small.onnx",
        "dfmpc-onnx quantize model.onnx -o small.onnx --recipe int8 --target tensorrt",
        "dfmpc-onnx quantize model.onnx -o small.onnx --max-size 25%",
        "dfmpc-onnx quantize model.onnx -o small.onnx --images photos/ --min-sqnr 20",
        "dfmpc-onnx quantize model.onnx -o small.onnx --report small.html",
        "dfmpc-onnx quantize model.onnx -o - > small.onnx",
    ),
)
@MODEL
@cloup.option_group(
    "Output",
    cloup.option(
        "-o",
        "--output",
        type=click.Path(),
        required=True,
        metavar="FILE",
        help="where to write the quantized model; - for standard output",
    ),
    FORCE,
    cloup.option(
        "--report",
        type=click.Path(),
        metavar="FILE.html",
        help="where to write what was done and lost as an HTML page, to read and hand on",
    ),
    JSON,
    VERBOSE,
    QUIET,
)
@cloup.option_group("Bits", RECIPE, WEIGHTS, ACTIVATIONS, LAYERS, REDUCE_RANGE)
@cloup.option_group(
    "Limits",
    MAX_SIZE,
    MEAN_BITS,
    min_sqnr("the least signal-to-noise ratio of the outputs: planned for, and exit 1 where the check is below"),
    MAX_FLOAT,
    max_latency(
        "the longest run on this machine, or % of the float model's: what accuracy keeps in float is quantized until "
        "that is met"
    ),
    MAX_SECONDS,
)
@cloup.option_group("Input", PREPROCESS, INPUT_SHAPES, RANGES, IMAGE_SOURCE)
@cloup.option_group(
    "Run",
    TARGET,
    FLOAT16,
    IMAGE_SEED,
    LAYER_ERRORS,
    THREADS,
    cloup.option(
        "--dump", type=click.Path(), metavar="FOLDER", help="where to write the graph after each pass, to look into"
    ),
)
def quantize(
    model: str,
    output: str,
    force: bool,
    json_wanted: bool,
    verbose: bool,
    quiet: bool,
    min_sqnr: float | None,
    shapes: tuple[str, ...],
    ranges: tuple[str, ...],
    recipe: str | None,
    max_latency: str | None,
    **options: object,
) -> None:
    """Write a quantized form of MODEL, then run both on inputs that took no part in it and compare them.

    No data is needed: statistics come from the network itself and from generated images. MODEL is never changed, and
    a file of yours that is no ONNX model is not written over without --force.
    """
    from dfmpc_onnx.cli.output import check_stream, write_model
    from dfmpc_onnx.cli.progress import progress
    from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE
    from dfmpc_onnx.report.json_text import report_json
    from dfmpc_onnx.report.text import report_table

    to_stream = check_stream(output, json_wanted)
    keep_freed_memory()
    with limit_memory(), progress(verbose - quiet, alone=json_wanted) as report:
        result = dfmpc_onnx.quantize(
            model,
            None if to_stream else output,
            recipe or DEFAULT_RECIPE,
            input_shapes=shapes,
            input_ranges=ranges,
            force=force,
            min_sqnr=min_sqnr,
            max_latency=max_latency,
            progress=report,
            **options,  # type: ignore[arg-type]  # each option under the name that quantize() has for it
        )
    for warning in result.report.warnings:
        say(f"warning: {printable(warning)}")
    if to_stream:
        write_model(result.model)
    below = _below_sqnr(result.report.fidelity, min_sqnr)
    with reader_may_leave():  # on standard error where standard output carries the file
        if json_wanted:
            click.echo(report_json(result.report))
        elif not quiet:
            where, console = "standard output" if to_stream else output, standard_output(error=to_stream)
            report_table(result.report, where, console, verbose=verbose, below=below is not None)
    if below is not None:
        say(f"failed: {below}")
        click.get_current_context().exit(1)


def _below_sqnr(fidelity: Fidelity | None, least: float | None) -> str | None:
    """What is below what was asked for in the closing check, or could not be told; None where it is met."""
    if least is None or (fidelity is not None and not fidelity.not_known and fidelity.sqnr_db >= least):
        return None
    if fidelity is None or fidelity.not_known:
        return f"what the result loses is not known, so it cannot meet --min-sqnr {least:g}"
    return f"SQNR {fidelity.sqnr_db} dB is below --min-sqnr {least:g}"
