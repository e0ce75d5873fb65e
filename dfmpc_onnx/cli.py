"""The command line: parse, call, print. Exit status 0 done, 1 below a threshold, 2 the user's mistake, 3 a defect.

130 where it was interrupted.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import IO, Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dfmpc_onnx.errors import REPORT_TO, Defect, UserError, printable

MODEL = click.argument("model", type=click.Path())
PREPROCESS = "auto, imagenet, lite, keras, unit, raw, caffe, half, or MEAN/STD on the 0..255 scale; with :rgb or :bgr"


# Raised where nothing was typed, with the help for its message; releases of click before 8.2 print that themselves.
HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


class Mistake(click.ClickException):
    """A usage error in one line, like every other mistake of the user's; click would print four."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.message}", err=True)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Messages of click's own repeat what was typed: shown as data."""
    try:
        yield
    except HELP:
        raise
    except click.UsageError as error:
        said = printable(error.format_message()).rstrip(".")
        command = error.ctx.command_path if error.ctx is not None else "dfmpc-onnx"
        raise Mistake(f"{said[:1].lower()}{said[1:]}; see '{command} --help'") from None
    except click.ClickException as error:
        raise Mistake(printable(error.format_message())) from None


class Group(click.Group):
    """Turns our errors into one line and an exit status, for every command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name may hold what the terminal's encoding does not
                stream.reconfigure(errors="backslashreplace")
        try:
            with _one_line():
                return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except KeyboardInterrupt:  # click would end with 1, which means something else here
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            # The reader of our output went away; there is nobody left to tell.
            sys.stderr.close()
            ctx.exit(0)
        except Defect as error:
            click.echo(f"defect: {error}\nThis is our mistake. Please report it to {REPORT_TO}.", err=True)
            ctx.exit(3)
        except MemoryError:
            click.echo("error: not enough memory for this model; use a machine with more", err=True)
            ctx.exit(2)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{where.filename.rpartition('/')[2]}:{where.lineno}"
            line = printable(f"defect: {type(error).__name__} at {place}: {error}")
            click.echo(f"{line}\nThis is our mistake. Please report it to {REPORT_TO}.", err=True)
            ctx.exit(3)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dfmpc-onnx", prog_name="dfmpc-onnx")
def main() -> None:
    """Quantize ONNX networks without data, and prove that the result works."""


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line on standard error with the pass or layer at work, while the block runs and where that is a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda name: None
        return
    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.completed} {task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(name: str) -> None:
            bar.update(task, description=printable(name)[-60:], advance=1)

        yield tell


def _console() -> Console:
    """Standard output; a line is as long as it has to be where that is no terminal, for files and grep."""
    console = Console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=100_000)


@main.command()
@MODEL
@click.option("-o", "--output", type=click.Path(), required=True, help="where to write the quantized model")
@click.option("--recipe", default=None, help="a recipe by name, or a .toml file  [default: mixed]")
@click.option("--weights", metavar="LOW/HIGH|BITS|ternary/HIGH", help="bits of the weights; the recipe's if not given")
@click.option("--activations", metavar="8|none", help="bits of the activations; the recipe's if not given")
@click.option("--layer", "layers", multiple=True, metavar="GLOB=BITS|float", help="override for matching layers")
@click.option(
    "--target",
    default="cpu",
    show_default=True,
    metavar="cpu|tensorrt|cuda|openvino|webgpu|portable",
    help="the execution provider that the file is for",
)
@click.option("--reduce-range", is_flag=True, default=None, help="7 bits in place of 8, for processors that lack VNNI")
@click.option("--preprocess", default="auto", show_default=True, metavar="NAME|MEAN/STD", help=PREPROCESS)
@click.option("--input-shape", "shapes", multiple=True, metavar="NAME:1x3x224x224", help="for dynamic inputs")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="of procedural images and samples"
)
@click.option(
    "--images", type=click.Path(), help="unlabelled images of yours in place of procedural ones (.npz or folder)"
)
@click.option("--dump", type=click.Path(), metavar="DIR", help="write the graph after each pass into this folder")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output, and nothing else")
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
    seed: int,
    images: str | None,
    dump: str | None,
    as_json: bool,
) -> None:
    """Write a quantized form of MODEL, then load it in onnxruntime and compare it with MODEL."""
    from dfmpc_onnx import api, memory, render

    name = recipe or api.DEFAULT_RECIPE
    with memory.bounded(), _progress(quiet=as_json) as tell:
        result = api.quantize(
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
            images=images,
            seed=seed,
            dump=dump,
            progress=tell,
        )
    for warning in result.report.warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    if as_json:
        click.echo(render.report_json(result.report))
    else:
        render.report_table(result.report, output, _console())


