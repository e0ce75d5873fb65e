"""The command line: parse, call, print. Exit status 0 done, 1 below a threshold, 2 the user's mistake, 3 a defect.

5 where some jobs of a batch were not written. 130 where it was interrupted (SIGINT), 143 where it was asked to end
(SIGTERM).
"""

from __future__ import annotations

import click
import cloup

import dfmpc_onnx
from dfmpc_onnx.cli.batch_command import batch
from dfmpc_onnx.cli.completion import (
    complete_pass,
    complete_preprocess,
    complete_provider,
    complete_recipe,
    complete_target,
)
from dfmpc_onnx.cli.console import reader_may_leave, say, standard_output
from dfmpc_onnx.cli.diagnose_command import diagnose
from dfmpc_onnx.cli.images_command import images
from dfmpc_onnx.cli.plan_command import plan
from dfmpc_onnx.cli.quantize_command import quantize
from dfmpc_onnx.cli.report_command import report
from dfmpc_onnx.cli.shared_options import (
    DETAILS,
    FORCE,
    IMAGE_SEED,
    INPUT_SHAPES,
    JSON,
    LAYER_ERRORS,
    LOOK,
    MODEL,
    PROGRESS_LINES,
    QUIET,
    RANGES,
    THREADS,
    examples,
    min_agreement,
    min_sqnr,
)
from dfmpc_onnx.cli.thresholds import NOT_NEGATIVE, below_thresholds
from dfmpc_onnx.cli.usage_errors import Group
from dfmpc_onnx.errors import printable
from dfmpc_onnx.memory import limit_memory

MAKE, LOOK_UP = cloup.Section("Quantize"), cloup.Section("Look")


@cloup.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    formatter_settings=LOOK,
    epilog=examples(
        "dfmpc-onnx quantize model.onnx -o small.onnx",
        "dfmpc-onnx inspect small.onnx",
        "dfmpc-onnx verify model.onnx small.onnx --images photos/",
    )
    + """

\b
Tab completes commands, options and names once the shell has read this line:
  bash  eval "$(_DFMPC_ONNX_COMPLETE=bash_source dfmpc-onnx)"
  zsh   eval "$(_DFMPC_ONNX_COMPLETE=zsh_source dfmpc-onnx)"
  fish  _DFMPC_ONNX_COMPLETE=fish_source dfmpc-onnx | source""",
)
@click.version_option(package_name="dfmpc-onnx", prog_name="dfmpc-onnx")
def main() -> None:
    """Quantize ONNX networks without data, and check that the result works.

    `dfmpc-onnx COMMAND --help` has the options of a command, with examples.
    """


main.add_command(quantize, section=MAKE)
main.add_command(plan, section=MAKE)
main.add_command(batch, section=MAKE)
main.add_command(report, section=LOOK_UP)
main.add_command(diagnose, section=LOOK_UP)
main.add_command(images, section=LOOK_UP)


@main.command(
    section=LOOK_UP,
    short_help="List layers, what each recipe would do, and kernels.",
    formatter_settings=LOOK,
    epilog=examples("dfmpc-onnx inspect model.onnx", "dfmpc-onnx inspect small.onnx --latency --threads 1"),
)
@MODEL
@cloup.option_group(
    "Options",
    cloup.option("--latency", is_flag=True, help="measure here what takes the time, and what integers would save"),
    THREADS,
    JSON,
    DETAILS,
)
def inspect(model: str, latency: bool, threads: int, json_wanted: bool, verbose: bool) -> None:
    """List what each recipe would do to the layers of MODEL; of a quantized one, how it is stored and runs."""
    from dfmpc_onnx.report.inspection_text import inspection_table
    from dfmpc_onnx.report.json_text import as_json

    with limit_memory():
        inspection = dfmpc_onnx.inspect(model, latency=latency, threads=threads)
    if json_wanted:
        click.echo(as_json(inspection))
    else:
        inspection_table(inspection, standard_output(), verbose=verbose)


