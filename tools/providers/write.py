#!/usr/bin/env python3
"""Write the networks of models/ for targets, and what the CPU provider makes of them, for compare.py to check.

    python tools/providers/write.py FOLDER [--target cpu]... [--recipe mixed] [--images 100]

FOLDER gets NETWORK.float.onnx and NETWORK.TARGET.onnx, and NETWORK.npz with images, labels and each file's outputs.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil

import numpy as np

import dfmpc_onnx
from dfmpc_onnx.evaluation.fidelity import outputs
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.pipeline.targets import TARGETS
from dfmpc_onnx.runtime.session import Session, version

MODELS = pathlib.Path(__file__).parents[2] / "models"


def write(folder: pathlib.Path, targets: list[str], recipe: str, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sample = np.load(MODELS / "cifar10_sample.npz")
    x = np.ascontiguousarray(Preprocess.parse("imagenet")(sample["x"][:count]).transpose(0, 3, 1, 2))
    for model in sorted(MODELS.glob("*.onnx")):
        if model.stem.endswith(".folded"):
            continue
        files = {"float": folder / f"{model.stem}.float.onnx"}
        shutil.copy(model, files["float"])
        for target in targets:
            files[target] = folder / f"{model.stem}.{target}.onnx"
            dfmpc_onnx.quantize(model, files[target], recipe, target=target, check=False)
        made = {target: outputs(Session(file), x)[0].astype(np.float32) for target, file in files.items()}
        np.savez(folder / f"{model.stem}.npz", x=x, y=sample["y"][:count], **made)
        print(f"{model.stem}: {', '.join(files)} by onnxruntime {version()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--target", action="append", choices=list(TARGETS))
    parser.add_argument("--recipe", default="mixed")
    parser.add_argument("--images", type=int, default=100)
    args = parser.parse_args()
    write(args.folder, args.target or ["cpu"], args.recipe, args.images)


if __name__ == "__main__":
    main()
