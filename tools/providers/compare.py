#!/usr/bin/env python3
"""Run the files of write.py on a provider, or in another onnxruntime, and compare with what the CPU provider made.

    python tools/providers/compare.py FOLDER [--provider CPU]... [--max-steps 8] [--images N] [--untimed]

Needs numpy and onnxruntime alone, 1.16 or later. Prints one table; exits 1 where a file does not load, where the
provider ran none of its nodes, or where outputs are further away than so many steps, a step being 1/255 of their range.
Times are of one batch, the median of ten, interleaved with the float network on the same provider; none are taken where
they would say nothing, as on an emulated processor (--untimed).
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np
import onnxruntime

HEAD = (
    "| network | file | provider | onnxruntime | nodes there | elsewhere | top-1 % | same class as float % "
    "| steps from CPU | mean | ms | of float |"
)
CPU = "CPUExecutionProvider"


class Failure(Exception):
    """Why a file did not pass."""


def session_of(file: pathlib.Path, provider: str, profile: str | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    providers = [provider]
    if provider.startswith("Tensorrt"):  # what TensorRT leaves stays on the GPU
        providers.append("CUDAExecutionProvider")
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=[*providers, *([CPU] * (provider != CPU))])
    except Exception as error:
        raise Failure(f"does not load ({str(error).splitlines()[0][:120]})") from None
    if provider not in session.get_providers():
        raise Failure(f"{provider} cannot be used here: the session has {', '.join(session.get_providers())}")
    return session


def nodes_run(file: pathlib.Path, provider: str, x: np.ndarray) -> dict[str, int]:
    """How many nodes each provider runs, from the profile of one run."""
    with tempfile.TemporaryDirectory() as folder:
        session = session_of(file, provider, str(pathlib.Path(folder) / "profile"))
        session.run(None, {session.get_inputs()[0].name: x})
        events = json.loads(pathlib.Path(session.end_profiling()).read_text())
    ran = {(e["name"], e["args"]["provider"]) for e in events if e.get("args", {}).get("provider")}
    return dict(collections.Counter(by for _, by in ran))


def timed(sessions: list[onnxruntime.InferenceSession], x: np.ndarray) -> list[float]:
    """Median milliseconds of each session's run, taken in turns."""
    seconds: list[list[float]] = [[] for _ in sessions]
    for turn in range(12):
        for session, list_ in zip(sessions, seconds, strict=True):
            began = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: x})
            if turn >= 2:
                list_.append(time.perf_counter() - began)
    return [1000 * statistics.median(list_) for list_ in seconds]


def row(file: pathlib.Path, data: dict[str, np.ndarray], provider: str, most: float, untimed: bool) -> str:
    network, target = file.name.split(".")[:2]
    x, y, cpu, plain = data["x"], data["y"], data[target], data["float"]
    nodes = nodes_run(file, provider, x[:1])
    there = nodes.get(provider, 0)
    if not there:
        raise Failure(f"{provider} ran none of its nodes")
    session = session_of(file, provider)
    got = session.run(None, {session.get_inputs()[0].name: x})[0]
    steps = np.abs(got.astype(np.float64) - cpu) / (np.ptp(cpu) / 255)
    times = ("-", "-")
    if not untimed:
        own, reference = timed([session, session_of(file.with_name(f"{network}.float.onnx"), provider)], x)
        times = (f"{own:.2f}", f"{own / reference:.2f}")
    fields = (
        network,
        target,
        provider.replace("ExecutionProvider", ""),
        onnxruntime.__version__,
        there,
        sum(nodes.values()) - there,
        f"{100 * (got.argmax(1) == y).mean():.1f}",
        f"{100 * (got.argmax(1) == plain.argmax(1)).mean():.1f}",
        f"{steps.max():.2f}",
        f"{steps.mean():.3f}",
        *times,
    )
    print("| " + " | ".join(map(str, fields)) + " |", flush=True)
    if steps.max() > most:
        raise Failure(f"{steps.max():.2f} steps from the CPU provider, more than {most:g}")
    return network


def compare(
    folder: pathlib.Path,
    providers: list[str],
    most: float,
    targets: list[str] | None = None,
    images: int | None = None,
    untimed: bool = False,
) -> list[str]:
    """Print the table; returns what failed, a line each."""
    failed = []
    print(HEAD + "\n" + "|---" * (HEAD.count("|") - 1) + "|")
    for provider in providers:
        known = {name.lower(): name for name in onnxruntime.get_available_providers()}
        full = known.get(f"{provider.lower()}executionprovider", f"{provider}ExecutionProvider")
        for archive in sorted(folder.glob("*.npz")):
            data = {key: values[:images] for key, values in np.load(archive).items()}
            for file in sorted(folder.glob(f"{archive.stem}.*.onnx")):
                target = file.name.split(".")[1]
                if targets is not None and target not in targets:
                    continue
                try:
                    row(file, data, full, most, untimed)
                except Failure as reason:
                    failed.append(f"{file.name} on {provider}: {reason}")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--provider", action="append")
    parser.add_argument("--target", action="append")
    parser.add_argument("--images", type=int, help="the first so many; all if not given")
    parser.add_argument("--untimed", action="store_true")
    parser.add_argument("--max-steps", type=float, default=8.0)
    args = parser.parse_args()
    failed = compare(args.folder, args.provider or ["CPU"], args.max_steps, args.target, args.images, args.untimed)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
