"""Errors as one line and an exit status."""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from collections.abc import Iterator
from typing import IO, Any

import click

from dfmpc_onnx.errors import REPORT_TO, Defect, UserError, printable

# Raised where nothing was typed, with the help for its message; releases of click before 8.2 print that themselves.
HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


class Mistake(click.ClickException):
    """A usage error in one line, like every other mistake of the user's; click would print four."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.message}", err=True)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
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
        with one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name may hold what the terminal's encoding does not
                stream.reconfigure(errors="backslashreplace")
        try:
            with one_line():
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
