"""The command `report`: one quantized file, or several side by side, as an HTML page."""

from __future__ import annotations

import click
import cloup

import dfmpc_onnx
from dfmpc_onnx.cli.console import reader_may_leave, say, standard_output
from dfmpc_onnx.cli.shared_options import (
    FORCE_OVER_PAGE,
    JSON,
    LOOK,
    PROGRESS_LINES,
    QUIET,
    THREADS,
    compared_inputs,
    examples,
    file_name,
)
from dfmpc_onnx.errors import OptionError, printable
from dfmpc_onnx.memory import limit_memory


@cloup.command(
    short_help="Say in one HTML page what is lost, and where.",
    formatter_settings=LOOK,
    epilog=examples(
        "dfmpc-onnx report model.onnx small.onnx -o report.html",
        "dfmpc-onnx report model.onnx small.onnx --images photos/ -o report.html",
        "dfmpc-onnx report a.onnx b.onnx c.onnx --against model.onnx",
        "dfmpc-onnx report a.onnx b.onnx --against model.onnx -o front.html",
    ),
)
@cloup.argument("files", metavar="FILES", type=click.Path(), nargs=-1, required=True)
@cloup.option_group(
    "Output",
    cloup.option(
        "-o",
        "--output",
        type=click.Path(),
        metavar="FILE.html",
        help="where to write the page; - for standard output; with --against it may be left out",
    ),
    FORCE_OVER_PAGE,
    JSON,
    PROGRESS_LINES,
    QUIET,
)
@cloup.option_group(
    "Input",
    cloup.option(
        "--against",
        type=click.Path(),
        metavar="FLOAT",
        help="the float model; all files are then quantized ones of it, compared side by side",
    ),
    *compared_inputs(
        images="an .npz with x (and y), or a folder of images (and labels.csv)",
        preprocess="as `verify` takes it  [default: as the quantized file states]",
        count="how many images  [default: all of --images, else up to 64]",
    ),
)
@cloup.option_group(
    "Run",
    cloup.option(
        "--blame", is_flag=True, help="restore each layer to float in turn, as `diagnose` does, and try what helps"
    ),
    cloup.option(
        "--latency", is_flag=True, help="measure, too, what integers in place of each island of float would save"
    ),
    THREADS,
)
def report(
    files: tuple[str, ...],
    output: str | None,
    against: str | None,
    blame: bool,
    latency: bool,
    json_wanted: bool,
    verbose: bool,
    quiet: bool,
    shapes: tuple[str, ...],
    ranges: tuple[str, ...],
    **options: object,
) -> None:
    """Write one HTML page on FILES, a float model and its quantized file: how good it is, where the loss is, and what
    to change.

    With --against, FILES are quantized ones of one network, side by side as a table and a page. A page needs no network
    and holds no script. It takes two packages: pip install jinja2 matplotlib.
    """
    from dfmpc_onnx.cli.output import check_stream, write_bytes
    from dfmpc_onnx.cli.progress import progress

    options = {**options, "input_shapes": shapes, "input_ranges": ranges}
    to_stream = check_stream(output, json_wanted)
    if against is not None:
        if latency or blame:
            which = "latency" if latency else "blame"
            raise OptionError(f"{which}: it is for the report on one file; leave it out with --against")
        with limit_memory(), progress(verbose - quiet, alone=json_wanted) as tell:
            _compare(files, against, output, to_stream, json_wanted, quiet, {**options, "progress": tell})
        return
    float_model, quantized = _one_pair(files, output, json_wanted)
    with limit_memory(), progress(verbose - quiet) as tell:
        text = dfmpc_onnx.write_report(
            float_model,
            quantized,
            None if to_stream else output,
            blame=blame,
            latency=latency,
            progress=tell,
            warn=lambda warning: say(f"warning: {printable(warning)}"),
            **options,  # type: ignore[arg-type]  # each option under the name that write_report() has for it
        )
    if to_stream:
        write_bytes(text.encode())
    elif not quiet and output is not None:
        click.echo(f"report of {len(text.encode()) / 1000:.0f} kB: {file_name(output)}")


def _one_pair(files: tuple[str, ...], output: str | None, json_wanted: bool) -> tuple[str, str]:
    """A float model and its quantized file; raises OptionError where anything is missing or too much."""
    if len(files) != 2:
        raise OptionError(
            f"{len(files)} file{'' if len(files) == 1 else 's'} given; give FLOAT and QUANTIZED, or several quantized "
            "files with --against FLOAT"
        )
    if json_wanted:
        raise OptionError("json: the report on one file is a page; give --against, or verify --layers --json")
    if output is None:
        raise OptionError("no output given; give -o FILE.html")
    return files[0], files[1]


def _compare(
    files: tuple[str, ...],
    against: str,
    output: str | None,
    to_stream: bool,
    json_wanted: bool,
    quiet: bool,
    options: dict[str, object],
) -> None:
    """Several files side by side."""
    from dfmpc_onnx.cli.output import write_bytes
    from dfmpc_onnx.report.comparison_text import comparison_table
    from dfmpc_onnx.report.json_text import as_json

    if to_stream:
        from dfmpc_onnx.report.html.extra import require_report_extra

        require_report_extra()
    found = dfmpc_onnx.compare(files, against, None if to_stream else output, **options)  # type: ignore[arg-type]
    for warning in found.warnings:
        say(f"warning: {printable(warning)}")
    if to_stream:
        from dfmpc_onnx.report.html.page import comparison_html

        write_bytes(comparison_html(found).encode())
    with reader_may_leave():
        if json_wanted:
            click.echo(as_json(found))
        elif not quiet:
            comparison_table(found, standard_output(error=to_stream))
            if output is not None and not to_stream:
                click.echo(f"page: {file_name(output)}")
