#!/usr/bin/env python3
"""Inference of float, onnxruntime's own static W8A8, and ours at 8/8, 2/6 and by default: time, load, bytes, memory.

    python -m tools.bench.inference [--only NETWORK]... [--threads 1 --threads 2] [--rounds 50]

ResNet-20 of models/; ResNet-56 and MobileNetV2 where DFMPC_DATA names a folder that holds them; the shapes of ResNet-18
and ResNet-50 with random weights (`shape18`, `shape50`), where the default is left out. All files of a network are
timed in turns in one process, each round in another order, so that whatever else the machine does falls on all alike:
median milliseconds, and the median over the rounds of the ratio to float in the same round. Memory is what a process
of its own gains by loading and running a file once. Below each network are the ratios between files, and whether the
others run the same kernels on the same shapes as 8/8. Exits 1 where a weight is dequantized at every inference.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import dfmpc_onnx
from dfmpc_onnx.evaluation.kernel_census import take_census
from dfmpc_onnx.inputs.files import read_images
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.runtime.session import optimized_model
from tools.bench.networks import resnet
from tools.bench.peers import Reader
from tools.experiments.measure import networks

STATIC, OURS_8, OURS_2_6 = "onnxruntime static W8A8", "ours 8/8", "ours 2/6"
ONE = """
import pathlib, sys, numpy, onnxruntime
def resident():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if "VmRSS" in line)
x = numpy.load(sys.argv[2])
onnxruntime.set_default_logger_severity(4)
before = resident()
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: x})
print(resident() - before)
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A network: its model, one input, and what to calibrate onnxruntime's quantizer with."""

    label: str
    model: pathlib.Path
    x: np.ndarray
    calibration: np.ndarray
    preprocess: str = "imagenet"
    recipe: str = "mixed"


def cases(only: list[str] | None, folder: pathlib.Path) -> list[Case]:
    found = []
    known = networks()
    for short in ("own", "resnet56", "mobilenetv2"):
        if short not in known or (only and short not in only):
            continue
        network = known[short]
        dims = _input(network.model)[1:]
        images = read_images(network.images, (1, *dims), Preprocess.parse(network.preprocess)).x[-32:]
        found.append(Case(network.label, pathlib.Path(network.model), images[:1], images, network.preprocess))
    for depth in (18, 50):
        if not only or f"shape{depth}" in only:
            path = folder / f"shape{depth}.onnx"
            onnx.save(resnet(depth), path)
            noise = np.random.default_rng(0).standard_normal((8, 3, 224, 224)).astype(np.float32)
            found.append(Case(f"ResNet-{depth} shape, random weights", path, noise[:1], noise, recipe="per-channel"))
    return found


def _input(model: str | pathlib.Path) -> tuple[str, int, int, int]:
    tensor = onnx.load(model).graph.input[0]
    channels, height, width = (d.dim_value for d in tensor.type.tensor_type.shape.dim[1:])
    return tensor.name, channels, height, width


def files(case: Case, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The float file and the quantized ones, by label."""
    prepared, static = folder / "prepared.onnx", folder / "static.onnx"
    quant_pre_process(str(case.model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(static),
        Reader(_input(case.model)[0], case.calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
    )
    made = {"float": case.model, STATIC: static}
    settings = {"8": OURS_8, "2/6": OURS_2_6} | ({None: "ours by default"} if case.recipe == "mixed" else {})
    for weights, label in settings.items():
        made[label] = folder / f"{len(made)}.onnx"
        options = {"weights": weights, "activations": 8, "preprocess": case.preprocess}
        dfmpc_onnx.quantize(str(case.model), made[label], case.recipe, **options, check=False)
    return made


def session_of(file: pathlib.Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def timed(sessions: list[onnxruntime.InferenceSession], x: np.ndarray, rounds: int) -> np.ndarray:
    """Seconds of each session in each round, ``[sessions, rounds]``; a fifth as many rounds before do not count."""
    order = np.random.default_rng(0)
    seconds = np.zeros((len(sessions), rounds + rounds // 5))
    for turn in range(seconds.shape[1]):
        for index in order.permutation(len(sessions)):
            session = sessions[index]
            began = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: x})
            seconds[index, turn] = time.perf_counter() - began
    return seconds[:, rounds // 5 :]


def ratio(seconds: np.ndarray, of: np.ndarray) -> float:
    return float(np.median(seconds / of))


def kernels(file: pathlib.Path) -> list[tuple[object, ...]]:
    """What onnxruntime runs: operators and the shapes of their constants, in order."""
    graph = optimized_model(file, "a quantized file").graph
    shapes = {t.name: (t.data_type, *t.dims) for t in graph.initializer}
    return [(n.domain, n.op_type, *(shapes.get(name) for name in n.input)) for n in graph.node]


def load_seconds(file: pathlib.Path) -> float:
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        session_of(file, 1)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def resident(file: pathlib.Path, x: pathlib.Path) -> float:
    command = [sys.executable, "-c", ONE, str(file), str(x)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="own, resnet56, mobilenetv2, shape18, shape50")
    parser.add_argument("--threads", action="append", type=int)
    parser.add_argument("--rounds", type=int, default=50)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    threads = args.threads or [1, 2]
    times = [name for n in threads for name in (f"ms, {n} thread{'s' * (n > 1)}", "of float")]
    header = ("network", "file", *times, "load ms", "MB", "MB resident", "weights dequantized at every inference")
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    failed = False
    with tempfile.TemporaryDirectory() as name:
        for case in cases(args.only, pathlib.Path(name)):
            folder = pathlib.Path(tempfile.mkdtemp(dir=name))
            made = files(case, folder)
            x = folder / "x.npy"
            np.save(x, case.x)
            seconds = [timed([session_of(f, n) for f in made.values()], case.x, args.rounds) for n in threads]
            for index, (label, file) in enumerate(made.items()):
                left = take_census(file, onnx.load(file), label).dequantized_weights
                failed |= label.startswith("ours") and left > 0
                cells = [f"{1000 * np.median(s[index]):.2f} | {ratio(s[index], s[0]):.3f}" for s in seconds]
                rest = (f"{1000 * load_seconds(file):.0f}", f"{file.stat().st_size / 1e6:.3f}")
                print(f"| {case.label} | {label} | {' | '.join((*cells, *rest))} | {resident(file, x):.0f} | {left} |")
                sys.stdout.flush()
            row = list(made).index
            for n, s in zip(threads, seconds, strict=True):
                peer, plain = (ratio(s[row(OURS_8)], s[row(STATIC)]), ratio(s[row(OURS_2_6)], s[row(OURS_8)]))
                print(
                    f"  {n} threads: 8/8 takes {peer:.3f} of onnxruntime's, 2/6 takes {plain:.3f} of 8/8",
                    file=sys.stderr,
                )
            plain = kernels(made[OURS_8])
            for label in list(made)[row(OURS_8) + 1 :]:
                same = "the same" if kernels(made[label]) == plain else "other"
                print(
                    f"  {label} runs {same} kernels on constants of {same} shapes as 8/8", file=sys.stderr, flush=True
                )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
