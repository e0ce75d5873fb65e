"""Arguments and options that several commands take, and the look of their help."""

from __future__ import annotations

import pathlib
import pkgutil
import re
from collections.abc import Callable

import click
import cloup

from dfmpc_onnx.cli.completion import complete_preprocess, complete_recipe, complete_target
from dfmpc_onnx.cli.thresholds import DECIBELS, PERCENT
from dfmpc_onnx.errors import printable

Decorator = Callable[[Callable[..., None]], Callable[..., None]]
LOOK = cloup.HelpFormatter.settings(
    max_width=80,
    col1_max_width=26,
    theme=cloup.HelpTheme(heading=cloup.Style(bold=True), col1=cloup.Style(fg="cyan")),
)
STANDARD_STREAM = "-"
BITS_OF_A_LAYER = re.compile(r".+=(ternary|float|[0-9.]+)")  # what --layer takes
# The names alone: importing the targets would take longer than a page of help may.
_TARGET_MODULES = pathlib.Path(__file__).parents[1] / "pipeline" / "targets"
TARGET_NAMES = ", ".join(sorted(module.name for module in pkgutil.iter_modules([str(_TARGET_MODULES)])))


def examples(*lines: str) -> str:
    """Commands to copy, as the end of a help page."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _several(ctx: click.Context, given: tuple[str, ...]) -> str:
    """What to do instead of giving several models."""
    command = str(ctx.info_name)
    bits = next((text for text in given if BITS_OF_A_LAYER.fullmatch(text)), None)
    if bits is not None and any("--layer" in param.opts for param in ctx.command.params):
        return f"for the bits of a layer write --layer '{bits}'"
    if command == "quantize":
        return "use batch for many, as in: dfmpc-onnx batch *.onnx -o FOLDER"
    return f'run it once for each, as in: for m in *.onnx; do dfmpc-onnx {command} "$m" ...; done'


def _one_model(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> str | None:
    """The one model of a command; raises UsageError where there are several."""
    if len(given) > 1:
        raise click.UsageError(
            f"{len(given)} models given, and {ctx.info_name} takes one: {given[0]}, {given[1]}"
            f"{', ...' if len(given) > 2 else ''}; {_several(ctx, given)}",
            ctx,
        )
    return given[0] if given else None


def model_argument(*, required: bool = True) -> Decorator:
    name = "MODEL" if required else "[MODEL]"
    return cloup.argument("model", type=click.Path(), nargs=-1, required=required, metavar=name, callback=_one_model)


MODEL = model_argument()
RECIPE = cloup.option(
    "--recipe",
    metavar="NAME|FILE.toml",
    shell_complete=complete_recipe,
    help="mixed, int8, int4, closed-form, per-channel or paper, or a file of yours; `dfmpc-onnx recipes` says what "
    "each does  [default: mixed]",
)
WEIGHTS = cloup.option(
    "--weights",
    metavar="BITS|LOW/HIGH",
    help="2 to 8, 1.6 or 2.67 bits for all, such as 8; LOW/HIGH, such as 2/6 or ternary/6: LOW where the next layer "
    "can make up for the error, HIGH elsewhere; or auto  [default: the recipe's]",
)
ACTIVATIONS = cloup.option(
    "--activations",
    metavar="4|8|16|auto|none",
    help="bits of the activations; 4: of what all layers but the first and the last read, which is no faster in "
    "onnxruntime; auto: 4 where that costs little, else 8, and for qnn 8, else 16; 16 for qnn alone, 2 to 7 for qonnx  "
    "[default: the target's, or the recipe's none]",
)
LAYERS = cloup.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="GLOB=BITS",
    help="2 to 8, 1.6, 2.67, ternary or float for the layers whose name matches, such as 'head/*=8'; with "
    "--activations 4 or auto also of what they read: 'head/*=8/8'; may be repeated",
)
TARGET = cloup.option(
    "--target",
    default="cpu",
    show_default=True,
    metavar="NAME",
    shell_complete=complete_target,
    help=f"what the file is for: {TARGET_NAMES}; `dfmpc-onnx targets` says what each does",
)
FLOAT16 = cloup.option(
    "--fp16/--no-fp16",
    default=None,
    help="for tensorrt: whether what is not int8 is float16 where it fits, or float32  [default: float16]",
)
REDUCE_RANGE = cloup.option(
    "--reduce-range",
    is_flag=True,
    default=None,
    help="7-bit weights in place of 8, for other runtimes on processors without VNNI",
)
PREPROCESS = cloup.option(
    "--preprocess",
    default="auto",
    show_default=True,
    metavar="NAME|MEAN/STD",
    shell_complete=complete_preprocess,
    help="what the network expects of a picture: auto, imagenet, lite, keras, unit, raw, caffe or half, or MEAN/STD on "
    "the 0..255 scale such as 127.5/127.5; with :rgb or :bgr for the order of colours",
)
INPUT_SHAPES = cloup.option(
    "--input-shape",
    "shapes",
    multiple=True,
    metavar="NAME:1x3x224x224",
    help="of an input whose size the model leaves open; may be repeated; without NAME: of the only input",
)
RANGES = cloup.option(
    "--input-range",
    "ranges",
    multiple=True,
    metavar="NAME=LOW:HIGH",
    help="the least and the largest number of an input that is no picture; may be repeated",
)
IMAGE_SOURCE = cloup.option(
    "--images",
    type=click.Path(),
    metavar="FILE.npz|FOLDER",
    help="unlabelled images of yours, in place of generated ones",
)
IMAGE_SEED = cloup.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="seed of the generated images",
)


def threads(help: str, default: int = 0) -> Decorator:
    """How many threads a command, or each of its jobs, may take."""
    usual = "all processors" if default == 0 else str(default)
    return cloup.option(
        "--threads",
        default=default,
        type=click.IntRange(min=0),
        metavar="N",
        help=f"{help}  [default: {usual}]",
    )


def min_sqnr(help: str) -> Decorator:
    """A bound on the signal-to-noise ratio; what it is held against differs from command to command."""
    return cloup.option("--min-sqnr", type=DECIBELS, metavar="DB", help=help)


def min_agreement(help: str) -> Decorator:
    """A bound on the agreement; what it is held against differs from command to command."""
    return cloup.option("--min-agreement", type=PERCENT, metavar="PERCENT", help=help)


def max_latency(help: str) -> Decorator:
    """A bound on the time of a run."""
    return cloup.option("--max-latency", metavar="MS|PERCENT%", help=help)


THREADS = threads("threads that onnxruntime and BLAS may take")


def compared_inputs(images: str, preprocess: str, count: str) -> tuple[Callable[..., Callable[..., None]], ...]:
    """What two networks are compared on. Arguments: the help of --images, --preprocess and --count."""
    return (
        cloup.option("--images", type=click.Path(), metavar="FILE.npz|FOLDER", help=images),
        cloup.option(
            "--preprocess",
            default=None,
            metavar="NAME|MEAN/STD",
            shell_complete=complete_preprocess,
            help=preprocess,
        ),
        cloup.option("--count", type=click.IntRange(min=1), metavar="N", help=count),
        INPUT_SHAPES,
        RANGES,
        IMAGE_SEED,
    )


MAX_SIZE = cloup.option("--max-size", metavar="2MB|25%", help="the largest file: bytes, or a share of the float file")
MEAN_BITS = cloup.option("--mean-bits", type=float, metavar="B", help="the most bits of a weight, on average")
MAX_SECONDS = cloup.option(
    "--max-seconds",
    type=float,
    metavar="S",
    help="how long the run may take: searches are then cut short, and a warning says which  [default: no limit]",
)
MAX_FLOAT = cloup.option(
    "--max-float-layers",
    default=0,
    type=click.IntRange(min=0),
    metavar="N",
    help="how many layers may stay in float to meet the limits above  [default: 0]",
)
LAYER_ERRORS = cloup.option(
    "--layers",
    "layer_errors",
    is_flag=True,
    help="also compare the tensors inside, layer by layer: what each loses, and where the error enters",
)
JSON = cloup.option("--json", "json_wanted", is_flag=True, help="one JSON object on standard output, and nothing else")


def _force(kind: str) -> Decorator:
    return cloup.option("--force", is_flag=True, help=f"write over a file even if it is no {kind}")


FORCE, FORCE_OVER_PLAN, FORCE_OVER_IMAGES, FORCE_OVER_PAGE = map(
    _force, ("ONNX model", "plan file as written", "PNG file, or file of learned images", "HTML file")
)


def _verbosity(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    other = "quiet" if param.name == "verbose" else "verbose"
    if value and ctx.params.get(other):
        raise click.UsageError("-v and -q contradict each other; leave one of them out", ctx)
    return value


VERBOSE = cloup.option(
    "-v", "--verbose", is_flag=True, callback=_verbosity, help="all details; each step as a line on standard error"
)
PROGRESS_LINES = cloup.option(
    "-v", "--verbose", is_flag=True, callback=_verbosity, help="each step as a line on standard error"
)
DETAILS = cloup.option("-v", "--verbose", is_flag=True, help="with all details")
QUIET = cloup.option("-q", "--quiet", is_flag=True, callback=_verbosity, help="nothing but warnings and errors")


def file_name(path: str) -> str:
    """A path as a message shows it."""
    return printable(path)