@main.command(
    section=MAKE,
    short_help="Rewrite packed weights as plain int8.",
    formatter_settings=LOOK,
    epilog=examples("dfmpc-onnx expand small.onnx -o plain.onnx"),
)
@MODEL
@cloup.option_group(
    "Options",
    cloup.option(
        "-o",
        "--output",
        type=click.Path(),
        required=True,
        metavar="FILE",
        help="where to write the plain form; - for standard output",
    ),
    FORCE,
    JSON,
)
def expand(model: str, output: str, force: bool, json_wanted: bool) -> None:
    """Write MODEL, a file that `quantize` made, with plain int8 weights: for tools that parse ONNX themselves."""
    from dfmpc_onnx.cli.output import check_stream, write_model
    from dfmpc_onnx.report.json_text import as_json
    from dfmpc_onnx.report.text import expansion_table

    to_stream = check_stream(output, json_wanted)
    with limit_memory():
        done = dfmpc_onnx.expand(model, None if to_stream else output, force=force)
    if to_stream:
        write_model(done.model)
    elif json_wanted:
        click.echo(as_json(done.report))
    else:
        expansion_table(done.report, output, standard_output())


@main.command(
    section=MAKE,
    short_help="Compare a quantized model with its float one.",
    formatter_settings=LOOK,
    epilog=examples(
        "dfmpc-onnx verify model.onnx small.onnx",
        "dfmpc-onnx verify model.onnx small.onnx --images photos/ --min-agreement 98",
        "dfmpc-onnx verify model.onnx small.onnx --provider CPU --provider CUDA",
    ),
)
@cloup.argument("float_model", metavar="FLOAT", type=click.Path())
@cloup.argument("quantized", metavar="QUANTIZED", type=click.Path())
@cloup.option_group(
    "Input",
    cloup.option(
        "--images",
        type=click.Path(),
        metavar="FILE.npz|FOLDER",
        help="an .npz with x (and y), or a folder of images (and labels.csv)",
    ),
    cloup.option(
        "--preprocess",
        default=None,
        metavar="NAME|MEAN/STD",
        shell_complete=complete_preprocess,
        help="auto, imagenet, lite, keras, unit, raw, caffe or half, or MEAN/STD  [default: as QUANTIZED states]",
    ),
    cloup.option(
        "--count",
        type=click.IntRange(min=1),
        metavar="N",
        help="how many images  [default: all of --images, else up to 64]",
    ),
    INPUT_SHAPES,
    RANGES,
    IMAGE_SEED,
)
@cloup.option_group(
    "Thresholds",
    min_agreement("exit 1 below this agreement"),
    min_sqnr("exit 1 below this signal-to-noise ratio"),
    cloup.option(
        "--max-steps",
        type=NOT_NEGATIVE,
        metavar="N",
        help="exit 1 where a provider's outputs are further from the CPU provider's, in steps of the output's scale",
    ),
)
@cloup.option_group(
    "Run",
    cloup.option(
        "--provider",
        "providers",
        multiple=True,
        metavar="NAME",
        shell_complete=complete_provider,
        help="of onnxruntime, such as CPU or CUDA; may be repeated  [default: CPU]",
    ),
    LAYER_ERRORS,
    THREADS,
    JSON,
    PROGRESS_LINES,
    QUIET,
)
def verify(
    float_model: str,
    quantized: str,
    images: str | None,
    preprocess: str | None,
    providers: tuple[str, ...],
    shapes: tuple[str, ...],
    ranges: tuple[str, ...],
    min_agreement: float | None,
    min_sqnr: float | None,
    max_steps: float | None,
    seed: int,
    count: int | None,
    threads: int,
    json_wanted: bool,
    verbose: bool,
    quiet: bool,
    layer_errors: bool,
) -> None:
    """Run FLOAT and QUANTIZED on the same images and compare their outputs."""
    from dfmpc_onnx.cli.progress import progress
    from dfmpc_onnx.report.json_text import as_json
    from dfmpc_onnx.report.text import verification_table

    with limit_memory(), progress(verbose - quiet, alone=json_wanted) as report:
        found = dfmpc_onnx.verify(
            float_model,
            quantized,
            images=images,
            preprocess=preprocess,
            providers=providers or ("CPU",),
            input_shapes=shapes,
            input_ranges=ranges,
            seed=seed,
            threads=threads,
            count=count,
            progress=report,
            layer_errors=layer_errors,
        )
    below = below_thresholds(found, min_agreement, min_sqnr, max_steps, images is not None)
    for warning in found.warnings:
        say(f"warning: {printable(warning)}")
    with reader_may_leave():
        if json_wanted:
            click.echo(as_json(found, below=below, verdict=found.verdict))
        elif not quiet:
            verification_table(found, standard_output(), below=bool(below))
    for line in below:
        say(f"failed: {line}")
    if below:
        click.get_current_context().exit(1)


