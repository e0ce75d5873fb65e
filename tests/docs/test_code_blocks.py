"""Every code block in README and docs: Python runs, commands parse, TOML, YAML and JSON can be read."""

from __future__ import annotations

import pathlib
import re

import click
import numpy as np
import onnx
import pytest
from PIL import Image

from tests.docs.pages import BLOCKS, PAGES, commands, parse
from tests.graphs import chain

FENCE = re.compile(r"^ *```(.*)$", re.MULTILINE)
LANGUAGES = {"python", "sh", "toml", "yaml", "json", "mermaid", "text"}


@pytest.fixture
def workplace(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with what the pages take for granted: a model, images with labels, a folder of photos."""
    monkeypatch.chdir(tmp_path)
    onnx.save(chain(), "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez("images.npz", x=pixels, y=np.arange(12) % 4)
    pathlib.Path("photos").mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(f"photos/{number}.png")


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_code_block_of_a_page_holds(page: pathlib.Path) -> None:
    for example in BLOCKS.parse(page).examples():
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_code_block_is_of_a_language_that_is_checked(page: pathlib.Path) -> None:
    opened = FENCE.findall(page.read_text(encoding="utf-8"))[::2]
    assert {language for language in opened if not language.startswith("{")} <= LANGUAGES


def test_a_shell_block_is_split_into_its_commands() -> None:
    block = "cd x && A=1 dfmpc-onnx quantize m.onnx \\\n  -o 'o p.onnx' > report.json  # a word\nnox"
    assert list(commands(block)) == [["cd", "x"], ["dfmpc-onnx", "quantize", "m.onnx", "-o", "o p.onnx"], ["nox"]]


@pytest.mark.parametrize("arguments", [["quantise"], ["quantize", "m.onnx"], ["inspect", "m.onnx", "--no-such-option"]])
def test_a_command_that_does_not_exist_is_noticed(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse(arguments)
