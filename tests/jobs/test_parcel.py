"""Files of a job as bytes: which ones it reads, under the same paths elsewhere, and its results under its own paths."""

from __future__ import annotations

import html
import os
import pathlib

import msgspec
import pytest

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.jobs.job import Job, Order
from dfmpc_onnx.jobs.parcel import (
    Named,
    NamedFiles,
    missing_data,
    model_files,
    order_below,
    pack,
    page_of,
    row_of,
    save_written,
    unpack,
)
from dfmpc_onnx.report.batch_row import JobRow


@pytest.fixture
def job(tmp_path: pathlib.Path) -> Job:
    """A model with a file of weights, a folder of images, and a recipe that extends another."""
    for name in ("nets/a.onnx", "nets/a.bin", "images/x.png", "images/labels.csv", "images/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    (tmp_path / "nets" / "mine.toml").write_text('extends = "../base.toml"\n')
    (tmp_path / "base.toml").write_text('extends = "int8"\n')
    options = {"images": str(tmp_path / "images"), "recipe": str(tmp_path / "nets" / "mine.toml")}
    return Job("a", str(tmp_path / "nets" / "a.onnx"), options)


def lacking(*names: str) -> JobRow:
    return JobRow(name="a", model="", data=msgspec.json.encode(dict.fromkeys(names, "")).decode())


def test_images_labels_and_recipes_are_what_options_name(job: Job, tmp_path: pathlib.Path) -> None:
    found = NamedFiles().of(job)
    assert {place: path.relative_to(tmp_path).as_posix() for place, path in found.files.items()} == {
        "images/images/labels.csv": "images/labels.csv",
        "images/images/x.png": "images/x.png",
        "recipes/nets/mine.toml": "nets/mine.toml",
        "recipes/base.toml": "base.toml",
    }
    assert found.options == {"images": "images/images", "recipe": "recipes/nets/mine.toml"}
    assert found.size == sum(path.stat().st_size for path in found.files.values())
    assert NamedFiles().of(Job("b", job.model, {"recipe": "int8"})) == Named()


def test_files_lie_elsewhere_as_options_name_them(job: Job, tmp_path: pathlib.Path) -> None:
    order, named = Order(job, str(tmp_path / "run" / "a.onnx"), str(tmp_path / "run" / "a.html")), NamedFiles().of(job)
    moved = order_below(order, named.options, tmp_path / "elsewhere")
    unpack(pack({**model_files(job, ["a.bin"]), **named.files}), tmp_path / "elsewhere")
    model, recipe = pathlib.Path(moved.job.model), pathlib.Path(moved.job.options["recipe"])
    assert (model.name, model.read_text(), (model.parent / "a.bin").read_text()) == (
        "a.onnx",
        "nets/a.onnx",
        "nets/a.bin",
    )
    assert sorted(p.name for p in pathlib.Path(moved.job.options["images"]).iterdir()) == ["labels.csv", "x.png"]
    assert (recipe.parent / "../base.toml").read_text() == 'extends = "int8"\n'
    assert all(path.startswith(str(tmp_path / "elsewhere")) for path in (moved.output, moved.report))


@pytest.mark.parametrize("far", ["far", "far/" * 40])
def test_a_row_has_the_paths_of_here(job: Job, tmp_path: pathlib.Path, far: str) -> None:
    """Messages shorten a long path in its middle."""
    order = Order(job, "/run/models/a.onnx", "/run/reports/a.html")
    moved = order_below(order, NamedFiles().of(job).options, tmp_path / far)
    said = f"{moved.job.options['images']}/x.png: no image; {shown(moved.job.model)}: no model"
    row = row_of(JobRow(name="a", model=moved.job.model, reason=said, output=moved.output), order, moved)
    assert row.reason == f"{job.options['images']}/x.png: no image; {shown(job.model)}: no model"
    assert (row.model, row.output, row.report) == (job.model, order.output, "")
    assert "far" not in str(row)


def test_a_page_has_the_paths_of_here(tmp_path: pathlib.Path) -> None:
    order = Order(Job("a", "/nets/a&b.onnx"), "/run/models/a&b.onnx", "/run/reports/a.html")
    moved = order_below(order, {}, tmp_path)
    page = f"<code>dfmpc-onnx report {moved.job.model} {html.escape(moved.output)} -o {moved.report}</code>"
    own = "<code>dfmpc-onnx report /nets/a&b.onnx /run/models/a&amp;b.onnx -o /run/reports/a.html</code>"
    assert page_of(page.encode(), order, moved).decode() == own


def test_weights_that_a_try_lacked_are_sent_if_they_lie_beside_the_model(job: Job, tmp_path: pathlib.Path) -> None:
    (tmp_path / "nets" / "away.bin").symlink_to(tmp_path / "base.toml")
    names = ("a.bin", "none.bin", "../base.toml", str(tmp_path / "base.toml"), "away.bin", "", "x" * 300, "a\0b")
    assert missing_data(job, lacking(*names), Named()) == ("a.bin",)
    assert missing_data(job, JobRow(name="a", model="", data='{"a.bin":"ab12"}'), Named()) == ()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_what_is_no_plain_file_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    assert pack({"a": tmp_path / "pipe.onnx", "b": tmp_path / "none.onnx", "c": tmp_path}) == {}


def test_a_recipe_that_is_named_by_its_whole_path_is_refused(job: Job, tmp_path: pathlib.Path) -> None:
    recipe = tmp_path / "nets" / "mine.toml"
    recipe.write_text(f'extends = "{(tmp_path / "base.toml").as_posix()}"\n')
    with pytest.raises(OptionError, match="extends a recipe by its whole path; name it from its own folder"):
        NamedFiles().of(job)


def test_an_output_appears_with_its_weights_and_without_those_of_an_earlier_one(tmp_path: pathlib.Path) -> None:
    old, new = (f"a.onnx.{digit * 12}.data" for digit in "01")
    (tmp_path / old).write_bytes(b"old")
    save_written({"a.onnx": new.encode(), new: b"new"}, str(tmp_path / "a.onnx"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.onnx": new.encode(), new: b"new"}
