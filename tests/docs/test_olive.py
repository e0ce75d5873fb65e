"""The Olive pass of the examples in a workflow of Olive; what runs one is skipped where olive-ai is not installed."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import json
import pathlib
import sys
import tomllib
import types

import onnxruntime
import pytest

from dfmpc_onnx.errors import OptionError
from tests.commands import ROOT

FOLDER = ROOT / "examples" / "olive"
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
pytestmark = pytest.mark.filterwarnings("default")  # olive's own imports warn
needs_olive = pytest.mark.skipif(importlib.util.find_spec("olive") is None, reason="olive-ai is not installed")


@pytest.fixture
def workflow(model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The workflow of the example, on a small model, in a folder of the test's own."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(model_file.parent)
    settings = json.loads((FOLDER / "workflow.json").read_text(encoding="utf-8"))
    settings["input_model"]["model_path"] = str(model_file)
    yield settings
    for name in [name for name in sys.modules if name.partition(".")[0] == "dfmpc_olive"]:
        del sys.modules[name]


def run(settings: dict[str, object]) -> object:
    from olive.workflows import run as olive_run

    return olive_run(settings, package_config=str(FOLDER / "package_config.json"))


def test_the_example_registers_what_it_defines() -> None:
    """The command and the entry point of the pass name functions and classes that are there."""
    for name in (*PROJECT["scripts"].values(), *PROJECT["entry-points"]["olive.passes"].values()):
        module, _, defined = name.partition(":")
        place = FOLDER.joinpath(*module.split("."))
        tree = ast.parse((place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text("utf-8"))
        assert defined in {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


class Param:
    """What stands in for a parameter of a pass."""

    def __init__(self, type_: type, default_value: object, description: str) -> None:
        self.default_value = default_value


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> types.ModuleType:
    """As much of Olive as the example imports, where olive-ai is not installed: the workflow's module."""
    if importlib.util.find_spec("olive") is not None:
        pytest.skip("olive-ai is installed, and runs the example itself")
    (tmp_path / "own_list.json").write_text('{"passes": {"OnnxConversion": {}}, "extra": 1}', encoding="utf-8")
    listed = types.SimpleNamespace(get_default_config_path=lambda: str(tmp_path / "own_list.json"))
    held: dict[str, dict[str, object]] = {
        "olive": {},
        "olive.hardware": {},
        "olive.hardware.accelerator": {"AcceleratorSpec": object},
        "olive.model": {"ONNXModelHandler": lambda model_path: types.SimpleNamespace(model_path=model_path)},
        "olive.model.utils": {"resolve_onnx_path": lambda folder, name: str(pathlib.Path(folder) / name)},
        "olive.package_config": {"OlivePackageConfig": listed},
        "olive.passes": {"Pass": object},
        "olive.passes.pass_config": {"BasePassConfig": object, "PassConfigParam": Param},
        "olive.workflows": {"run": lambda settings, package_config: None},
    }
    for name, values in held.items():
        module = types.ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in [name for name in sys.modules if name.partition(".")[0] == "dfmpc_olive"]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("dfmpc_olive.workflow")


def test_the_pass_hands_its_options_to_quantize_and_leaves_nothing_below_the_threshold(
    stand_in: types.ModuleType, model_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    made = sys.modules["dfmpc_olive"].DfmpcQuantization()
    usual = {name: param.default_value for name, param in made._default_config(None).items()}
    model = types.SimpleNamespace(model_path=str(model_file))
    (out := tmp_path / "out").mkdir()
    config = types.SimpleNamespace(**usual | {"recipe": "int8", "preprocess": "unit"})
    written = made._run_for_config(model, config, str(out)).model_path
    assert onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"]).get_inputs()
    config.min_sqnr = 200.0
    with pytest.raises(ValueError, match=r"at least 200\.0 dB"):
        made._run_for_config(model, config, str(out))
    assert list(out.iterdir()) == []


def test_a_workflow_that_fails_is_one_line(
    stand_in: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    entry = importlib.metadata.EntryPoint("Own", "package.module:Own", stand_in.GROUP)
    monkeypatch.setattr(stand_in, "entry_points", lambda group: [entry])
    found = stand_in.package_config()
    assert set(found["passes"]) == {"OnnxConversion", "Own"} and found["extra"] == 1
    assert found["passes"]["Own"]["module_path"] == "package.module.Own"

    def refused(settings: object, package_config: object) -> None:
        raise OptionError("recipe 'x': no such recipe")

    path = tmp_path / "own.json"
    for text, run, message in (("{", refused, "Expecting"), ("{}", refused, "no such recipe")):
        path.write_text(text, encoding="utf-8")
        monkeypatch.setattr(sys.modules["olive.workflows"], "run", run)
        with pytest.raises(SystemExit, match=rf"error: .*own\.json: .*{message}"):
            stand_in.main([str(path)])
    nothing = types.SimpleNamespace(get_best_candidate=lambda: None)
    monkeypatch.setattr(sys.modules["olive.workflows"], "run", lambda settings, package_config: nothing)
    with pytest.raises(SystemExit, match="no pass of it wrote a model"):
        stand_in.main([str(path)])


@needs_olive
def test_one_command_finds_the_pass_by_its_entry_point_beside_olives_own(
    workflow: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dfmpc_olive import workflow as command

    registered = [
        importlib.metadata.EntryPoint(name, value, command.GROUP)
        for name, value in PROJECT["entry-points"][command.GROUP].items()
    ]
    monkeypatch.setattr(command, "entry_points", lambda group: registered if group == command.GROUP else [])
    assert {"DfmpcQuantization", "OnnxConversion"} <= set(command.package_config()["passes"])
    pathlib.Path("own.json").write_text(json.dumps(workflow), encoding="utf-8")
    command.main(["own.json"])
    written = capsys.readouterr().out.splitlines()[-1]
    assert onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"]).get_inputs()
    workflow["passes"]["quantize"]["min_sqnr"] = 200.0
    pathlib.Path("own.json").write_text(json.dumps(workflow), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"error: own\.json: SQNR is .* at least 200\.0 dB"):
        command.main(["own.json"])


@needs_olive
def test_the_pass_writes_a_file_that_runs(workflow: dict[str, object]) -> None:
    best = run(workflow).get_best_candidate()
    session = onnxruntime.InferenceSession(best.model_path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["dfmpc_onnx.recipe"]


@needs_olive
def test_the_pass_fails_below_the_threshold(workflow: dict[str, object]) -> None:
    workflow["passes"]["quantize"]["min_sqnr"] = 200.0
    with pytest.raises(ValueError, match=r"at least 200\.0 dB"):
        run(workflow)
