#!/usr/bin/env python3
"""On a machine with an NVIDIA GPU: the networks of models/ on the CUDA and TensorRT providers, in one table.

    pip install -e '.[gpu,images]' && python tools/providers/gpu.py

Each network is quantized for the provider, run there, and compared with the CPU provider; TensorRT also has to be
installed where onnxruntime finds it. Exits 1, with the reason, where a provider is not really used.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile

from compare import compare
from write import write

TARGETS = {"CUDA": "cuda", "Tensorrt": "tensorrt"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", action="append", choices=list(TARGETS))
    parser.add_argument("--max-steps", type=float, default=8.0)
    args = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        chosen = args.provider or list(TARGETS)
        write(pathlib.Path(folder), [TARGETS[name] for name in chosen], "mixed", 100)
        for name in chosen:
            failed += compare(pathlib.Path(folder), [name], args.max_steps, ["float", TARGETS[name]])
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
