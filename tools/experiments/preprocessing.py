#!/usr/bin/env python3
"""Whether `--preprocess auto` finds out what a network was trained with: each network as it is, and made over.

    python -m tools.experiments.preprocessing [--only NETWORK] [--seeds 3] [--covariances]

Made over: a 1x1 Conv in front turns what another normalization gives into what the network was trained with, so that
the other one is then right, in either order of the channels. The first table is of the networks as they are; the
second counts, for every truth, what was chosen. The networks are those of tools/experiments/measure.py, and in the
folder that DFMPC_DATA names a few more whose preprocess is known.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import time
from collections import Counter

import numpy as np
import onnx

from dfmpc_onnx.inputs.normalization import CANDIDATES, TWINS, Prediction, PreprocessChoice, choose_preprocess
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import resolve
from dfmpc_onnx.statistics.leading_moments import BY_COVARIANCES, by_pictures
from tools.experiments.measure import networks

MORE = {  # PaddleOCR reads its pictures as BGR, but gives them the mean and deviation of RGB
    "faces": ("face detector", "linzaer_version-RFB-320", "lite"),
    "direction": ("text direction", "ch_ppocr_mobile_v2.0_cls_infer", "keras:bgr"),
    "text": ("text detector", "ch_PP-OCRv4_det_infer", "imagenet:bgr"),
}


def known() -> dict[str, tuple[str, pathlib.Path, str]]:
    """Label, file and true preprocess of each network, by short name."""
    found = {name: (n.label, n.model, n.preprocess) for name, n in networks().items()}
    if folder := os.environ.get("DFMPC_DATA"):
        for name, (label, file, truth) in MORE.items():
            found[name] = label, pathlib.Path(folder, f"models/{file}.onnx"), truth
    return found


def made_over(model: onnx.ModelProto, trained: Preprocess, wanted: Preprocess) -> onnx.ModelProto:
    """The model with a 1x1 Conv in front, which makes of an input under `wanted` one under `trained`."""
    corners = np.vstack([np.zeros(3), np.eye(3)]).astype(np.float32)
    given, needed = (p(255 * corners).astype(np.float64) for p in (wanted, trained))
    rows = np.linalg.solve(np.hstack([given, np.ones((4, 1))]), needed)  # needed = given @ rows[:3] + rows[3]
    result = onnx.ModelProto()
    result.CopyFrom(model)
    held = {t.name for t in result.graph.initializer}
    name = next(value.name for value in result.graph.input if value.name not in held)
    for node in result.graph.node:
        for index, read in enumerate(node.input):
            if read == name:
                node.input[index] = "made_over.out"
    weight = rows[:3].T.reshape(3, 3, 1, 1).astype(np.float32)
    for key, values in (("made_over.weight", weight), ("made_over.bias", rows[3].astype(np.float32))):
        result.graph.initializer.append(onnx.numpy_helper.from_array(values, key))
        if name in {v.name for v in result.graph.input} and held & {v.name for v in result.graph.input}:
            result.graph.input.append(onnx.helper.make_tensor_value_info(key, 1, values.shape))
    conv = onnx.helper.make_node("Conv", [name, "made_over.weight", "made_over.bias"], ["made_over.out"])
    nodes = [conv, *(onnx.NodeProto.FromString(n.SerializeToString()) for n in result.graph.node)]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def chosen(model: onnx.ModelProto, seed: int, run: bool) -> PreprocessChoice:
    predictor = BY_COVARIANCES if not run else Prediction("images", functools.partial(by_pictures, seed=seed))
    return choose_preprocess(model, resolve(model, {}, Preprocess.parse("imagenet")), predictor)


def family(name: str) -> str:
    base = name.partition(":")[0]
    return next((first for first, twin in TWINS.items() if twin == base), base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a network by its short name; may be repeated")
    parser.add_argument("--seeds", type=int, default=1, help="judge with this many sets of pictures")
    parser.add_argument("--covariances", action="store_true", help="judge as recipes do that make no image")
    args = parser.parse_args()
    run = not args.covariances
    seeds = range(args.seeds if run else 1)
    counts: Counter[tuple[str, str]] = Counter()
    orders: Counter[str] = Counter()
    least: dict[str, float] = {}
    print("| network | trained with | chosen | sure % | next | mismatch | order asserted | s |\n|" + "---|" * 8)
    for short, (label, path, truth) in known().items():
        if args.only and short not in args.only:
            continue
        model, trained = onnx.load(path), Preprocess.parse(truth)
        began = time.perf_counter()
        found = chosen(model, 0, run)
        seconds = time.perf_counter() - began
        following = f"{found.fits[1].name} {found.fits[1].share:g}" if found.fits else ""
        cells = [label, truth, f"{found.name} ({found.by})", f"{found.sure}", following]
        cells += [f"{found.fits[0].mismatch:.2f}" if found.fits else "", f"{found.order_asserted}", f"{seconds:.2f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
        for candidate in CANDIDATES:
            for order in ("rgb", "bgr"):
                other = made_over(model, trained, Preprocess.parse(f"{candidate}:{order}"))
                for seed in seeds:
                    found = chosen(other, seed, run)
                    right = family(found.name) == candidate and found.by != "assumed"
                    counts[candidate, family(found.name) if found.by != "assumed" else "none fits"] += 1
                    if right:
                        least[candidate] = min(least.get(candidate, 100.0), found.sure or 0.0)
                        told = "right" if found.order == order.upper() else "wrong"
                        orders[told if found.order_asserted else "not asserted"] += 1
                    else:
                        print(f"  {short} as {candidate}:{order}, seed {seed}: {found.name}, {found.reason}")
    columns = (*CANDIDATES, "none fits")
    print(
        "\n| made over to | " + " | ".join(columns) + " | least sure % where right |\n|" + "---|" * (len(columns) + 2)
    )
    for candidate in CANDIDATES:
        cells = [str(counts[candidate, column]) for column in columns]
        print(f"| {candidate} | " + " | ".join(cells) + f" | {least.get(candidate, float('nan')):.1f} |")
    print(f"\norder of the channels, where the normalization is right: {dict(orders)}")


if __name__ == "__main__":
    main()
