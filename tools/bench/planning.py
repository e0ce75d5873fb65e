#!/usr/bin/env python3
"""Seconds that the whole front of a knapsack takes, by the number of layers: ``python -m tools.bench.planning``."""

from __future__ import annotations

import time

import numpy as np

from dfmpc_onnx.numerics.bit_budget import BudgetFront, WeightOptions

LAYERS = (25, 50, 100, 200)
BITS = (1.6, 2, 3, 4, 5, 6, 7, 8, 32)


def network(layers: int) -> list[WeightOptions]:
    """Layers of 1,000 to 1,000,000 weights at the widths that storage has, the last in float."""
    generator, widths = np.random.default_rng(layers), np.array(BITS)
    sizes, gains = 10 ** generator.uniform(3, 6, layers), 10 ** generator.uniform(-3, 0, layers)
    return [
        WeightOptions((size * widths / 8).astype(np.int64), np.append(gain * 4.0 ** -widths[:-1], 0.0), widths == 32)
        for size, gain in zip(sizes, gains, strict=True)
    ]


def main() -> None:
    print("| layers | seconds |\n|---|---|")
    for layers in LAYERS:
        items = network(layers)
        began = time.perf_counter()
        BudgetFront(items)
        print(f"| {layers} | {time.perf_counter() - began:.2f} |", flush=True)


if __name__ == "__main__":
    main()
