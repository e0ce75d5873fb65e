"""Nothing that belongs to the whole process is changed, so that several threads may quantize at once.

What cannot do without has one owner, which says in its docstring how threads share it.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = [*(ROOT / "dfmpc_onnx").rglob("*.py"), *(ROOT / "passes/dfmpc_passes").rglob("*.py")]
NAMES = ("commands", "diagnose_command", "plan_command", "quantize_command", "report_command")
COMMANDS = " ".join(f"dfmpc_onnx/cli/{name}.py" for name in NAMES)
WORKER = "dfmpc_onnx/jobs/worker.py"  # the process of one job, and of nothing else
OWNERS = {
    "os.umask": None,
    "os.chdir": None,
    "os.putenv": None,
    "os.environ": "dfmpc_onnx/cli/console.py dfmpc_onnx/jobs/processes.py",  # reads COLUMNS; reads what a child gets
    "threadpoolctl": "dfmpc_onnx/runtime/threads.py",
    "onnxruntime.set_default_logger_severity": "dfmpc_onnx/runtime/session.py",
    "resource.setrlimit": "dfmpc_onnx/memory.py",
    "memory.limit_memory": f"{COMMANDS} {WORKER}",
    "memory.keep_freed_memory": " ".join(
        [*(f"dfmpc_onnx/cli/{name}_command.py" for name in ("diagnose", "plan", "quantize")), WORKER]
    ),
    "signal": "dfmpc_onnx/cli/signals.py",  # while the command line alone runs
    "locale": None,
    "warnings.catch_warnings": None,
    "warnings.simplefilter": "dfmpc_onnx/cli/console.py",  # where the process is the command line alone
    "warnings.filterwarnings": None,
    "matplotlib.rc_context": "dfmpc_onnx/report/html/drawing.py",
    "matplotlib.rcParams": "dfmpc_onnx/report/html/drawing.py",
    "np.seterr": None,
    "np.set_printoptions": None,
    "np.random.seed": None,
    "random.seed": None,
    "sys.setrecursionlimit": None,
}


def used(tree):
    """Dotted names in a module, of attributes as written and of imports: ``a.b`` for ``from x.a import b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]
            yield from (f"{(node.module or '').split('.')[-1]}.{alias.name}" for alias in node.names)


@pytest.fixture(scope="module")
def names():
    found = {}
    for path in FILES:
        for name in used(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    return found


@pytest.mark.parametrize(("name", "owner"), OWNERS.items(), ids=OWNERS)
def test_state_of_the_process_has_one_owner(names, name, owner):
    assert names.get(name, set()) == set(owner.split()) if owner else not names.get(name)


def test_numbers_drawn_at_random_have_a_generator_of_their_own(names):
    drawn = {name for name in names if name.startswith(("np.random.", "numpy.random."))}
    assert drawn <= {"np.random.default_rng", "np.random.Generator"}


def test_no_module_rebinds_a_global():
    assert not [p for p in FILES if any(isinstance(n, ast.Global) for n in ast.walk(ast.parse(p.read_text("utf-8"))))]
