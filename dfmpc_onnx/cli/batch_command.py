"""The command `batch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import cloup

import dfmpc_onnx
from dfmpc_onnx.cli.console import reader_may_leave, say, standard_output
from dfmpc_onnx.cli.shared_options import (
    ACTIVATIONS,
    FLOAT16,
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
    PREPROCESS,
    QUIET,
    RANGES,
    RECIPE,
    REDUCE_RANGE,
    TARGET,
    VERBOSE,
    WEIGHTS,
    examples,
    max_latency,
    min_agreement,
    min_sqnr,
    threads,
)
from dfmpc_onnx.errors import OptionError, printable

if TYPE_CHECKING:
    from dfmpc_onnx.jobs.batch import BatchResult

NO_LIMIT = "none"


@cloup.command(
    short_help="Quantize many models; each ends as a row of a table.",
    formatter_settings=LOOK,
    epilog=examples(
        "dfmpc-onnx batch nets/ -o run/ --recipe int8",
        "dfmpc-onnx batch zoo.toml -o run/ --sweep recipe=int8,mixed",
        "dfmpc-onnx batch 'nets/*.onnx' -o run/ --time-limit 10m --memory-limit 4GB",
        "dfmpc-onnx batch zoo.csv -o run/ --dask tcp://10.0.0.1:8786",
        "dfmpc-onnx batch --compare last-release/ run/ --fail-on-worse",
    ),
)
@cloup.argument("sources", metavar="[SOURCES]", nargs=-1, type=click.Path())
@cloup.option_group(
    "Output",
    cloup.option(
        "-o",
        "--output",
        type=click.Path(),
        metavar="FOLDER",
        help="for results.jsonl, results.csv, index.html and models/; of an earlier run: what is done stays done",
    ),
    cloup.option("--report", is_flag=True, default=None, help="an HTML report of each job, too, in reports/"),
    LAYER_ERRORS,
    JSON,
    VERBOSE,
    QUIET,
)
@cloup.option_group(
    "Jobs",
    cloup.option(
        "--sweep",
        multiple=True,
        metavar="OPTION=A,B",
        help="each model with each of these values of an option of quantize; may be repeated: every combination",
    ),
    cloup.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="jobs at once, as far as memory allows  [default: one for each processor]",
    ),
    threads("of each job, 0 for all processors", default=1),
    cloup.option(
        "--time-limit",
        default="auto",
        metavar="30m|none",
        help="of each job; what takes longer is ended  [default: 10m, and 20s for each MB of its model]",
    ),
    cloup.option("--memory-limit", metavar="4GB", help="of each job  [default: what the machine has free]"),
    cloup.option("--shard", metavar="I/N", help="part I of N of the jobs, as for N machines that share the folder"),
    cloup.option("--retry", is_flag=True, help="do jobs again that an earlier run could not do"),
    cloup.option(
        "--max-failures",
        type=click.IntRange(min=1),
        metavar="N",
        help="stop once so many jobs were refused or failed",
    ),
)
@cloup.option_group(
    "Cluster",
    cloup.option("--dask", metavar="ADDRESS", help="of a scheduler whose workers do the jobs (extra dask)"),
    cloup.option(
        "--dask-files",
        type=click.Choice(["shared", "bytes"]),
        default="shared",
        show_default=True,
        help="whether workers find files under the same paths, or are sent them",
    ),
)
@cloup.option_group("Bits of all models", RECIPE, WEIGHTS, ACTIVATIONS, LAYERS, REDUCE_RANGE)
@cloup.option_group(
    "Limits of all models",
    MAX_SIZE,
    MEAN_BITS,
    min_sqnr("as of quantize; exit 1 where a model is below"),
    min_agreement("exit 1 where less agrees; without --images: where the 95 % interval begins below"),
    MAX_FLOAT,
    max_latency("as of quantize"),
    MAX_SECONDS,
)
@cloup.option_group("Input of all models", PREPROCESS, INPUT_SHAPES, RANGES, IMAGE_SOURCE, TARGET, FLOAT16, IMAGE_SEED)
@cloup.option_group(
    "Compare",
    cloup.option(
        "--compare",
        nargs=2,
        type=click.Path(),
        metavar="OLD NEW",
        help="what changed between the runs in two folders; nothing is quantized",
    ),
    cloup.option("--html", type=click.Path(), metavar="FILE", help="with --compare: write it as a page, too"),
    cloup.option("--force", is_flag=True, help="with --html: write over a file there that is no page"),
    cloup.option(
        "--fail-on-worse", is_flag=True, help="with --compare: exit 1 where a job got worse, for a build to stop at"
    ),
)
def batch(
    sources: tuple[str, ...],
    output: str | None,
    json_wanted: bool,
    verbose: bool,
    quiet: bool,
    compare: tuple[str, str] | None,
    html: str | None,
    force: bool,
    fail_on_worse: bool,
    time_limit: str,
    shapes: tuple[str, ...],
    ranges: tuple[str, ...],
    **options: Any,
) -> None:
    """Quantize many models, each in a process of its own, and end each as a row, whatever becomes of it.

    SOURCES are models, folders, patterns and manifests: .csv or .toml files with options for each model. Run the same
    command again to go on where it was stopped. Exit status: 0 all are written; 1 some are below a gate; 2 a mistake of
    yours; 5 some are not written. Of --compare: 0, or with --fail-on-worse 1 where a job got worse.
    """
    ctx = click.get_current_context()
    if compare is not None or html is not None or fail_on_worse:
        worse = _compare(compare, html, bool(sources) or output is not None, json_wanted, force=force, quiet=quiet)
        ctx.exit(1 if fail_on_worse and worse else 0)
    if output is None:
        raise click.UsageError("missing option '-o' / '--output'", ctx)
    from dfmpc_onnx.cli.progress import progress

    given = {name: value for name, value in options.items() if _is_given(ctx, name)}
    if shapes or ranges:
        given |= {"input_shapes": shapes, "input_ranges": ranges}
    with progress(verbose - quiet, alone=json_wanted) as report:
        found = dfmpc_onnx.batch(
            sources,
            output,
            time_limit=None if time_limit.lower() == NO_LIMIT else time_limit,
            progress=report,
            **given,
        )
    for note in found.notes:
        say(f"warning: {printable(note)}")
    _show(found, output, json_wanted=json_wanted, verbose=verbose, quiet=quiet)
    ctx.exit(found.exit_code)


def _is_given(ctx: click.Context, name: str) -> bool:
    """Whether the user has given an option; what a manifest says comes before what is usual."""
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _show(found: BatchResult, folder: str, *, json_wanted: bool, verbose: bool, quiet: bool) -> None:
    from dfmpc_onnx.report.batch_text import batch_table
    from dfmpc_onnx.report.json_text import as_json

    with reader_may_leave():
        if json_wanted:
            click.echo(as_json(found, counts=found.counts, exit_code=found.exit_code))
        elif not quiet:
            batch_table(found.rows, folder, standard_output(), verbose=verbose)


def _compare(
    compare: tuple[str, str] | None, html: str | None, others: bool, json_wanted: bool, *, force: bool, quiet: bool
) -> int:
    """Show what changed between two runs; how many jobs got worse."""
    from dfmpc_onnx.api.page_files import check_page_target
    from dfmpc_onnx.report.batch_page import changes_page
    from dfmpc_onnx.report.batch_text import changes_table
    from dfmpc_onnx.report.json_text import as_json

    if compare is None:
        word = "html" if html is not None else "fail-on-worse"
        raise OptionError(f"{word}: belongs to a comparison; give --compare OLD NEW, or leave it out")
    if others:
        raise OptionError("compare: nothing is quantized; leave SOURCES and -o out")
    if html is not None:
        check_page_target(html, force=force)
    found = dfmpc_onnx.compare_batches(*compare)
    if html is not None:
        changes_page(found, html)
    with reader_may_leave():
        if json_wanted:
            click.echo(as_json(found, worse=found.worse))
        elif not quiet:
            changes_table(found, standard_output())
    return found.worse
