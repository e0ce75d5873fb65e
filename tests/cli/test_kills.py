"""A process that is killed at any moment leaves the old output or the new one, whole."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.commands import environment, held
from tests.graphs import chain

# Saves a model, and kills itself in front of the n-th thing that it does to a file or folder of the output's; each n
# in a fork of its own, since importing takes longer than all else. Prints how many files each fork left.
PROGRAM = """
import os, pathlib, signal, sys
import onnx
from dfmpc_onnx.model.write import save

source, out, external = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3] == "external"
model = onnx.load(source)
events = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.listdir", "os.scandir"}


def saved(moment):
    left = moment

    def hook(event, args):
        nonlocal left
        if event in events and str(out.parent) in " ".join(map(str, args)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    save(model, out, external)


moment = 0
while True:
    moment += 1
    child = os.fork()
    if child == 0:
        saved(moment)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(moment, os.WIFSIGNALED(status), flush=True)
    sys.stdin.readline()
    if not os.WIFSIGNALED(status):
        break
"""


def scaled(factor: float) -> onnx.ModelProto:
    model = chain()
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".w"):
            values = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return model


def weights(path: pathlib.Path) -> bytes:
    """All weights of a file as it can be loaded, external data included."""
    model = onnx.load(path)
    onnx.checker.check_model(model)
    return b"".join(numpy_helper.to_array(t).tobytes() for t in model.graph.initializer)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
@pytest.mark.parametrize("new", ["inside", "external"])
@pytest.mark.parametrize("old", ["none", "inside", "external"])
def test_an_output_killed_at_any_moment_is_the_old_or_the_new_one(tmp_path: pathlib.Path, old: str, new: str) -> None:
    source, folder = tmp_path / "source.onnx", tmp_path / "out"
    folder.mkdir()
    out = folder / "out.onnx"
    onnx.save(scaled(2.0), source)
    if old == "inside":
        onnx.save(scaled(1.0), out)
    elif old == "external":
        onnx.save(scaled(1.0), out, save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    before, wanted = (weights(out) if old != "none" else None), weights(source)
    beside = {name: data for name, data in held(folder).items() if name != "out.onnx"}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(source), str(out), new]
    killed = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        for line in program.stdout:
            found = weights(out) if out.exists() else None
            assert found in (before, wanted), f"neither old nor new after {line}"
            now = held(folder)
            assert {name: now.get(name) for name in beside} == beside
            if line.split()[1] == "True":
                killed.append(found == wanted)
            program.stdin.write("\n")
            program.stdin.flush()
    assert program.returncode == 0
    assert len(killed) > 5, "too few moments to speak of any"
    assert weights(out) == wanted
    # Once it is there it stays: every fork behind the first whole one begins with it.
    assert killed == sorted(killed)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_a_whole_run_killed_as_it_writes_leaves_input_and_output(tmp_path: pathlib.Path) -> None:
    """Through the command line, in front of the rename that would make the new file appear."""
    source, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(chain(), source, save_as_external_data=True, location="model.bin", size_threshold=0)
    out.write_bytes(b"the old one")
    before = held(tmp_path)
    program = (
        "import os, signal, sys\n"
        "def hook(event, args):\n"
        "    if event == 'os.rename' and str(args[1]).endswith('out.onnx'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(hook)\n"
        "from dfmpc_onnx.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "quantize",
        str(source),
        "-o",
        str(out),
        "--recipe",
        "per-channel",
        "--force",
    ]
    ended = subprocess.run(command, capture_output=True, check=False, env=environment())
    assert ended.returncode == -signal.SIGKILL
    after = held(tmp_path)
    assert {name: after[name] for name in before} == before


# The command line, which sends itself a signal as a file or folder of the output's is opened, renamed or removed.
ASKED = """
import os, signal, sys
number, event, name = getattr(signal, sys.argv[1]), sys.argv[2], sys.argv[3]
sent = []

def hook(seen, args):
    if seen == event and name in " ".join(map(str, args)) and not sent:
        sent.append(event)
        os.kill(os.getpid(), number)

sys.addaudithook(hook)
sys.argv[1:] = sys.argv[4:]
from dfmpc_onnx.cli import main
main()
"""


def asked(number: str, event: str, name: str, source: pathlib.Path, out: pathlib.Path) -> tuple[int, str, str]:
    """Exit status and streams of a run that is asked to end in front of an event."""
    words = ["quantize", str(source), "-o", str(out), "--recipe", "per-channel", "--force"]
    command = [sys.executable, "-c", ASKED, number, event, name, *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs signals")
@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.parametrize(
    ("event", "name"),
    [("open", "model.onnx"), ("os.mkdir", ".writing"), ("open", "out.onnx"), ("os.chmod", "out.onnx")],
)
def test_a_run_that_is_asked_to_end_cleans_up_and_says_so(
    tmp_path: pathlib.Path, number: str, status: int, event: str, name: str
) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(chain(), source)
    out.write_bytes(b"the old one")
    before = held(tmp_path)
    assert asked(number, event, name, source, out) == (status, "", "interrupted\n")
    assert held(tmp_path) == before


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="needs signals")
def test_weights_whose_model_was_not_published_do_not_stay(tmp_path: pathlib.Path) -> None:
    """Asked to end between the two renames."""
    source, out = tmp_path / "model.onnx", tmp_path / "out" / "out.onnx"
    out.parent.mkdir()
    onnx.save(chain(), source, save_as_external_data=True, location="model.bin", size_threshold=0)
    assert asked("SIGTERM", "os.chmod", "out/.out.onnx", source, out)[0] == 143
    assert held(out.parent) == {}
    assert asked("SIGTERM", "os.rename", "writing/out.onnx", source, out)[0] == 143
    assert held(out.parent) == {}


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="needs signals")
def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored(tmp_path: pathlib.Path) -> None:
    onnx.save(chain(), tmp_path / "model.onnx")
    line = f"trap '' TERM; exec {sys.executable} -c \"$0\" SIGTERM open out.onnx quantize model.onnx -o out.onnx"
    command = ["bash", "-c", f"{line} --recipe per-channel", ASKED]
    ended = subprocess.run(command, capture_output=True, check=False, env=environment(), cwd=tmp_path)
    assert ended.returncode == 0 and (tmp_path / "out.onnx").exists()


# The command line, interrupted as it imports the n-th module, for some n in a fork of their own.
STARTING = """
import os, runpy, signal, sys
for moment in (1, 2, 3, 5, 8, 16, 32, 64, 128, 256, 512, 100_000):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1), os.dup2(write, 2)
        left, seen = moment, False

        def hook(event, args):
            global left, seen
            seen = seen or event == "import" and args[0].startswith("dfmpc_onnx.cli")
            if event == "import" and seen:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGINT)

        sys.addaudithook(hook)
        sys.argv = ["dfmpc-onnx", "recipes", "nonesuch"]
        runpy.run_module("dfmpc_onnx", run_name="__main__", alter_sys=True)
        os._exit(99)
    os.close(write)
    said = os.fdopen(read).read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(moment, status, repr(said), flush=True)
    if status == 2:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
def test_an_interruption_while_anything_is_imported_shows_no_traceback(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-c", STARTING]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    moments = [line.split(maxsplit=2) for line in ended.stdout.splitlines()]
    assert len(moments) > 8 and moments[-1][1] == "2", "too few moments to speak of any"
    assert [m for m in moments if "Traceback" in m[2]] == []
    assert {m[1] for m in moments[:-1]} == {"130"}


def test_a_run_that_is_interrupted_as_it_starts_shows_no_traceback(tmp_path: pathlib.Path) -> None:
    words = ["quantize", "none.onnx", "-o", "out.onnx"]
    command = [sys.executable, "-c", ASKED, "SIGINT", "open", "usage_errors", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
