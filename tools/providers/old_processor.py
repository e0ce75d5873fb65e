#!/usr/bin/env python3
"""Another program on a processor with AVX2 but without VNNI, emulated: QEMU, unpacked into a folder.

    python tools/providers/old_processor.py FOLDER python tools/providers/compare.py FILES --max-steps 0.1 --untimed

runs a command there. onnxruntime then takes its kernels for AVX2, which add two products of uint8 and int8 in 16 bits;
compare.py, on files of write.py, says how far outputs are from those of the processor that wrote them. Needs Debian's
apt-get and dpkg-deb, no root, and x86-64.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

PACKAGE = "qemu-user-static"
EMULATOR = "usr/bin/qemu-x86_64-static"
PROCESSOR = "Haswell"  # the first with AVX2


class UnavailableError(Exception):
    """Why there is no emulator here."""


def emulator(folder: pathlib.Path) -> list[str]:
    """What to put in front of a command, whose first word is a path. Raises UnavailableError with the reason."""
    folder = folder.resolve()
    if not (folder / EMULATOR).exists():
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise UnavailableError(f"{tool} is not there; this needs Debian or a system like it")
        folder.mkdir(parents=True, exist_ok=True)
        _run(["apt-get", "-oAPT::Sandbox::User=", "download", PACKAGE], folder)
        for package in sorted(folder.glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(package), str(folder)], folder)
    return [str(folder / EMULATOR), "-cpu", PROCESSOR]


def _run(command: list[str], folder: pathlib.Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()[-1:]
        raise UnavailableError(f"{command[0]} failed: {lines[0] if lines else 'it does not say why'}")


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    program = shutil.which(sys.argv[2])
    if program is None:
        sys.exit(f"{sys.argv[2]}: not found")
    try:
        command = [*emulator(pathlib.Path(sys.argv[1])), program, *sys.argv[3:]]
    except UnavailableError as reason:
        sys.exit(f"no emulator here: {reason}")
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
