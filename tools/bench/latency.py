#!/usr/bin/env python3
"""Whether the times of single kernels add up to those of whole networks: the ratio, which should be about 1.

    python -m tools.bench.latency MODEL... [--threads 1]

Each model, float or quantized, is run whole and in a profile: median milliseconds of a run, the sum of the medians of
its kernels, and their ratio. Networks that take less than half a millisecond have kernels of a microsecond, which is
the unit of the profiler: their sums are too large.
"""

from __future__ import annotations

import argparse

from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.inputs.batches import input_batch
from dfmpc_onnx.model.source import load
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.runtime.latency import Span, profiles, run_times
from dfmpc_onnx.runtime.session import Session
from dfmpc_onnx.runtime.threads import limit_threads


def row(path: str) -> str:
    """One line of the table."""
    source = load(path)
    inputs = Workspace(to_graph(source), Settings(WeightBits.parse("8"), "8"), source.label).inputs
    feeds = input_batch(inputs, 0, 1).first(1).feeds
    whole = Span.of(run_times([(Session(path), feeds)])[0])
    (profile,) = profiles([(path, feeds)])
    times = f"{1000 * whole.seconds:.3f} | {1000 * whole.spread:.3f} | {1000 * profile.total:.3f}"
    return f"| {path} | {len(profile.nodes)} | {times} | {profile.total / whole.seconds:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    print("| model | kernels | ms a run | spread | sum of kernels, ms | ratio |\n|---|---|---|---|---|---|")
    with limit_threads(args.threads):
        for path in args.models:
            print(row(path), flush=True)


if __name__ == "__main__":
    main()
