"""The command `diagnose`."""

from __future__ import annotations

import click
import cloup

import dfmpc_onnx
from dfmpc_onnx.cli.console import reader_may_leave, say, standard_output
from dfmpc_onnx.cli.shared_options import (
    FORCE,
    JSON,
    LOOK,
    QUIET,
    THREADS,
    VERBOSE,
    compared_inputs,
    examples,
)
from dfmpc_onnx.errors import ModelError, OptionError, printable
from dfmpc_onnx.memory import keep_freed_memory, limit_memory


@cloup.command(
    short_help="Say which layer loses what is lost, why, and what helps.",
    formatter_settings=LOOK,
    epilog=examples(
        "dfmpc-onnx diagnose model.onnx small.onnx",
        "dfmpc-onnx diagnose model.onnx small.onnx --blame --images photos/",
        "dfmpc-onnx diagnose model.onnx small.onnx --blame --apply -o better.onnx",
    ),
)
@cloup.argument("float_model", metavar="FLOAT", type=click.Path())
@cloup.argument("quantized", metavar="QUANTIZED", type=click.Path())
@cloup.option_group(
    "Diagnosis",
    cloup.option(
        "--blame",
        is_flag=True,
        help="restore each layer's weights and each activation to float in turn, rank them by what that gains, and "
        "try what helps",
    ),
    cloup.option(
        "--apply", "apply_best", is_flag=True, help="write the file with the best change that was tried to -o"
    ),
    cloup.option("-o", "--output", type=click.Path(), metavar="FILE", help="where --apply writes it"),
    FORCE,
)
@cloup.option_group(
    "Input",
    *compared_inputs(
        images="images of yours in place of generated ones",
        preprocess="auto, imagenet, lite, keras, unit, raw, caffe or half, or MEAN/STD  [default: as QUANTIZED states, "
        "unless FLOAT rules that out]",
        count="how many inputs  [default: 16]",
    ),
)
@cloup.option_group("Run", THREADS, JSON, VERBOSE, QUIET)
def diagnose(
    float_model: str,
    quantized: str,
    blame: bool,
    apply_best: bool,
    output: str | None,
    force: bool,
    images: str | None,
    preprocess: str | None,
    count: int | None,
    shapes: tuple[str, ...],
    ranges: tuple[str, ...],
    seed: int,
    threads: int,
    json_wanted: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Compare FLOAT and QUANTIZED layer by layer: where error enters, which layer is to blame, why, and what helps.

    Neither file is changed. A change is advised only after it was made and measured.
    """
    from dfmpc_onnx.cli.progress import progress
    from dfmpc_onnx.report.diagnosis_text import diagnosis_table, no_help
    from dfmpc_onnx.report.json_text import as_json

    if apply_best != (output is not None):
        raise OptionError("--apply and -o go together: --apply -o better.onnx writes the best change that was tried")
    keep_freed_memory()
    with limit_memory(), progress(verbose - quiet, alone=json_wanted) as report:
        found = dfmpc_onnx.diagnose(
            float_model,
            quantized,
            images=images,
            preprocess=preprocess,
            input_shapes=shapes,
            input_ranges=ranges,
            seed=seed,
            threads=threads,
            count=count,
            blame=blame or apply_best,
            output=output,
            force=force,
            progress=report,
        )
    for warning in found.warnings:
        say(f"warning: {printable(warning)}")
    with reader_may_leave():
        if json_wanted:
            click.echo(as_json(found, culprit=found.culprit))
        elif not quiet:
            diagnosis_table(found, standard_output(), verbose=verbose)
    if apply_best and found.output is None:
        raise ModelError(f"{quantized}: {no_help(found)}; nothing has been written")
