"""Checks that need another Python, another onnxruntime or a driver; `nox` is needed for nothing else.

nox                     all sessions; each says what it could not do here, and why
nox -s openvino         one of them
"""

from __future__ import annotations

import os
import pathlib
import sys

import nox

nox.options.sessions = ["checks", "old_runtimes", "old_processor", "openvino", "webgpu", "qnn", "qonnx"]
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
TOOLS = pathlib.Path("tools/providers")
sys.path.append(str(TOOLS))
DATA_MODELS = ("imagenet_mobilenet_v2", "linzaer_version-RFB-320", "yunet_n_320")  # of DFMPC_DATA
# The files of models/ in the recipe that needs no statistics: quick, and its weights take 1.6, 6 and 8 bits.
QUICK = ("--recipe", "per-channel")


@nox.session(python=["3.11", "3.12", "3.13"])
def checks(session: nox.Session) -> None:
    """Every check of tools/check.py."""
    session.install("-e", ".[dev]")
    session.run("python", "tools/check.py", *session.posargs)


@nox.session(python="3.11")
@nox.parametrize(("onnxruntime", "numpy"), [("1.16.3", "numpy<2"), ("1.20.1", "numpy")])
def old_runtimes(session: nox.Session, onnxruntime: str, numpy: str) -> None:
    """Files for `portable`, in runtimes as old as it promises, agree with the current one."""
    session.install("-e", ".[cpu]")
    folder = session.create_tmp()
    session.run("python", TOOLS / "write.py", folder, "--target", "portable", *QUICK)
    session.install(f"onnxruntime=={onnxruntime}", numpy)  # compare.py imports nothing of this package
    session.run("python", TOOLS / "compare.py", folder, "--max-steps", "2")


@nox.session(python="3.11")
def old_processor(session: nox.Session) -> None:
    """Files for `cpu` and `portable` give the same numbers on a processor with AVX2 but without VNNI, emulated."""
    from old_processor import UnavailableError, emulator

    try:
        command = emulator(pathlib.Path(session.cache_dir / "old_processor"))
    except UnavailableError as reason:
        session.skip(f"no emulator here: {reason}")
    session.install("-e", ".[cpu]")
    folder = session.create_tmp()
    session.run("python", TOOLS / "write.py", folder, "--target", "cpu", "--target", "portable", "--recipe", "int8")
    program = pathlib.Path(session.bin) / "python"
    compare = (TOOLS / "compare.py", folder, "--max-steps", "0.1", "--images", "10", "--untimed")
    session.run(*command, program, *compare, external=True)


@nox.session(python="3.11")
def qonnx(session: nox.Session) -> None:
    """Files for `qonnx` give the same numbers, bit for bit, in the executor of the package qonnx."""
    session.install("-e", ".[dev,qonnx]")
    session.run("pytest", "tests/qdq/test_qonnx_nodes.py")


@nox.session(python="3.11")
def learned(session: nox.Session) -> None:
    """Images are learned, and the executor gives what onnxruntime gives; the other checks do without PyTorch."""
    session.install("-e", ".[dev,learned]")
    session.run("pytest", "tests/learning", "tests/api/test_learn_images.py", "tests/cli/test_images_command.py")


@nox.session(python="3.11")
def openvino(session: nox.Session) -> None:
    """Files for `openvino` on its provider, which runs on the processor.

    By the build of its own: the plug-in takes Intel's processors alone.
    """
    session.install("-e", ".", "onnxruntime-openvino==1.24.1")
    folder = session.create_tmp()
    session.run("python", TOOLS / "write.py", folder, "--target", "openvino", *QUICK)
    session.run("python", TOOLS / "compare.py", folder, "--provider", "openvino")


@nox.session(python="3.11")
def qnn(session: nox.Session) -> None:
    """Files for `qnn`, of 8 bits, of 16 and of both, each compiled to one context of the Hexagon NPU; nothing runs.

    Those of models/, and where DFMPC_DATA is set a detector and MobileNetV2.
    """
    session.install("-e", ".[qnn]")
    folder = pathlib.Path(session.create_tmp())
    data = os.environ.get("DFMPC_DATA")
    more = [pathlib.Path(data, "models", f"{name}.onnx") for name in DATA_MODELS] if data else []
    models = [model for model in sorted(pathlib.Path("models").glob("*.onnx")) if ".folded" not in model.name]
    for model in (*models, *more):
        for bits in ("auto", "16", "8"):
            out = folder / f"{model.stem}.{bits}.onnx"
            options = ("--target", "qnn", "--activations", bits, *QUICK, "--force", "-q")
            session.run("dfmpc-onnx", "quantize", model, "-o", out, *options)
    session.run("python", TOOLS / "qnn.py", *sorted(folder.glob("*.onnx")))


@nox.session(python="3.11")
def webgpu(session: nox.Session) -> None:
    """Files for `webgpu` and `cpu` on its provider, on Mesa's software Vulkan.

    By the build of its own: the plug-in wants a GPU that the system lists.
    """
    from software_vulkan import UnavailableError, environment

    home = pathlib.Path(os.environ.get("NOX_SOFTWARE_VULKAN", session.cache_dir / "software_vulkan"))
    try:
        variables = environment(home)
    except UnavailableError as reason:
        session.skip(f"no software Vulkan here: {reason}")
    session.install("-e", ".[cpu]")
    folder = session.create_tmp()
    session.run("python", TOOLS / "write.py", folder, "--target", "webgpu", "--target", "cpu", *QUICK)
    session.run("python", "-m", "pip", "uninstall", "-y", "-q", "onnxruntime")  # the builds exclude each other
    session.install("onnxruntime-webgpu==1.27.0")
    compare = ("python", TOOLS / "compare.py", folder, "--provider", "webgpu", "--images", "4")
    session.run(*compare, env=variables)
