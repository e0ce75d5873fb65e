"""Errors as one line and an exit status."""

from __future__ import annotations

import contextlib
import difflib
import logging
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import IO, Any, NoReturn

import click
import cloup

from dfmpc_onnx.api.command_line import typed
from dfmpc_onnx.cli import signals
from dfmpc_onnx.cli.console import give_up, prepare_streams, reader_may_leave, say, say_error, silence_warnings
from dfmpc_onnx.errors import REPORT_TO, Defect, UserError, printable, shown

ABOUT_AS_NEAR = 0.1  # of a ratio of difflib
NO_NUMBER = re.compile(r"is not a valid (float|integer)(?: range)?$")
# Raised where nothing was typed, with the help for its message; releases of click before 8.2 print that themselves.
HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


class Mistake(click.ClickException):
    """A usage error in one line, like every other mistake of the user's; click would print four."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        say_error(self.message)


class NothingTyped(click.ClickException):
    """No command: the help, on standard error."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        say(self.message)


@contextlib.contextmanager
def one_line(ctx: click.Context) -> Iterator[None]:
    """Messages of click's own repeat what was typed: shown as data. ctx: of the group."""
    try:
        yield
    except HELP as error:
        raise NothingTyped(error.format_message()) from None
    except click.UsageError as error:
        if isinstance(error, click.NoSuchOption):
            nearest = _nearest(error.option_name, error.possibilities or ())
            error = click.NoSuchOption(error.option_name, possibilities=nearest, ctx=error.ctx)
        said = NO_NUMBER.sub(_in_plain_words, printable(error.format_message()).rstrip("."))
        # An option that lacks its value comes without the command that it belongs to.
        within = " ".join(filter(None, (ctx.command_path, ctx.invoked_subcommand)))
        command = error.ctx.command_path if error.ctx is not None else within
        said, near = _without_guess(f"{said[:1].lower()}{said[1:]}")
        if isinstance(error, click.BadOptionUsage):
            near = _of_its_value(ctx, error.option_name)
        raise Mistake(f"{said}; {near}see '{command} --help'") from None
    except click.ClickException as error:
        raise Mistake(printable(error.format_message())) from None


def _in_plain_words(found: re.Match[str]) -> str:
    """What click says of a value that is no number."""
    return "is not a number" if found[1] == "float" else "is not a whole number"


def _nearest(typed: str, guesses: Sequence[str]) -> list[str]:
    """Those guesses that are about as near as the nearest; click gives each that has some letters in common."""
    near = {guess: difflib.SequenceMatcher(None, typed, guess).ratio() for guess in guesses}
    return [guess for guess in guesses if near[guess] >= max(near.values()) - ABOUT_AS_NEAR]


def _without_guess(said: str) -> tuple[str, str]:
    """A message of click's without its guess, and that as the beginning of a tip."""
    found = re.search(r"[.]? ?[(]?Did you mean (?:one of: )?(.*?)[?]?[)]?[?]?$", said)
    return (said, "") if found is None else (said[: found.start()], f"did you mean {found[1].rstrip('?')}? ")


def _of_its_value(ctx: click.Context, name: str) -> str:
    """What to write behind an option, as the beginning of a tip. ctx: of the group, whose subcommand has the option."""
    group = ctx.command
    command = group.get_command(ctx, ctx.invoked_subcommand or "") if isinstance(group, click.Group) else None
    for option in command.params if command is not None else ():
        if name in option.opts and isinstance(option, click.Option):
            return f"write {name} {option.make_metavar(ctx)}, " if option.nargs == 1 and not option.is_flag else ""
    return ""


class Group(cloup.Group):
    """Turns our errors into a line, a tip and an exit status, for every command."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._main(*args, **kwargs)
        except KeyboardInterrupt as error:  # before there is a command to interrupt
            say("interrupted")
            raise SystemExit(signals.status(error)) from None

    def _main(self, *args: Any, **kwargs: Any) -> Any:
        prepare_streams()
        with contextlib.ExitStack() as stack:
            if not args and "args" not in kwargs:  # the words are those of the process, so it is ours alone
                silence_warnings()
                stack.enter_context(signals.raised())
            words = kwargs.get("args", args[0] if args else None)
            stack.enter_context(typed(sys.argv[1:] if words is None else list(map(str, words))))
            try:
                return super().main(*args, **kwargs)
            finally:
                with contextlib.suppress(OSError):  # what could not be written has been reported where it was
                    if sys.stdout is not None:
                        sys.stdout.flush()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            with one_line(ctx), written(ctx):  # --help and --version print from here
                return super().parse_args(ctx, args)
        except KeyboardInterrupt as error:
            interrupted(ctx, error)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with one_line(ctx), written(ctx), muted_logger():
                return super().invoke(ctx)
        except UserError as error:
            say_error(str(error))
            ctx.exit(2)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except KeyboardInterrupt as error:
            interrupted(ctx, error)
        except Defect as error:
            say(f"defect: {error}\nThis is our mistake. Please report it to {REPORT_TO}.")
            ctx.exit(3)
        except MemoryError:
            say_error("not enough memory for this model; use a machine with more")
            ctx.exit(2)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{where.filename.rpartition('/')[2]}:{where.lineno}"
            line = printable(f"defect: {type(error).__name__} at {place}: {error}")
            say(f"{line}\nThis is our mistake. Please report it to {REPORT_TO}.")
            ctx.exit(3)


@contextlib.contextmanager
def muted_logger() -> Iterator[None]:
    """Within the block warnings are printed by the commands themselves, in their words."""
    logger, nobody = logging.getLogger("dfmpc_onnx"), logging.NullHandler()
    before, logger.propagate = logger.propagate, False
    logger.addHandler(nobody)
    try:
        yield
    finally:
        logger.removeHandler(nobody)
        logger.propagate = before


def interrupted(ctx: click.Context, error: KeyboardInterrupt) -> NoReturn:
    """End as somebody asked, and say what notes on the exception say; click would end with 1, which means something
    else here."""
    say(": ".join(["interrupted", *getattr(error, "__notes__", ())]))
    ctx.exit(signals.status(error))


@contextlib.contextmanager
def written(ctx: click.Context) -> Iterator[None]:
    """Within the block what the system refuses, such as a full disk behind standard output, is no defect of ours."""
    try:
        try:
            yield
        except BaseException:  # the exit status, too, is an exception: a reader that left does not change it
            with reader_may_leave():
                pass
            raise
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output went away; there is nobody left to tell.
        give_up(1)
        ctx.exit(0)
    except OSError as error:
        give_up(1)
        where = "standard output" if error.filename is None else shown(str(error.filename))
        say(f"error: {where}: cannot be read or written ({error.strerror or type(error).__name__})")
        ctx.exit(2)
