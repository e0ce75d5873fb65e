"""Help that can be read: nothing cut, options in groups, examples, and quick to appear."""

from __future__ import annotations

import subprocess
import sys

import click
import cloup
import pytest

from dfmpc_onnx.cli import main
from tests.commands import dfmpc, environment

COMMANDS = sorted(main.commands)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_a_terminal_of_80_columns_and_cuts_nothing(command: str | None) -> None:
    words = [command] if command else []
    result = dfmpc(*words, "--help")
    assert result.exit_code == 0
    examples = result.stdout.index("Examples:")
    assert max(map(len, result.stdout[:examples].splitlines())) <= 80
    assert "..." not in result.stdout[:examples].replace("[OPTIONS] COMMAND [ARGS]...", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_that_its_parser_takes(command: str) -> None:
    lines = dfmpc(command, "--help").stdout.split("Examples:\n")[1].splitlines()
    for line in filter(None, map(str.strip, lines)):
        _, name, *words = line.partition(" > ")[0].split()
        found = main.commands[name]
        found.make_context(name, words, resilient_parsing=False)


@pytest.mark.parametrize("command", ["quantize", "plan", "verify"])
def test_options_stand_in_groups(command: str) -> None:
    found = main.commands[command]
    assert isinstance(found, cloup.Command)
    assert len(found.option_groups) >= 3
    grouped = {option for group in found.option_groups for option in group.options}
    assert {o.name for o in found.params if isinstance(o, click.Option) and o not in grouped} == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is_and_whether_it_may_be_repeated(command: str) -> None:
    for option in main.commands[command].params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert option.multiple == ("may be repeated" in option.help), option.name


def test_help_imports_no_library_that_takes_long() -> None:
    code = (
        "import sys\nfrom dfmpc_onnx.cli import main\n"
        "try: main(['quantize', '--help'])\nexcept SystemExit: pass\n"
        "print(*sorted({'numpy', 'onnx', 'onnxruntime', 'rich', 'msgspec'} & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert ended.stderr == "\n"


def test_verify_promises_no_details_that_its_table_has_anyway() -> None:
    told = " ".join(dfmpc("verify", "--help").stdout.split())
    assert "-v, --verbose each step as a line on standard error" in told and "all details" not in told
