"""From what a user names to jobs with names of their own, the same on every machine."""

from __future__ import annotations

import os
import pathlib
import re

import pytest

from dfmpc_onnx.cli import batch_command
from dfmpc_onnx.errors import OptionError, RecipeError, UserError
from dfmpc_onnx.jobs.job import Job, parse_memory, parse_time
from dfmpc_onnx.jobs.sources import Shard, find_jobs
from tests.commands import ROOT


def jobs(*sources: object, sweep: tuple[str, ...] = (), **options: object) -> list[Job]:
    return find_jobs([str(source) for source in sources], options, sweep, pathlib.Path("/nowhere/run"))


def names(found: list[Job]) -> list[str]:
    return [job.name for job in found]


def test_a_folder_stands_for_all_models_below_it(nets: pathlib.Path) -> None:
    assert names(jobs(nets)) == ["a", "b", "inner_a", "inner_c"]


def test_a_pattern_stands_for_what_matches(nets: pathlib.Path) -> None:
    assert names(jobs(nets / "*.onnx")) == ["a", "b"]
    assert len(jobs(nets / "**" / "*.onnx")) == 4


def test_a_model_that_is_named_twice_is_one_job(nets: pathlib.Path) -> None:
    assert names(jobs(nets / "a.onnx", nets / "*.onnx", nets / "a.onnx")) == ["a", "b"]


def test_a_link_is_read_where_it_stands(nets: pathlib.Path) -> None:
    (nets / "links").mkdir()
    (nets / "links" / "net.onnx").symlink_to(nets / "a.onnx")
    (nets / "links" / "circle.onnx").symlink_to(nets / "links" / "circle.onnx")
    found = {job.name: job.model for job in jobs(nets / "links")}
    assert found == {name: str(nets / "links" / f"{name}.onnx") for name in ("circle", "net")}
    assert names(jobs(nets / "a.onnx", nets / "links" / "net.onnx")) == ["a"]


def test_weights_beside_a_model_count_for_its_size(nets: pathlib.Path) -> None:
    """How much memory and time a job gets follows from it."""
    for name, size in (("a.onnx.data", 100), ("b.bin", 1000), ("c.bin", 10_000)):
        (nets / name).write_bytes(b"x" * size)
    assert {job.name: job.size for job in jobs(nets / "*.onnx")} == {"a": 106, "b": 1006}


def test_two_models_of_one_name_get_names_that_stay(nets: pathlib.Path) -> None:
    found = names(jobs(nets / "a.onnx", nets / "inner" / "a.onnx"))
    assert len(set(found)) == 2 and all(name.startswith("a-") for name in found)
    assert found == names(jobs(nets / "inner" / "a.onnx", nets / "a.onnx", nets / "a.onnx"))


def test_results_of_the_batch_and_hidden_files_are_no_models(nets: pathlib.Path) -> None:
    run = nets / "run"
    (run / "models").mkdir(parents=True)
    for path in (run / "models" / "a.onnx", nets / ".hidden.onnx"):
        path.write_text("good")
    (nets / "folder.onnx").mkdir()
    assert len(find_jobs([str(nets)], {}, (), run)) == 4
    assert len(find_jobs([str(nets / "**" / "*.onnx")], {}, (), run)) == 4


def test_the_output_may_be_the_folder_of_the_models_or_above_it(nets: pathlib.Path) -> None:
    for output in (nets, nets.parent):
        assert names(find_jobs([str(nets)], {}, (), output)) == ["a", "b", "inner_a", "inner_c"]


def test_a_name_may_be_written_on_every_system(nets: pathlib.Path) -> None:
    odd = nets / ("x" * 150 + " :*?.onnx")
    odd.write_text("good")
    (found,) = names(jobs(odd))
    assert len(found) == 100 and found.isascii() and " " not in found and "*" not in found


@pytest.mark.parametrize(
    ("file", "job"),
    [
        ("网络", "网络"),
        ("nai\u0308ve", "naïve"),
        ("=1+1", "1+1"),
        ("-v", "v"),
        ("...", "model"),
        ("a b\n<c>'\"", "a_b_c_"),
        ("con.v2", "_con.v2"),
        ("\x1b[31m\u202ered", "_31m_red"),
        ("a%41", "a%41"),
    ],
)
def test_a_name_keeps_its_letters_and_loses_what_means_something_elsewhere(
    nets: pathlib.Path, file: str, job: str
) -> None:
    (nets / f"{file}.onnx").write_text("good")
    assert names(jobs(nets / f"{file}.onnx")) == [job]


def test_long_names_of_many_bytes_differ_by_their_digests(nets: pathlib.Path) -> None:
    for last in "一二":
        (nets / f"{'网' * 70}{last}.onnx").write_text("good")
    found = names(jobs(nets / "网*.onnx"))
    assert len(set(found)) == 2 and all(len(name.encode()) <= 100 for name in found)


def test_a_file_whose_name_is_no_utf8_is_a_job_too(nets: pathlib.Path) -> None:
    try:
        pathlib.Path(os.fsdecode(os.fsencode(nets) + b"/\xff.onnx")).write_text("good")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert any(job.model.endswith("\\udcff.onnx") for job in jobs(nets))


def test_a_sweep_is_every_combination(nets: pathlib.Path) -> None:
    found = jobs(nets / "a.onnx", sweep=("recipe=int8,mixed", "seed=0,1"), preprocess="unit")
    assert names(found) == [f"a.recipe={recipe}.seed={seed}" for recipe in ("int8", "mixed") for seed in (0, 1)]
    assert found[0].options == {"preprocess": "unit", "recipe": "int8", "seed": 0}


