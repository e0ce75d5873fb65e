"""The documents with code blocks, and what their blocks are held against."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Iterator

import click
import yaml
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from dfmpc_onnx.cli import main
from tests.commands import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
PROGRAMS = {
    "pip",
    "python",
    "cd",
    ".",
    "nox",
    "pytest",
    ".ci/run",
    "olive",
    "dfmpc-olive",
    "eval",
}  # beside ours, not run
ENDS_A_COMMAND = {"&&", ";", "|", ">", ">>"}


def commands(block: str) -> Iterator[list[str]]:
    """The commands of a shell block, each as its words; what stands in front of one (A=B) is left out."""
    for line in block.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words, command, skip = list(lexer), [], False
        for word in words:
            if word in ENDS_A_COMMAND:
                yield from [command] if command and not skip else []
                command, skip = [], word in {">", ">>"}
            elif command or "=" not in word.partition("/")[0]:
                command.append(word)
        yield from [command] if command and not skip else []


def check_shell(example: Example) -> None:
    """Parse every command of ours as click would, without running it; know all others by name."""
    for program, *arguments in commands(example.parsed):
        if program == "dfmpc-onnx":
            parse(arguments)
        else:
            assert program in PROGRAMS, f"{program}: no page may ask for it"


def parse(arguments: list[str]) -> None:
    """Raises click.UsageError where no such command or option exists, or a value is none of those it takes."""
    if not arguments or arguments[0].startswith("-"):
        main.make_context("dfmpc-onnx", list(arguments), resilient_parsing=True)
        return
    name, *rest = arguments
    if name not in main.commands:
        raise click.UsageError(f"no command {name}")
    main.commands[name].make_context(name, rest)


def check_toml(example: Example) -> None:
    tomllib.loads(example.parsed)


def check_yaml(example: Example) -> None:
    yaml.safe_load(example.parsed)


def check_json(example: Example) -> None:
    json.loads(example.parsed)


BLOCKS = Sybil(
    [
        PythonCodeBlockParser(),
        CodeBlockParser("sh", check_shell),
        CodeBlockParser("toml", check_toml),
        CodeBlockParser("yaml", check_yaml),
        CodeBlockParser("json", check_json),
    ]
)
