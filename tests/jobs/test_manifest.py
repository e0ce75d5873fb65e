"""Manifests: what they may hold, and mistakes with their line and column."""

from __future__ import annotations

import pathlib

import pytest

from dfmpc_onnx.errors import DfmpcError, OptionError
from dfmpc_onnx.jobs.job import Job
from dfmpc_onnx.jobs.manifest import read_manifest
from dfmpc_onnx.jobs.sources import find_jobs


def jobs(nets: pathlib.Path, name: str, text: str, **options: object) -> list[Job]:
    (nets / name).write_text(text, encoding="utf-8")
    return find_jobs([str(nets / name)], options, (), nets / "run")


def test_a_csv_has_a_row_a_model_and_a_column_an_option(nets: pathlib.Path) -> None:
    text = (
        "path,name,recipe,max-size,layer,seed,reduce-range\n"
        'a.onnx,first,int8,,"conv*=8;head=float",3,yes\n\nb.onnx,,,25%,,,\n'
    )
    first, second = jobs(nets, "zoo.csv", text)
    assert (second.name, second.model) == ("first", str(nets / "a.onnx"))
    assert second.options == {"recipe": "int8", "layers": ["conv*=8", "head=float"], "seed": 3, "reduce_range": True}
    assert (first.name, first.options) == ("b", {"max_size": "25%"})


def test_a_toml_has_options_for_all_and_for_each(nets: pathlib.Path) -> None:
    text = """
[options]
recipe = "int8"
[[model]]
path = "*.onnx"
[[model]]
path = "inner"
recipe = "mixed"
layers = { "conv*" = 8 }
min-sqnr = 12
"""
    found = {job.model.removeprefix(f"{nets}/"): job for job in jobs(nets, "zoo.toml", text, seed=1, recipe="int4")}
    a, b, inner_a, c = (found[f"{name}.onnx"] for name in ("a", "b", "inner/a", "inner/c"))
    assert a.options == b.options == {"recipe": "int8", "seed": 1}
    assert (a.name[:2], b.name, inner_a.name[:2], c.name) == ("a-", "b", "a-", "c")
    assert c.options == {"recipe": "mixed", "seed": 1, "layers": {"conv*": 8}, "min_sqnr": 12}


def test_paths_are_taken_from_the_folder_of_the_manifest(nets: pathlib.Path) -> None:
    (nets / "mine.toml").write_text('extends = "int8"\n')
    (job,) = jobs(nets, "zoo.csv", "path,recipe\na.onnx,mine.toml\n")
    assert job.options == {"recipe": str(nets / "mine.toml")}


CSV_MISTAKES = [
    ("", "zoo.csv: names no model; give each a row with its path"),
    ("path\n", "zoo.csv: names no model"),
    ("file,recipe\na.onnx,int8\n", "zoo.csv:1:1: 'file': is no option of quantize"),
    ("name,recipe\nx,int8\n", "zoo.csv:1:1: no column 'path'"),
    ("path,recipee\na.onnx,int8\n", "zoo.csv:1:2: 'recipee': is no option of quantize (did you mean recipe?)"),
    ("path,threads\na.onnx,1\n", "zoo.csv:1:2: 'threads': is the same for all jobs"),
    ("path,seed,seed\na.onnx,1,2\n", "zoo.csv:1:3: column 'seed' is there twice"),
    ("path,seed\na.onnx,1\nb.onnx,x\n", "zoo.csv:3:2: seed 'x': not understood; give a whole number"),
    ("path,mean-bits\na.onnx,few\n", "zoo.csv:2:2: mean-bits 'few': not understood; give a number"),
    ("path,reduce-range\na.onnx,perhaps\n", "zoo.csv:2:2: reduce-range 'perhaps': not understood; give yes or no"),
    ("seed,path\n1,\n", "zoo.csv:2:2: names no path"),
    ("path,preprocess\na.onnx,104,117,123/1\n", "zoo.csv:2:3: 4 cells under 2 columns; put a cell with a comma in"),
    ('path\n"a.onnx\n', "zoo.csv:2: is no CSV (unexpected end of data)"),
    ("path\na.onnx\nnone.onnx\n", "zoo.csv:3:1: none.onnx: no such file"),
    ("path\na.onnx\n*.nnx\n", "zoo.csv:3:1: *.nnx: no file matches"),
    ("path,recipe\na.onnx,int8\nb.onnx,int88\n", "zoo.csv:3:2: recipe 'int88'"),
    ("path,weights\na.onnx,99\n", "zoo.csv:2:2: weights '99'"),
    ("path,recipe,input-shape\na.onnx,,1xa\n", "zoo.csv:2:3: input shape '1xa': not understood"),
    ("path,seed,input-range\na.onnx,,x=5:1\n", "zoo.csv:2:3: input range 'x=5:1': LOW must be below HIGH"),
    ("path,seed,images\na.onnx,1,none.npz\n", "none.npz: no such file or folder of images"),
    ("path,seed\na.onnx,-1\n", "zoo.csv:2:2: seed -1: not understood; give 0 or more"),
    ("path,name\na.onnx,x\nb.onnx,X\n", "name 'x' is there twice; give each a name of its own"),
    ("path,name\n*.onnx,x\n", "zoo.csv:2:1: 2 models have one name, 'x'; leave it out"),
]
TOML_MISTAKES = [
    ("", "zoo.toml: names no model"),
    ("[[model]\n", "zoo.toml:1:8: is no TOML"),
    ("[[models]]\npath = 'a.onnx'\n", "zoo.toml:1:3: 'models' is not known here; write [[model]] and [options]"),
    ("model = 3\n", "zoo.toml: write [options] for all models, and a table [[model]] for each"),
    ("[[model]]\nname = 'x'\n", "zoo.toml:1:1: names no path"),
    ("[[model]]\npath = 3\n", "zoo.toml:2:1: names no path"),
    ("[[model]]\npath = 'a.onnx'\nname = 3\n", "zoo.toml:3:1: name is no text"),
    (
        "[[model]]\npath = 'a.onnx'\n[[model]]\npath = 'b.onnx'\n  recipee = 'int8'\n",
        "zoo.toml:5:3: 'recipee': is no opt",
    ),
    ("[options]\nseed = 'x'\n[[model]]\npath = 'a.onnx'\n", "zoo.toml:2:1: seed 'x': not understood"),
    ("[[model]]\npath = 'a.onnx'\nseed = 2020-01-01\n", "zoo.toml:3:1: seed: of type date; give a text, a number or a"),
    ("[[model]]\npath = 'a.onnx'\nseed = 1.5\n", "zoo.toml:3:1: seed: of type float; give a whole number"),
    ("[[model]]\npath = 'none.onnx'\n", "zoo.toml:2:1: none.onnx: no such file"),
]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("zoo.csv", *mistake) for mistake in CSV_MISTAKES] + [("zoo.toml", *mistake) for mistake in TOML_MISTAKES],
)
def test_a_mistake_is_named_with_its_place(nets: pathlib.Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DfmpcError) as error:
        jobs(nets, name, text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_refused(nets: pathlib.Path) -> None:
    (nets / "zoo.csv").write_bytes(b"path\n\xff\n")
    with pytest.raises(OptionError, match=r"is not UTF-8 \(byte 5\); save it as UTF-8"):
        read_manifest(nets / "zoo.csv")
    with pytest.raises(OptionError, match="no such file"):
        read_manifest(nets / "none.csv")
