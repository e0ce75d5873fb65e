"""docs/architecture.md says what the source says, and the tool that keeps it so."""

import shutil

import pytest

from tools import architecture


def test_the_map_is_up_to_date():
    """If this fails, run ``python -m tools.architecture``, and give a new wing a section."""
    assert architecture.main(["--check"]) == 0


PROJECT = {  # its files: two wings and one pass
    "dfmpc_onnx/__init__.py": '"""The package."""\n',
    "dfmpc_onnx/api/__init__.py": "",
    "dfmpc_onnx/model/__init__.py": "",
    "dfmpc_onnx/pipeline/__init__.py": "",
    "dfmpc_onnx/errors.py": '"""What is raised."""\n',
    "dfmpc_onnx/api/quantize.py": '''"""quantize()."""
from dfmpc_onnx.errors import Mistake
from dfmpc_onnx.model import source
from dfmpc_onnx.model.source import load
from dfmpc_onnx.pipeline.manager import PassManager


def quantize(model):
    def closing():
        return source.size_of(model)

    options = _checked(model)
    try:
        found = PassManager(load(model)).run()
    except Mistake:
        source.explain()
    return closing()


def _checked(model):
    if model is None:
        raise Mistake(source.explain())
    return source.look(model)
''',
    "dfmpc_onnx/model/source.py": '''"""Reads | writes.

More.
"""


def load(model):
    """Read it."""


def size_of(model): ...
''',
    "dfmpc_onnx/pipeline/manager.py": '"""Runs passes."""\nfrom dfmpc_onnx.model import source\n',
    "passes/dfmpc_passes/fold.py": '"""Folds."""\n\n\nclass Fold:\n    name = "fold"\n',
    "passes/dfmpc_passes/recipes/mixed.toml": '[[passes]]\nuse = "fold"\n',
    "pyproject.toml": """[[tool.importlinter.contracts]]
type = "layers"
layers = ["dfmpc_onnx.api", "dfmpc_passes", "dfmpc_onnx.pipeline", "dfmpc_onnx.model", "dfmpc_onnx.errors"]
""",
}


@pytest.fixture
def project(tmp_path):
    """A project of two wings and one pass, with a document that has a place for everything."""
    for name, text in PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    document = tmp_path / architecture.DOCUMENT
    document.parent.mkdir()
    parts = "".join(f"<!-- map: begin {p} -->\n<!-- map: end -->\n" for p in architecture.generated(tmp_path))
    document.write_text(f"# Map\n{parts}the end\n")
    return tmp_path


def run(root, *arguments):
    return architecture.main(["--root", str(root), *arguments])


def test_what_is_generated_is_written_between_marks_and_checked(project, capsys):
    document = project / architecture.DOCUMENT
    assert run(project, "--check") == 1 and "out of date" in capsys.readouterr().err
    assert run(project) == 0 and run(project, "--check") == 0
    text = document.read_text()
    assert text.startswith("# Map\n<!-- map: begin wings -->\n```mermaid\n") and text.endswith("the end\n")
    (project / "dfmpc_onnx/model/source.py").write_text('"""Something else."""\n')
    assert run(project, "--check") == 1 and document.read_text() == text


def test_a_wing_without_a_section_is_a_fault(project, capsys):
    run(project)
    (project / "dfmpc_onnx/qdq").mkdir()
    (project / "dfmpc_onnx/qdq/decoder.py").write_text('"""Decodes."""\n')
    assert run(project) == 1 and "'modules qdq' has no place" in capsys.readouterr().err
    shutil.rmtree(project / "dfmpc_onnx/model")
    assert run(project) == 1 and "'modules model' is nothing that is generated" in capsys.readouterr().err


def test_arrows_that_follow_from_others_are_left_out_and_those_upward_are_dotted(project):
    (project / "dfmpc_onnx/errors.py").write_text("import dfmpc_onnx\n")
    wings = architecture.generated(project)["wings"].splitlines()
    arrows = {line.strip() for line in wings[2:-1]}
    assert arrows == {"api --> pipeline", "api --> errors", "pipeline --> model", "errors -.-> api"}


def test_the_path_is_the_order_of_the_calls_without_what_follows_an_error(project):
    path = architecture.generated(project)["path"]
    calls = [line.split("`")[1] for line in path.splitlines() if "`" in line and line.startswith("|")]
    assert calls == ["look", "load", "PassManager", "size_of"]
    assert "| 2 | model.source | `load` | Read it. |" in path
    assert path.index("What is asked for") < path.index("From the file to the first pass") < path.index("s2")


def test_modules_passes_and_figures(project):
    parts = architecture.generated(project)
    assert "| [source](../dfmpc_onnx/model/source.py) | Reads \\| writes. |" in parts["modules model"]
    assert parts["passes"] == "1. `fold`: Folds.\n"
    assert "| modules | 5 |" in parts["figures"] and "| functions over 60 lines | none |" in parts["figures"]