@main.command(
    section=LOOK_UP,
    short_help="List the passes, or say what one does.",
    formatter_settings=LOOK,
    epilog=examples("dfmpc-onnx passes", "dfmpc-onnx passes compensate"),
)
@cloup.argument("name", required=False, shell_complete=complete_pass)
@DETAILS
def passes(name: str | None, verbose: bool) -> None:
    """List the passes in the order in which recipes run them, or say what the one called NAME does, and why."""
    from dfmpc_onnx import catalog
    from dfmpc_onnx.report.catalog_text import pass_page, passes_table

    if name is None:
        recipes = list(catalog.recipes().values())
        passes_table(list(catalog.passes().values()), recipes, standard_output(), verbose=verbose)
    else:
        pass_page(catalog.find_pass(name), standard_output())


@main.command(
    section=LOOK_UP,
    short_help="List the recipes, or print one as TOML.",
    formatter_settings=LOOK,
    epilog=examples(
        "dfmpc-onnx recipes", "dfmpc-onnx recipes int8 > mine.toml", "dfmpc-onnx recipes small.onnx > as-made.toml"
    ),
)
@cloup.argument("name", required=False, shell_complete=complete_recipe)
def recipes(name: str | None) -> None:
    """List the recipes, or print one as TOML, to copy and change.

    NAME is that of a recipe, of a .toml file, or of a quantized .onnx file, for the recipe that it was made with.
    """
    from dfmpc_onnx import catalog
    from dfmpc_onnx.report.catalog_text import recipes_table

    if name is None:
        recipes_table(list(catalog.recipes().values()), standard_output())
    elif name.endswith(".onnx"):
        from dfmpc_onnx.api.provenance import recorded_recipe
        from dfmpc_onnx.model.source import load
        from dfmpc_onnx.pipeline.recipe import as_toml

        click.echo(as_toml(recorded_recipe(load(name))), nl=False)
    else:
        click.echo(catalog.recipe_page(name), nl=False)


@main.command(
    section=LOOK_UP,
    short_help="List the targets, or the rules of one with their sources.",
    formatter_settings=LOOK,
    epilog=examples("dfmpc-onnx targets", "dfmpc-onnx targets tensorrt", "dfmpc-onnx targets tensorrt --json"),
)
@cloup.argument("name", required=False, shell_complete=complete_target)
@cloup.option_group("Options", JSON)
def targets(name: str | None, json_wanted: bool) -> None:
    """List the targets of `quantize --target`, or the rules that a file for NAME follows, and where they come from."""
    from dfmpc_onnx.pipeline.targets import parse_target
    from dfmpc_onnx.report.json_text import as_json
    from dfmpc_onnx.report.target_text import TargetList, target_page, targets_table

    known = TargetList(tuple(dfmpc_onnx.targets().values()))
    chosen = known if name is None else parse_target(name)
    if json_wanted:
        click.echo(as_json(chosen))
    elif isinstance(chosen, TargetList):
        targets_table(chosen.targets, standard_output())
    else:
        target_page(chosen, standard_output())
