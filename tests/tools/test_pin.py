"""The pin of bytes: rows of a small folder, and a comparison with rows made before."""

import hashlib
import re

import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.pipeline.targets import TARGETS
from tests import graphs
from tools.experiments import pin


@pytest.fixture
def folder(tmp_path):
    """Two networks and a file that is none."""
    models = tmp_path / "models"
    models.mkdir()
    onnx.save(graphs.chain(), models / "chain.onnx")
    onnx.save(graphs.residual(), models / "residual.onnx")
    (models / "broken.onnx").write_bytes(b"no model")
    return models


@pytest.fixture
def rows(monkeypatch):
    """Rows are made in this process; fresh ones have a test of their own."""
    monkeypatch.setattr(pin, "made", lambda jobs, processes: map(pin.row_of, jobs))


def printed(capsys, folder, *arguments):
    status = pin.main(["--models", str(folder), "--recipe", "int8", "--target", "cpu", *map(str, arguments)])
    return status, capsys.readouterr().out


def test_a_row_is_the_sha256_of_the_model_without_its_metadata(folder, rows, capsys):
    status, text = printed(capsys, folder)
    assert status == 0
    broken, chain, residual = text.splitlines()
    assert re.fullmatch(r"broken\.onnx +int8 +cpu +refused: .+", broken)
    assert re.fullmatch(r"chain\.onnx {23}int8 {9}cpu {7}[0-9a-f]{64}", chain)
    model = dfmpc_onnx.quantize(folder / "residual.onnx", recipe="int8", threads=1).model
    del model.metadata_props[:]
    assert residual.split()[-1] == hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def test_every_recipe_and_target_by_default(folder):
    assert len(pin.selected(folder, "chain", None, None)) == 6 * len(TARGETS)
    assert len(pin.selected(folder, "", ["int8"], ["cpu", "cuda"])) == 3 * 2


def test_against_prints_the_rows_that_differ(folder, rows, capsys, tmp_path):
    _, before = printed(capsys, folder)
    file = tmp_path / "before.txt"
    other = f"{'chain.onnx':32} {'mixed':12} {'cpu':9} {'0' * 64}\n"  # of a recipe that is not asked for
    file.write_text(before + other)
    assert printed(capsys, folder, "--against", file) == (0, "")
    onnx.save(graphs.dense(), folder / "chain.onnx")
    (folder / "residual.onnx").unlink()
    status, changed = printed(capsys, folder, "--against", file)
    made, gone = changed.splitlines()
    assert status == 1 and made.startswith("chain.onnx") and made not in before
    assert gone.startswith("residual.onnx") and gone.endswith(f"(only in {file})")
    assert printed(capsys, folder, "--against", file, "--model", "broken") == (0, "")


def test_rows_of_a_fresh_process_are_those_of_this_one(folder):
    jobs = pin.selected(folder, "chain", ["int8"], ["cpu"])
    assert list(pin.made(jobs, 1)) == [pin.row_of(job) for job in jobs]


@pytest.mark.parametrize(
    ("given", "said"),
    [(["--model", "none"], "no .onnx file"), (["--recipe", "int5"], "no such recipe"), (["--target", "tpu"], "tpu")],
)
def test_what_is_not_there_is_refused(folder, capsys, given, said):
    with pytest.raises(SystemExit) as caught:
        pin.main(["--models", str(folder), *given])
    assert caught.value.code == 2 and said in capsys.readouterr().err
