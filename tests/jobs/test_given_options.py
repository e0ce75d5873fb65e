"""Options as texts: their names in any spelling, and what a text has to be follows from quantize itself."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.jobs.given_options import option_name, option_names, option_value, plain_options, with_places


def test_every_option_of_quantize_is_one_but_for_what_the_batch_gives() -> None:
    assert {"recipe", "weights", "layers", "images", "seed", "max_size", "min_sqnr", "check"} <= set(option_names())
    assert not {"model", "output", "threads", "force", "progress", "instruments", "dump"} & set(option_names())


@pytest.mark.parametrize("word", ["max-size", "max_size", "--max-size", " Max-Size "])
def test_a_name_may_be_written_as_on_the_command_line(word: str) -> None:
    assert option_name(word) == "max_size"
    assert option_name("layer") == option_name("layers") == "layers"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("recipe", " int8 ", "int8"),
        ("weights", "2/6", "2/6"),
        ("max_size", "25%", "25%"),
        ("max_latency", "12.5", "12.5"),
        ("seed", "3", 3),
        ("max_float_layers", "2", 2),
        ("min_sqnr", "12.5", 12.5),
        ("mean_bits", "4", 4.0),
        ("check", "No", False),
        ("reduce_range", "true", True),
        ("report", "yes", True),
        ("layers", "conv*=8; head=float", ["conv*=8", "head=float"]),
        ("input_shapes", "x:1x3x8x8", ["x:1x3x8x8"]),
        ("images", "photos/", "photos/"),
    ],
)
def test_a_text_becomes_a_value(name: str, text: str, value: Any) -> None:
    found = option_value(name, text)
    assert found == value and type(found) is type(value)


def test_what_a_process_cannot_be_given_is_refused() -> None:
    assert plain_options({"recipe": pathlib.Path("a.toml"), "seed": None, "layers": ("a=8",)}) == {
        "recipe": "a.toml",
        "layers": ["a=8"],
    }
    with pytest.raises(OptionError, match="images: of type object; give a text, a number or a path"):
        plain_options({"images": object()})


def test_paths_in_options_are_seen_from_a_folder(tmp_path: pathlib.Path) -> None:
    found = with_places({"images": "photos", "recipe": "mine.toml", "seed": 1}, tmp_path)
    assert found == {"images": str(tmp_path / "photos"), "recipe": str(tmp_path / "mine.toml"), "seed": 1}
    assert with_places({"recipe": "int8"}, tmp_path) == {"recipe": "int8"}
