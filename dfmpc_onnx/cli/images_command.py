"""The command `images`: a sheet of the procedural images, or images learned from a model."""

from __future__ import annotations

import click
import cloup
from click.core import ParameterSource

import dfmpc_onnx
from dfmpc_onnx.cli.console import reader_may_leave, say, standard_output
from dfmpc_onnx.cli.shared_options import (
    FORCE_OVER_IMAGES,
    IMAGE_SEED,
    INPUT_SHAPES,
    JSON,
    LOOK,
    PREPROCESS,
    PROGRESS_LINES,
    QUIET,
    RANGES,
    THREADS,
    examples,
    file_name,
    model_argument,
)
from dfmpc_onnx.errors import OptionError, printable
from dfmpc_onnx.extras import install_command
from dfmpc_onnx.memory import keep_freed_memory, limit_memory

USUAL_SHEET, MOST_OF_A_SHEET, USUAL_LEARNED = 16, 256, 64
# What only one of the two forms takes: the names of parameters, and how they are written.
OF_A_SHEET = {"size": "--size"}
OF_LEARNING = {
    "steps": "--steps",
    "learning_rate": "--learning-rate",
    "start": "--start",
    "device": "--device",
    "preprocess": "--preprocess",
    "shapes": "--input-shape",
    "ranges": "--input-range",
    "threads": "--threads",
    "json_wanted": "--json",
}


@cloup.command(
    short_help="Show the generated images that stand in for data, or learn others.",
    formatter_settings=LOOK,
    epilog=examples(
        "dfmpc-onnx images -o sheet.png --count 16",
        "dfmpc-onnx images --learn zeroq model.onnx -o learned.npz",
        "dfmpc-onnx images --learn dsg model.onnx -o learned.npz --steps 200",
    ),
)
@model_argument(required=False)
@cloup.option_group(
    "Images",
    cloup.option(
        "-o",
        "--output",
        type=click.Path(),
        required=True,
        metavar="FILE.png|FILE.npz",
        help="where to write the sheet, or with --learn the images",
    ),
    cloup.option(
        "--count", type=click.IntRange(min=1), metavar="N", help="how many images  [default: 16, with --learn 64]"
    ),
    cloup.option(
        "--size",
        default=224,
        show_default=True,
        type=click.IntRange(8, 1024),
        metavar="N",
        help="height and width of each on the sheet, 8 to 1024",
    ),
    IMAGE_SEED,
    FORCE_OVER_IMAGES,
)
@cloup.option_group(
    "Learning",
    cloup.option(
        "--learn",
        "objective",
        metavar="NAME",
        help="learn images from MODEL by gradient: zeroq, dsg, dsg-labelled or labelled; needs PyTorch: "
        + install_command("learned"),
    ),
    cloup.option(
        "--steps", default=100, show_default=True, type=click.IntRange(min=1), metavar="N", help="steps of each batch"
    ),
    cloup.option(
        "--learning-rate",
        default=0.05,
        show_default=True,
        type=float,
        metavar="R",
        help="of the first step, in units of what the images vary by; it falls to 0",
    ),
    cloup.option(
        "--start",
        default="procedural",
        show_default=True,
        metavar="procedural|noise",
        help="what is moved: procedural images, or Gaussian noise as in the papers, which takes more steps",
    ),
    cloup.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="auto|cpu|cuda",
        help="where to compute; auto: on a GPU where PyTorch has one",
    ),
    PREPROCESS,
    INPUT_SHAPES,
    RANGES,
)
@cloup.option_group("Run", THREADS, JSON, PROGRESS_LINES, QUIET)
@click.pass_context
def images(
    ctx: click.Context,
    model: str | None,
    output: str,
    count: int | None,
    size: int,
    seed: int,
    force: bool,
    objective: str | None,
    steps: int,
    learning_rate: float,
    start: str,
    device: str,
    preprocess: str,
    shapes: tuple[str, ...],
    ranges: tuple[str, ...],
    threads: int,
    json_wanted: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Write the generated (procedural) images that stand in for data as one sheet, to look at.

    With --learn: write images that are learned from MODEL, for the --images of `quantize`. No recipe takes them by
    default: docs/how-to/learned-images.md says what they brought.
    """
    _check_form(ctx, model, objective)
    if objective is None or model is None:
        _sheet(output, size, count or USUAL_SHEET, seed, force=force, quiet=quiet)
        return
    from dfmpc_onnx.cli.progress import progress
    from dfmpc_onnx.report.json_text import as_json
    from dfmpc_onnx.report.learning import learning_table

    keep_freed_memory()
    with limit_memory(), progress(verbose - quiet, alone=json_wanted) as report:
        found = dfmpc_onnx.learn_images(
            model,
            output,
            objective,
            count=count or USUAL_LEARNED,
            steps=steps,
            learning_rate=learning_rate,
            start=start,
            seed=seed,
            device=device,
            preprocess=preprocess,
            input_shapes=shapes,
            input_ranges=ranges,
            progress=report,
            threads=threads,
            force=force,
        ).report
    for warning in found.warnings:
        say(f"warning: {printable(warning)}")
    with reader_may_leave():
        if json_wanted:
            click.echo(as_json(found, distance=found.distance))
        elif not quiet:
            learning_table(found, standard_output())


def _check_form(ctx: click.Context, model: str | None, objective: str | None) -> None:
    """Raise OptionError where something was given that the form asked for does not take."""
    others = OF_LEARNING if objective is None else OF_A_SHEET
    for name, written in others.items():
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            what = "learned images, so give --learn" if objective is None else "a sheet, so give it without --learn"
            raise OptionError(f"{written}: is for {what}, or leave {written} out")
    if objective is None and model is not None:
        raise OptionError(
            f"{file_name(model)}: a model is read to learn images from; give --learn NAME, or leave the model out"
        )
    if objective is not None and model is None:
        raise OptionError("--learn: images are learned from a model; name an .onnx file")


def _sheet(output: str, size: int, count: int, seed: int, *, force: bool, quiet: bool) -> None:
    from dfmpc_onnx.report.image_sheet import write_sheet

    if count > MOST_OF_A_SHEET:
        raise OptionError(f"--count {count}: a sheet holds at most {MOST_OF_A_SHEET} images; give fewer")
    write_sheet(output, size, count, seed, force=force)
    if not quiet:
        click.echo(f"{count} generated images of {size}x{size}, seed {seed}: {file_name(output)}")
