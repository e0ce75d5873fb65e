"""Options that several commands take."""

from __future__ import annotations

import click

INPUT_SHAPES = click.option(
    "--input-shape", "shapes", multiple=True, metavar="NAME:1x3x224x224", help="for dynamic inputs"
)
REDUCE_RANGE = click.option(
    "--reduce-range", is_flag=True, default=None, help="7 bits in place of 8, for processors that lack VNNI"
)
RECIPE = click.option("--recipe", default=None, help="a recipe by name, or a .toml file  [default: mixed]")
ACTIVATIONS = click.option("--activations", metavar="8|none", help="bits of the activations; the recipe's if not given")
JSON = click.option("--json", "json_wanted", is_flag=True, help="one JSON object on standard output, and nothing else")
RANGES = click.option(
    "--input-range", "ranges", multiple=True, metavar="NAME=LOW:HIGH", help="what lies in an input, where nothing tells"
)
THREADS = click.option(
    "--threads",
    default=0,
    type=click.IntRange(min=0),
    metavar="N",
    help="how many onnxruntime and BLAS may take  [default: as many as the machine has]",
)
MAX_SIZE = click.option("--max-size", metavar="2MB|25%", help="of the file: bytes, or a share of the float file")
MEAN_BITS = click.option("--mean-bits", type=float, metavar="B", help="of all weights, at most")
MAX_FLOAT = click.option(
    "--max-float-layers", default=0, type=click.IntRange(min=0), metavar="N", help="how many may stay in float for that"
)
