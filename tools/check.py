"""Run every check that a change must pass: lint, format, types, floors, pages, tests. Exits 1 if any of them fails.

python tools/check.py [what pytest takes, such as -k name or a file]
"""

from __future__ import annotations

import pathlib
import shlex
import shutil
import subprocess
import sys
import sysconfig

ROOT = pathlib.Path(__file__).resolve().parents[1]
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
    ("sphinx-build", "-q", "-W", "--keep-going", "-b", "html", "docs", "build/docs"),
    # Tests in several processes; none takes more than one thread.
    ("pytest", "-n", "auto", "--maxprocesses", "4", "--dist", "worksteal"),
)


def installed(tool: str) -> str:
    """A tool of the environment that this Python belongs to, activated or not; its bare name where it has none."""
    return shutil.which(tool, path=sysconfig.get_path("scripts")) or tool


def passes(command: tuple[str, ...]) -> bool:
    """Print a command, run it in the root of the repository, and tell whether it succeeded."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    try:
        return subprocess.run([installed(command[0]), *command[1:]], cwd=ROOT, check=False).returncode == 0
    except FileNotFoundError:
        print(f"{command[0]} is not installed; pip install -e '.[dev]'", flush=True)
        return False


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    commands = [(*check, *arguments) if check[0] == "pytest" else check for check in CHECKS]
    failed = [shlex.join(command) for command in commands if not passes(command)]
    print("\n" + (f"failed: {'; '.join(failed)}" if failed else f"all {len(commands)} checks passed"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
