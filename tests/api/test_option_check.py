"""Options checked without a model are refused in the words that quantize has for them."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

import dfmpc_onnx
from dfmpc_onnx.api.option_check import check_options
from dfmpc_onnx.errors import UserError

MISTAKES: list[dict[str, Any]] = [
    {"recipe": "int88"},
    {"weights": "9"},
    {"weights": []},
    {"activations": "7"},
    {"layers": ["conv1=99"]},
    {"target": "tensort"},
    {"preprocess": "imagnet"},
    {"input_shapes": ["x:axb"]},
    {"input_ranges": ["x=3:1"]},
    {"max_size": "lots"},
    {"max_size": "25%", "recipe": "int8"},
    {"mean_bits": -1},
    {"min_sqnr": "much"},
    {"max_latency": "soon"},
    {"max_latency": "80%", "target": "tensorrt"},
    {"images": "/none"},
    {"fp16": True},
    {"layer_errors": True, "check": False},
    {"target": "qonnx", "max_size": "25%", "weights": "auto"},
    {"reduce_range": True, "activations": "none"},
]


@pytest.mark.parametrize("options", MISTAKES, ids=str)
def test_a_mistake_is_refused_in_the_same_words(model_file: pathlib.Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError) as wanted:
        dfmpc_onnx.quantize(model_file, **options)
    with pytest.raises(type(wanted.value)) as found:
        check_options(**options)
    said = (str(wanted.value).replace("--weights", "weights"), str(found.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("options", [{}, {"recipe": "int8", "min_sqnr": 12}, {"max_size": "25%"}, {"seed": 3}], ids=str)
def test_what_quantize_takes_is_taken(options: dict[str, Any]) -> None:
    check_options(**options)
