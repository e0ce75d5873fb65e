#!/usr/bin/env python3
"""On a machine with an NVIDIA GPU: networks on the CUDA and TensorRT providers, in one table.

    pip install -e '.[gpu,images]' && python -m tools.providers.gpu [--provider Tensorrt]... > docs/tables/gpu.md

The networks of models/, and those of the folder that DFMPC_DATA names, are quantized at 8 bits for the provider, run
there on labelled images and compared with the CPU provider. Milliseconds are of one batch, the median of runs taken in
turns with the float network in float32 and in float16 on the same provider. TensorRT has to be installed where
onnxruntime finds it; where its Python package is there too, an engine is built from the plain form of the file, and the
engine's own report says how many of its convolutions read int8. onnxruntime-ep-nv-tensorrt-rtx takes the same files:
`--provider NvTensorRTRTX`. Exits 1, with the reason, where a provider is not really used or too far from the CPU's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

import dfmpc_onnx
from dfmpc_onnx.graph.float16 import Halving, captured_by_bodies, float_tensors
from dfmpc_onnx.runtime.session import Feeds, Session, version
from tools.experiments.measure import Network, networks

TARGETS = {"CUDA": "cuda", "Tensorrt": "tensorrt", "NvTensorRTRTX": "tensorrt", "CPU": "cpu"}
ON_A_GPU = ("CUDA", "Tensorrt")
HEADER = (
    "network",
    "provider",
    "onnxruntime",
    "nodes elsewhere",
    "agreement %",
    "steps from CPU",
    "int8 Convs",
    "ms",
    "of float32",
    "of float16",
)
RUNS, WARM = 20, 3


def float16_form(model: pathlib.Path, out: pathlib.Path) -> None:
    """The float network with all floats in float16 that its operators take: what a GPU runs without quantization."""
    graph = gs.import_onnx(onnx.load(model))
    Halving(graph, captured_by_bodies(graph), float_tensors(graph)).run()
    onnx.save(gs.export_onnx(graph, ir_version=max(graph.ir_version or 0, 8)), out)


def int8_convolutions(report: str) -> tuple[int, int]:
    """How many convolutions of an engine read int8, and how many there are.

    report: of TensorRT's engine inspector as JSON, with the verbosity "detailed"; a layer without details, which is
    a text there, counts by nothing.
    """
    found = [layer for layer in json.loads(report)["Layers"] if isinstance(layer, dict)]
    convolutions = [layer for layer in found if "convolution" in str(layer.get("LayerType", "")).lower()]
    types = [str(part.get("Format/Datatype", "")) for layer in convolutions for part in layer.get("Inputs", [])[:1]]
    return sum("int8" in kind.lower() for kind in types), len(convolutions)


def engine_report(file: pathlib.Path, batch: int) -> str | None:
    """What TensorRT says of the engine that it builds from a file; None where its Python package is not installed."""
    try:
        import tensorrt
    except ImportError:
        return None
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(file)):
        return None
    config = builder.create_builder_config()
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        given = network.get_input(index)
        shape = [batch if size < 0 else size for size in given.shape]
        profile.set_shape(given.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan)
    text: str = engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON)
    return text


def milliseconds(sessions: Sequence[Session], feeds: Feeds) -> list[float]:
    """The median time of a run of each, in turns."""
    taken: list[list[float]] = [[] for _ in sessions]
    for turn in range(WARM + RUNS):
        for session, times in zip(sessions, taken, strict=True):
            began = time.perf_counter()
            session.run(feeds)
            if turn >= WARM:
                times.append(1000 * (time.perf_counter() - began))
    return [statistics.median(times) for times in taken]


def feeds_of(session: Session, batch: int) -> dict[str, np.ndarray]:
    """Numbers of unit variance for every input; open dimensions are the batch."""
    rng = np.random.default_rng(0)
    shapes = {name: [size if isinstance(size, int) else batch for size in shape] for name, shape, _ in session.inputs}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def row(network: Network, provider: str, folder: pathlib.Path, batch: int, most: float) -> tuple[list[str], str]:
    """The cells of one network on one provider, and why it failed; empty where it did not."""
    target = TARGETS[provider]
    quantized, half = folder / "quantized.onnx", folder / "half.onnx"
    dfmpc_onnx.quantize(
        network.model, quantized, "int8", target=target, preprocess=network.preprocess, check=False, force=True
    )
    float16_form(network.model, half)
    found = dfmpc_onnx.verify(network.model, quantized, images=network.images, providers=[provider]).providers[0]
    convolutions = int8_convolutions(plain) if (plain := _report(quantized, target, batch)) is not None else None
    sessions = [Session(file, provider) for file in (quantized, network.model, half)]
    own, single, halved = milliseconds(sessions, feeds_of(sessions[1], batch))
    steps = found.use.steps if found.use is not None else 0.0
    there = sum(count for name, count in found.use.nodes.items() if name.startswith(provider)) if found.use else 0
    cells = [
        network.label,
        provider,
        version(),
        "-" if found.use is None else str(sum(found.use.nodes.values()) - there),
        f"{found.fidelity.agreement:.1f}",
        f"{steps:.2f}",
        "-" if convolutions is None else f"{convolutions[0]} of {convolutions[1]}",
        f"{own:.2f}",
        f"{own / single:.2f}",
        f"{own / halved:.2f}",
    ]
    return cells, f"{steps:.2f} steps from the CPU provider, more than {most:g}" if steps > most else ""


def _report(quantized: pathlib.Path, target: str, batch: int) -> str | None:
    """TensorRT's report on the plain form of a file that is for it."""
    if target != "tensorrt":
        return None
    plain = quantized.with_name("plain.onnx")
    with contextlib.suppress(dfmpc_onnx.UserError):  # a file whose weights are plain already
        dfmpc_onnx.expand(quantized, plain, force=True)
        return engine_report(plain, batch)
    return engine_report(quantized, batch)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = networks()
    parser.add_argument("--provider", action="append", choices=list(TARGETS), help="may be repeated")
    parser.add_argument("--only", action="append", choices=list(known), help="a network; may be repeated")
    parser.add_argument("--batch", type=int, default=32, help="of what is timed")
    parser.add_argument("--max-steps", type=float, default=8.0)
    args = parser.parse_args(arguments)
    failed = []
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for provider in args.provider or ON_A_GPU:
        for name in args.only or known:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    cells, why = row(known[name], provider, pathlib.Path(folder), args.batch, args.max_steps)
                    print("| " + " | ".join(cells) + " |", flush=True)
                except dfmpc_onnx.UserError as error:
                    why = str(error)
            if why:
                failed.append(f"{known[name].label} on {provider}: {why}")
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
