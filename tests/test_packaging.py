"""What a user installs: one wheel with both packages, which runs without the checkout."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import zipfile

import onnx
import pytest

import dfmpc_onnx
import dfmpc_passes
from tests.commands import ROOT, environment
from tests.graphs import chain

PACKAGES = {"dfmpc_onnx": pathlib.Path(dfmpc_onnx.__path__[0]), "dfmpc_passes": pathlib.Path(dfmpc_passes.__path__[0])}
MOST_LINES = 450
HEAVY = ("numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "rich", "click", "msgspec", "torch")


def python(*args: str, cwd: pathlib.Path, path: pathlib.Path | None = None) -> str:
    """Standard output of a fresh interpreter in which warnings are errors; path: in place of the checkout."""
    env = environment(PYTHONPATH=str(path)) if path else environment()
    command = [sys.executable, "-W", "error", *args]
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def unpacked(built: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


def test_the_wheel_holds_both_packages_with_types_and_recipes_and_nothing_else(unpacked: pathlib.Path) -> None:
    files = {str(p.relative_to(unpacked)) for p in unpacked.rglob("*") if p.is_file() and ".dist-info" not in str(p)}
    expected = {
        str(pathlib.Path(name) / p.relative_to(folder))
        for name, folder in PACKAGES.items()
        for p in folder.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert files == expected
    assert {"dfmpc_onnx/py.typed", "dfmpc_passes/py.typed"} <= files
    assert {f"dfmpc_passes/recipes/{name}.toml" for name in ("paper", "closed-form", "int8")} <= files


def test_the_wheel_carries_its_licence_and_its_command(unpacked: pathlib.Path) -> None:
    (info,) = unpacked.glob("*.dist-info")
    assert (info / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert "dfmpc-onnx = dfmpc_onnx.cli:main" in (info / "entry_points.txt").read_text()
    assert "License-Expression: Apache-2.0" in (info / "METADATA").read_text()


def test_the_wheel_runs_outside_the_checkout(unpacked: pathlib.Path, tmp_path: pathlib.Path) -> None:
    onnx.save(chain(), tmp_path / "model.onnx")
    where = "import dfmpc_onnx, dfmpc_passes; print(*dfmpc_onnx.__path__, *dfmpc_passes.__path__, sep='\\n')"
    homes = python("-c", where, cwd=tmp_path, path=unpacked).split("\n")[:2]
    assert homes == [str(unpacked / name) for name in PACKAGES]
    assert "closed-form" in python("-m", "dfmpc_onnx", "recipes", cwd=tmp_path, path=unpacked)
    for recipe in ("paper", "closed-form", "int8"):
        command = ["-m", "dfmpc_onnx", "quantize", "model.onnx", "-o", f"{recipe}.onnx", "--recipe", recipe]
        assert "against the float model" in python(*command, cwd=tmp_path, path=unpacked)
        onnx.checker.check_model(tmp_path / f"{recipe}.onnx", full_check=True)


@pytest.mark.parametrize("statement", ["import dfmpc_onnx", "import dfmpc_onnx.errors"])
def test_importing_the_package_is_light(statement: str, tmp_path: pathlib.Path) -> None:
    loaded = python("-c", f"import sys; {statement}; print(*sys.modules)", cwd=tmp_path).split()
    assert not set(HEAVY) & set(loaded)


def test_the_command_starts_without_reading_models(tmp_path: pathlib.Path) -> None:
    loaded = python("-c", "import sys, dfmpc_onnx.cli.commands; print(*sys.modules)", cwd=tmp_path).split()
    assert not {"numpy", "onnx", "onnx_graphsurgeon", "onnxruntime"} & set(loaded)


def test_the_face_of_the_package_is_whole() -> None:
    assert {"quantize", "inspect", "verify", "Recipe", "Pass", "UserError", "Defect"} <= set(dfmpc_onnx.__all__)
    for name in dfmpc_onnx.__all__:
        assert getattr(dfmpc_onnx, name).__name__ == name
    assert set(dfmpc_onnx.__all__) <= set(dir(dfmpc_onnx))
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = dfmpc_onnx.quantise


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_longer_than_a_reader_can_hold(package: str) -> None:
    lengths = {p.name: p.read_text().count("\n") for p in PACKAGES[package].rglob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines >= MOST_LINES} == {}