@main.command()
@MODEL
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output, and nothing else")
def inspect(model: str, as_json: bool) -> None:
    """List what each recipe would do to the layers of MODEL, or how a quantized one is stored and runs."""
    from dfmpc_onnx import api, memory, render, render_inspection

    with memory.bounded():
        inspection = api.inspect(model)
    if as_json:
        click.echo(render.as_json(inspection))
    else:
        render_inspection.inspection_table(inspection, _console())


@main.command()
@MODEL
@click.option("-o", "--output", type=click.Path(), required=True, help="where to write the plain form")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output, and nothing else")
def expand(model: str, output: str, as_json: bool) -> None:
    """Write MODEL, a quantized file, with plain int8 weights: for tools that parse ONNX themselves."""
    from dfmpc_onnx import api, memory, render

    with memory.bounded():
        report = api.expand(model, output).report
    if as_json:
        click.echo(render.as_json(report))
    else:
        render.expansion_table(report, output, _console())


@main.command()
@click.argument("float_model", metavar="FLOAT", type=click.Path())
@click.argument("quantized", metavar="QUANTIZED", type=click.Path())
@click.option("--images", type=click.Path(), help="an .npz with x (and y), or a folder of images (and labels.csv)")
@click.option("--preprocess", default=None, metavar="NAME|MEAN/STD", help="as QUANTIZED states if not given")
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="such as CPU; may be repeated")
@click.option("--input-shape", "shapes", multiple=True, metavar="NAME:1x3x224x224", help="for dynamic inputs")
@click.option("--min-agreement", type=click.FloatRange(0, 100), metavar="PERCENT", help="exit 1 below this agreement")
@click.option("--min-sqnr", type=float, metavar="DB", help="exit 1 below this signal-to-noise ratio")
@click.option(
    "--max-steps",
    type=click.FloatRange(min=0),
    metavar="N",
    help="exit 1 where a provider's outputs are further from the CPU provider's, in steps of the output's scale",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="of the images without --images")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output, and nothing else")
def verify(
    float_model: str,
    quantized: str,
    images: str | None,
    preprocess: str | None,
    providers: tuple[str, ...],
    shapes: tuple[str, ...],
    min_agreement: float | None,
    min_sqnr: float | None,
    max_steps: float | None,
    seed: int,
    as_json: bool,
) -> None:
    """Run FLOAT and QUANTIZED on the same images and compare their outputs."""
    from dfmpc_onnx import api, memory, render

    with memory.bounded():
        found = api.verify(
            float_model,
            quantized,
            images=images,
            preprocess=preprocess,
            providers=providers or ("CPU",),
            input_shapes=shapes,
            seed=seed,
        )
    for warning in found.warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    below = []
    for row in found.providers:
        if min_agreement is not None and row.fidelity.agreement < min_agreement:
            reached = f"{row.fidelity.agreement} % ({row.fidelity.agreeing} of {row.fidelity.rows})"
            below.append(f"{row.provider}: agreement {reached} is below {min_agreement} %")
        if min_sqnr is not None and row.fidelity.sqnr_db < min_sqnr:
            below.append(f"{row.provider}: SQNR {row.fidelity.sqnr_db} dB is below {min_sqnr} dB")
        if max_steps is not None and row.use is not None and row.use.steps > max_steps:
            below.append(f"{row.provider}: {row.use.steps} steps from the CPU provider are more than {max_steps:g}")
    if as_json:
        click.echo(render.as_json(found, below=below))
    else:
        render.verification_table(found, _console())
    for line in below:
        click.echo(f"failed: {line}", err=True)
    if below:
        click.get_current_context().exit(1)


@main.command()
@click.option("-o", "--output", type=click.Path(), required=True, help="a .png file to write")
@click.option("--size", default=224, show_default=True, type=click.IntRange(8, 1024), help="height and width of each")
@click.option("--count", default=16, show_default=True, type=click.IntRange(1, 256), help="how many")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
def images(output: str, size: int, count: int, seed: int) -> None:
    """Show the procedural images that stand in for data, as one sheet."""
    from dfmpc_onnx import imagefiles

    imagefiles.write_sheet(output, size, count, seed)
    click.echo(f"{count} procedural images of {size}x{size}, seed {seed}: {printable(output)}")


@main.command()
@click.argument("name", required=False)
def passes(name: str | None) -> None:
    """List the passes, or print what one does."""
    from dfmpc_onnx import catalog, render

    if name is None:
        render.passes_table(list(catalog.passes().values()), _console())
    else:
        render.pass_page(catalog.find_pass(name), _console())


@main.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the recipes, or print one as TOML, to copy and change."""
    from dfmpc_onnx import catalog, render

    if name is None:
        render.recipes_table(list(catalog.recipes().values()), _console())
    else:
        click.echo(catalog.recipe_text(name), nl=False)