def test_a_combination_that_quantize_refuses_says_why_as_typed(nets: pathlib.Path) -> None:
    found = jobs(nets / "a.onnx", sweep=("recipe=int8,mixed", "max-size=2MB,50%"))
    said = "--sweep recipe=int8, max-size={0}: max-size {0}: recipe int8 states the bits already (8); leave one of "
    said += "them out"
    assert {job.name: job.mistake for job in found} == {
        "a.recipe=int8.max-size=2MB": said.format("2MB"),
        "a.recipe=int8.max-size=50%": said.format("50%"),
        "a.recipe=mixed.max-size=2MB": "",
        "a.recipe=mixed.max-size=50%": "",
    }


def test_a_value_that_only_some_targets_take_is_a_combination(nets: pathlib.Path) -> None:
    found = jobs(nets / "a.onnx", sweep=("target=cpu,tensorrt", "fp16=yes"))
    assert ["fp16" in job.mistake for job in found] == [True, False]


@pytest.mark.parametrize(
    ("sweep", "options", "message"),
    [
        (("recipe=int8", "max-size=2MB,50%"), {}, "--sweep recipe=int8, max-size=2MB: max-size 2MB: recipe int8"),
        (("recipe=int8,mixd",), {}, "--sweep recipe=mixd: recipe 'mixd': no such recipe"),
        (("seed=0,1", "max-size=lots,2MB"), {}, "--sweep max-size=lots: max-size 'lots': not understood"),
        (("seed=0,1",), {"weights": "9"}, "weights '9'"),
    ],
)
def test_a_sweep_that_cannot_be_meant_is_a_mistake(
    nets: pathlib.Path, sweep: tuple[str, ...], options: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError) as error:
        jobs(nets / "a.onnx", sweep=sweep, **options)
    assert str(error.value).startswith(message)


def test_every_combination_of_the_sweeps_in_the_pages_and_the_help_is_one_that_runs(nets: pathlib.Path) -> None:
    texts = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md")]
    texts += [(ROOT / "README.md").read_text(encoding="utf-8"), batch_command.batch.epilog or ""]
    lines = {line.strip() for text in texts for line in text.splitlines() if re.match(r"\s*dfmpc-onnx batch ", line)}
    sweeps = [re.findall(r"--sweep (\S+)", line) for line in lines if "--sweep" in line]
    assert len(sweeps) >= 3
    for sweep in sweeps:
        assert not any(job.mistake for job in jobs(nets / "a.onnx", sweep=tuple(sweep))), sweep


def test_a_value_with_a_comma_is_swept_with_semicolons(nets: pathlib.Path) -> None:
    found = jobs(nets / "a.onnx", sweep=("preprocess=104,117,123/1;raw",))
    assert [job.options["preprocess"] for job in found] == ["104,117,123/1", "raw"]


def test_shards_are_the_whole_and_share_nothing(nets: pathlib.Path) -> None:
    all_jobs = jobs(nets, sweep=("seed=0,1,2",))
    parts = [Shard.parse(f"{index}/5").of(all_jobs) for index in range(1, 6)]
    assert sorted(name for part in parts for name in names(part)) == names(all_jobs)
    assert Shard.parse(None).of(all_jobs) == all_jobs


@pytest.mark.parametrize(
    ("source", "sweep", "message"),
    [
        ("none.onnx", "", "none.onnx: no such file; name a model, a folder, a pattern or a manifest"),
        ("*.nnx", "", "no file matches; name another pattern"),
        ("empty", "", "empty: holds no .onnx file; name another folder"),
        ("a.onnx\0", "", "a.onnx?: no such file"),
        ("a.onnx", "recipe", "sweep 'recipe': not understood; give OPTION=VALUE,VALUE such as recipe=int8,mixed"),
        ("a.onnx", "recipes=int8", "'recipes': is no option of quantize (did you mean recipe?)"),
        ("a.onnx", "threads=1,2", "'threads': is the same for all jobs, or given by the batch itself; leave it out"),
        ("a.onnx", "seed=x", "seed 'x': not understood; give a whole number"),
        ("a.onnx", "max-size=lots", "max-size 'lots': not understood"),
        ("a.onnx", "weights=9", "weights '9'"),
        ("a.onnx", "images=/none", "/none: no such file"),
        ("a.onnx", f"seed={','.join(map(str, range(10_001)))}", "10001 settings are more than 10000"),
    ],
)
def test_a_mistake_is_named_before_the_first_job(nets: pathlib.Path, source: str, sweep: str, message: str) -> None:
    (nets / "empty").mkdir()
    with pytest.raises(OptionError) as error:
        jobs(nets / source, sweep=(sweep,) if sweep else ())
    assert message in str(error.value)


def test_a_recipe_that_is_none_and_no_source_at_all(nets: pathlib.Path) -> None:
    with pytest.raises(RecipeError, match="int88"):
        jobs(nets, recipe="int88")
    with pytest.raises(OptionError, match="no model given; name files, folders"):
        jobs()


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="not understood; give I/N"):
        Shard.parse(text)


def test_limits_have_units() -> None:
    assert [parse_time(text) for text in ("90", "1.5s", "30m", "2h", None)] == [90, 1.5, 1800, 7200, None]
    assert [parse_memory(text) for text in ("4GB", "512MiB", "2000000000", None)] == [4 * 10**9, 2**29, 2 * 10**9, None]
    for wrong in ("", "-1", "1 day", "0", "nan"):
        with pytest.raises(OptionError, match="time-limit"):
            parse_time(wrong)
    for wrong in ("", "-1", "lots", "1MB", "4 XB"):
        with pytest.raises(OptionError, match="memory-limit"):
            parse_memory(wrong)
