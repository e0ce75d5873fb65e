#!/usr/bin/env python3
"""Mesa's Vulkan driver for the processor (lavapipe), unpacked into a folder without installing anything.

    python tools/providers/software_vulkan.py FOLDER

prints the environment variables under which onnxruntime's WebGPU provider finds it: the one way to run that provider
on a machine without a GPU. It takes Mesa 25 from Debian's backports, since the provider refuses older ones, and all
that Mesa needs but the C and C++ libraries. Needs apt-get and dpkg-deb, no root, and the package keys of Debian.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

MIRROR = "http://deb.debian.org/debian"
RELEASE = "bookworm"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
WANTED = ("mesa-vulkan-drivers", "libvulkan1")
# The machine's own: two C libraries in one process do not go well.
LEFT = ("libc6", "libgcc-s1", "libstdc++6", "gcc-12-base")


class UnavailableError(Exception):
    """Why there is no such driver here."""


def environment(folder: pathlib.Path) -> dict[str, str]:
    """Unpack the driver, unless it lies there already; returns what to set. Raises UnavailableError with the reason."""
    folder = folder.resolve()
    root = folder / "root"
    drivers = sorted(root.glob("usr/share/vulkan/icd.d/lvp_icd*.json"))
    if not drivers:
        _unpack(folder, root)
        drivers = sorted(root.glob("usr/share/vulkan/icd.d/lvp_icd*.json"))
    if not drivers:
        raise UnavailableError("the packages hold no lavapipe driver")
    libraries = sorted({str(path.parent) for path in root.glob("**/lib*.so*")})
    # The driver's description names the library by a path that only an installation has.
    local = folder / "lvp_icd.json"
    library = next(root.glob("**/libvulkan_lvp.so"))
    text = drivers[0].read_text()
    named = text.split('"library_path": "', 1)[1].split('"', 1)[0]
    local.write_text(text.replace(named, str(library)))
    return {"VK_DRIVER_FILES": str(local), "VK_ICD_FILENAMES": str(local), "LD_LIBRARY_PATH": ":".join(libraries)}


def _unpack(folder: pathlib.Path, root: pathlib.Path) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"{tool} is not there; this needs Debian or a system like it")
    if not pathlib.Path(KEYS).exists():
        raise UnavailableError(f"{KEYS} is not there")
    for name in ("lists/partial", "cache/archives/partial", "packages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").write_text("")  # nothing counts as installed, so that all that is needed is listed
    lines = [f"deb [signed-by={KEYS}] {MIRROR} {suite} main\n" for suite in (RELEASE, f"{RELEASE}-backports")]
    (folder / "sources.list").write_text("".join(lines))
    own = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "",
    }
    apt = ["apt-get", *(f"-o{key}={value}" for key, value in own.items())]
    _run([*apt, "update"])
    install = ["-t", f"{RELEASE}-backports", "install", "-y", "--print-uris", "--no-install-recommends", *WANTED]
    listed = [line.split()[1] for line in _run([*apt, *install]).splitlines() if line.startswith("'")]
    names = [file.split("_")[0] for file in listed]
    versions = [file.split("_")[1].replace("%3a", ":") for file in listed]
    wanted = [f"{name}={version}" for name, version in zip(names, versions, strict=True) if name not in LEFT]
    _run([*apt, "download", *wanted], cwd=folder / "packages")
    for package in sorted((folder / "packages").glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(package), str(root)])


def _run(command: list[str], cwd: pathlib.Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()[-1:]
        raise UnavailableError(f"{command[0]} failed: {lines[0] if lines else 'it does not say why'}")
    return done.stdout


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    try:
        for key, value in environment(pathlib.Path(sys.argv[1])).items():
            print(f"{key}={value}")
    except UnavailableError as reason:
        sys.exit(f"no software Vulkan here: {reason}")
