"""What killed runs leave behind is cleaned by the next one, and never what another run is writing."""

import multiprocessing
import pathlib
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dfmpc_onnx.model.staging import staging_folder
from dfmpc_onnx.model.write import save
from tests import graphs
from tests.commands import environment

fcntl = pytest.importorskip("fcntl", reason="needs locks that a process leaves with its end")


def scaled(factor: float) -> onnx.ModelProto:
    """A network that differs from others in its weights."""
    model = graphs.chain()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return model


def names(folder: pathlib.Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def pair(folder: pathlib.Path) -> bool:
    """Whether a folder holds one model, the weights it names, and nothing else."""
    model = onnx.load(folder / "q.onnx", load_external_data=False)
    named = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    onnx.load(folder / "q.onnx")
    return names(folder) == sorted({"q.onnx", *named})


def test_an_output_that_is_replaced_takes_its_weights_with_it(tmp_path):
    save(scaled(1.0), tmp_path / "q.onnx", external=True)
    save(scaled(2.0), tmp_path / "q.onnx", external=True)
    assert len(names(tmp_path)) == 2 and pair(tmp_path)
    save(scaled(3.0), tmp_path / "q.onnx", external=False)
    assert names(tmp_path) == ["q.onnx"]


def test_weights_that_a_copy_of_the_model_names_stay_and_so_does_what_is_not_ours(tmp_path):
    save(scaled(1.0), tmp_path / "q.onnx", external=True)
    (tmp_path / "copy.onnx").write_bytes((tmp_path / "q.onnx").read_bytes())
    for other in ("q.onnx.data", "q.onnx.0123.data", "p.onnx.0123456789ab.data", "q_onnx.0123456789ab.data"):
        (tmp_path / other).write_bytes(b"1")
    before = names(tmp_path)
    save(scaled(2.0), tmp_path / "q.onnx", external=True)
    assert set(before) < set(names(tmp_path))
    onnx.load(tmp_path / "copy.onnx")


KILLED = """
import os, pathlib, signal, sys
import onnx
from dfmpc_onnx.model.write import save
out, moment = pathlib.Path(sys.argv[2]), sys.argv[3]
def hook(event, args):
    if event == "os.rename" and str(args[1]).endswith(moment):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
save(onnx.load(sys.argv[1]), out, external=True)
"""


@pytest.mark.parametrize("moment", [".data", "q.onnx"])
def test_what_a_killed_run_left_is_gone_after_the_next(tmp_path, moment):
    folder = tmp_path / "out"
    folder.mkdir()
    onnx.save(scaled(1.0), tmp_path / "source.onnx")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "source.onnx"), str(folder / "q.onnx"), moment]
    ended = subprocess.run(command, check=False, env=environment())
    assert ended.returncode == -signal.SIGKILL and names(folder)
    save(scaled(2.0), folder / "q.onnx", external=True)
    assert pair(folder)


def test_what_a_living_run_is_writing_stays(tmp_path):
    with staging_folder(tmp_path / "q.onnx") as mine:
        (mine / "weights").write_bytes(b"1")
        save(scaled(1.0), tmp_path / "q.onnx", external=False)
        assert (mine / "weights").read_bytes() == b"1"
    assert names(tmp_path) == ["q.onnx"]


def write_often(path: pathlib.Path, first: int) -> None:
    for number in range(first, first + 10):
        save(scaled(float(number)), path, external=True)


def test_two_processes_that_write_one_output_leave_a_pair_that_belongs_together(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_often, args=(tmp_path / "q.onnx", first)) for first in (1, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert pair(tmp_path)
