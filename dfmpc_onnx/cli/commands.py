"""The command line: parse, call, print. Exit status 0 done, 1 below a threshold, 2 the user's mistake, 3 a defect.

130 where it was interrupted (SIGINT), 143 where it was asked to end (SIGTERM).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import dfmpc_onnx
from dfmpc_onnx.cli.console import progress, say, standard_output
from dfmpc_onnx.cli.plan_command import plan
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
from dfmpc_onnx.cli.thresholds import DECIBELS, NOT_NEGATIVE, PERCENT, below_thresholds
from dfmpc_onnx.cli.usage_errors import Group
from dfmpc_onnx.errors import printable
from dfmpc_onnx.memory import limit_memory
from dfmpc_onnx.pipeline.targets import TARGETS

if TYPE_CHECKING:
    from dfmpc_onnx.evaluation.fidelity import Fidelity

MODEL = click.argument("model", type=click.Path())
PREPROCESS = "auto, imagenet, lite, keras, unit, raw, caffe, half, or MEAN/STD on the 0..255 scale; with :rgb or :bgr"


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dfmpc-onnx", prog_name="dfmpc-onnx")
def main() -> None:
    """Quantize ONNX networks without data, and prove that the result works."""


main.add_command(plan)


@main.command()
@MODEL
@click.option("-o", "--output", type=click.Path(), required=True, help="where to write the quantized model")
@RECIPE
@click.option("--weights", metavar="LOW/HIGH|BITS|ternary/HIGH", help="bits of the weights; the recipe's if not given")
@ACTIVATIONS
@click.option("--layer", "layers", multiple=True, metavar="GLOB=BITS|float", help="override for matching layers")
@click.option(
    "--target",
    default="cpu",
    show_default=True,
    metavar="|".join(TARGETS),
    help="the execution provider that the file is for",
)
@REDUCE_RANGE
@click.option("--preprocess", default="auto", show_default=True, metavar="NAME|MEAN/STD", help=PREPROCESS)
@INPUT_SHAPES
@RANGES
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="of procedural images and samples"
)
@click.option(
    "--images", type=click.Path(), help="unlabelled images of yours in place of procedural ones (.npz or folder)"
)
@click.option(
    "--max-latency",
    metavar="MS|PERCENT%",
    help="quantize what accuracy keeps in float until a run here takes at most this long; % of the float model's time",
)
@THREADS
@MAX_SIZE
@MEAN_BITS
@click.option("--min-sqnr", type=DECIBELS, metavar="DB", help="predicted, and exit 1 where the closing check is below")
@MAX_FLOAT
@click.option("--dump", type=click.Path(), metavar="DIR", help="write the graph after each pass into this folder")
@JSON
def quantize(
    model: str,
    output: str,
    recipe: str | None,
    weights: str | None,
    activations: str | None,
    layers: tuple[str, ...],
    target: str,
    reduce_range: bool | None,
    preprocess: str,
    shapes: tuple[str, ...],
    ranges: tuple[str, ...],
    seed: int,
    images: str | None,
    max_latency: str | None,
    threads: int,
    max_size: str | None,
    mean_bits: float | None,
    min_sqnr: float | None,
    max_float_layers: int,
    dump: str | None,
    json_wanted: bool,
) -> None:
    """Write a quantized form of MODEL, then load it in onnxruntime and compare it with MODEL."""
    from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE
    from dfmpc_onnx.report.json_text import report_json
    from dfmpc_onnx.report.text import report_table

    name = recipe or DEFAULT_RECIPE
    with limit_memory(), progress(quiet=json_wanted) as tell:
        result = dfmpc_onnx.quantize(
            model,
            output,
            name,
            weights=weights,
            activations=activations,
            layers=layers,
            reduce_range=reduce_range,
            target=target,
            preprocess=preprocess,
            input_shapes=shapes,
            input_ranges=ranges,
            images=images,
            seed=seed,
            max_latency=max_latency,
            dump=dump,
            threads=threads,
            progress=tell,
            max_size=max_size,
            mean_bits=mean_bits,
            min_sqnr=min_sqnr,
            max_float_layers=max_float_layers,
        )
    for warning in result.report.warnings:
        say(f"warning: {printable(warning)}")
    if json_wanted:
        click.echo(report_json(result.report))
    else:
        report_table(result.report, output, standard_output())
    _check_sqnr(result.report.fidelity, min_sqnr)


def _check_sqnr(fidelity: Fidelity | None, least: float | None) -> None:
    """Exit with 1 where the closing check is below what was asked for."""
    if least is not None and fidelity is not None and fidelity.sqnr_db < least:
        say(f"failed: SQNR {fidelity.sqnr_db} dB is below {least} dB")
        click.get_current_context().exit(1)


@main.command()
@MODEL
@click.option("--latency", is_flag=True, help="measure here what takes the time, and what integers would save")
@THREADS
@JSON
def inspect(model: str, latency: bool, threads: int, json_wanted: bool) -> None:
    """List what each recipe would do to the layers of MODEL, or how a quantized one is stored and runs."""
    from dfmpc_onnx.report.inspection_text import inspection_table
    from dfmpc_onnx.report.json_text import as_json

    with limit_memory():
        inspection = dfmpc_onnx.inspect(model, latency=latency, threads=threads)
    if json_wanted:
        click.echo(as_json(inspection))
    else:
        inspection_table(inspection, standard_output())


@main.command()
@MODEL
@click.option("-o", "--output", type=click.Path(), required=True, help="where to write the plain form")
@JSON
def expand(model: str, output: str, json_wanted: bool) -> None:
    """Write MODEL, a quantized file, with plain int8 weights: for tools that parse ONNX themselves."""
    from dfmpc_onnx.report.json_text import as_json
    from dfmpc_onnx.report.text import expansion_table

    with limit_memory():
        report = dfmpc_onnx.expand(model, output).report
    if json_wanted:
        click.echo(as_json(report))
    else:
        expansion_table(report, output, standard_output())


@main.command()
@click.argument("float_model", metavar="FLOAT", type=click.Path())
@click.argument("quantized", metavar="QUANTIZED", type=click.Path())
@click.option("--images", type=click.Path(), help="an .npz with x (and y), or a folder of images (and labels.csv)")
@click.option("--preprocess", default=None, metavar="NAME|MEAN/STD", help="as QUANTIZED states if not given")
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="such as CPU; may be repeated")
@INPUT_SHAPES
@RANGES
@click.option("--min-agreement", type=PERCENT, metavar="PERCENT", help="exit 1 below this agreement")
@click.option("--min-sqnr", type=DECIBELS, metavar="DB", help="exit 1 below this signal-to-noise ratio")
@click.option(
    "--max-steps",
    type=NOT_NEGATIVE,
    metavar="N",
    help="exit 1 where a provider's outputs are further from the CPU provider's, in steps of the output's scale",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="of the images without --images")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="how many images  [default: all of --images]")
@THREADS
@JSON
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
) -> None:
    """Run FLOAT and QUANTIZED on the same images and compare their outputs."""
    from dfmpc_onnx.report.json_text import as_json
    from dfmpc_onnx.report.text import verification_table

    with limit_memory(), progress(quiet=json_wanted) as tell:
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
            progress=tell,
        )
    below = below_thresholds(found, min_agreement, min_sqnr, max_steps, images is not None)
    for warning in found.warnings:
        say(f"warning: {printable(warning)}")
    if json_wanted:
        click.echo(as_json(found, below=below, verdict=found.verdict))
    else:
        verification_table(found, standard_output())
    for line in below:
        say(f"failed: {line}")
    if below:
        click.get_current_context().exit(1)


@main.command()
@click.option("-o", "--output", type=click.Path(), required=True, help="a .png file to write")
@click.option("--size", default=224, show_default=True, type=click.IntRange(8, 1024), help="height and width of each")
@click.option("--count", default=16, show_default=True, type=click.IntRange(1, 256), help="how many")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
def images(output: str, size: int, count: int, seed: int) -> None:
    """Show the procedural images that stand in for data, as one sheet."""
    from dfmpc_onnx.report.image_sheet import write_sheet

    write_sheet(output, size, count, seed)
    click.echo(f"{count} procedural images of {size}x{size}, seed {seed}: {printable(output)}")


@main.command()
@click.argument("name", required=False)
def passes(name: str | None) -> None:
    """List the passes, or print what one does."""
    from dfmpc_onnx import catalog
    from dfmpc_onnx.report.catalog_text import pass_page, passes_table

    if name is None:
        passes_table(list(catalog.passes().values()), standard_output())
    else:
        pass_page(catalog.find_pass(name), standard_output())


@main.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the recipes, or print one as TOML, to copy and change: by name, of a .toml file, or that which a quantized
    .onnx file was made with."""
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
