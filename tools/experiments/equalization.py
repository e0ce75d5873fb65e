#!/usr/bin/env python3
"""Whether scaling the input channels of a layer before rounding it would help: it does not, so no pass does it.

    python -m tools.experiments.equalization

For the high half of each pair in the plain chain and ResNet-20 of models/, channel j of the input is divided by s_j and
the weight multiplied by it; that is exact through a ReLU. Rounded with statistics from procedural images, judged on
photographs: the mean (geometric, over layers) of the share of the output that rounding costs, by choice of s.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.graph.query import constant, nodes_by_name
from dfmpc_onnx.inputs.batches import input_batch
from dfmpc_onnx.model.source import load
from dfmpc_onnx.numerics.grids import uniform_grid
from dfmpc_onnx.numerics.least_squares import PatchMoments, rounding_error
from dfmpc_onnx.numerics.rounding import FeedbackRounder
from dfmpc_onnx.pipeline.facts import Layers, Pairs
from dfmpc_onnx.pipeline.settings import Settings, WeightBits
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.layer_reach import to_rows
from dfmpc_onnx.statistics.image_streams import ImageStreams
from dfmpc_onnx.statistics.walk import walk
from dfmpc_passes.normalize import Normalize
from dfmpc_passes.pair_convolutions import PairConvolutions

MODELS = pathlib.Path(__file__).resolve().parents[2] / "models"
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
Array = np.ndarray


class Recorder:
    """A visitor that changes nothing and keeps the moments of each layer."""

    def __init__(self) -> None:
        self.moments: dict[str, PatchMoments] = {}

    def layer(self, node: object, moments: Callable[[], PatchMoments], known: object) -> None:
        self.moments[node.name] = moments()  # type: ignore[attr-defined]

    def after_layer(self, node: object, shift: object) -> None:
        pass

    def batch_norm(self, node: object, norm: object, statistics: object) -> None:
        pass

    def observe(self, tensor: str, values: object) -> None:
        pass


def recorded(model: pathlib.Path, images: str | None) -> tuple[Workspace, dict[str, PatchMoments]]:
    """The moments of every layer's input on procedural or given images."""
    settings = dataclasses.replace(Settings(WeightBits.parse("4"), "none"), images=images)
    workspace = Workspace(to_graph(load(str(model))), settings)
    for step in (Normalize(), PairConvolutions()):
        step.run(workspace)
    visitor = Recorder()
    names = frozenset(layer.name for layer in workspace.get(Layers).quantizable)
    engine = ImageStreams(workspace.graph, input_batch(workspace.inputs, 0).feeds, 0)
    walk(workspace.graph, engine, visitor, names)
    return workspace, visitor.moments


def rounded(rows: Array, hat: Array, bits: int) -> Array:
    """A weight rounded under second moments, as `reconstruct_layers` does it."""
    flat = rows.reshape(-1, rows.shape[2])
    importance = np.maximum(np.einsum("gii->gi", hat), 0)
    found = FeedbackRounder(rows, hat).on_best_grid(uniform_grid(flat, importance, bits))
    return found.grid.values(found.codes).reshape(rows.shape)


def main() -> None:
    print("| network | bits | layers | E[x^2]^(p/2): p = 0 | 1/4 | 1/2 | 3/4 | 1 | 1/max abs W | both | best |")
    print("|---" * 11 + "|")
    for name in ("plain", "resnet20"):
        model = MODELS / f"{name}_cifar10.onnx"
        workspace, procedural = recorded(model, None)
        _, real = recorded(model, str(MODELS / "cifar10_sample.npz"))
        nodes, layers = nodes_by_name(workspace.graph), workspace.get(Layers).by_name()
        for bits in (2, 4, 6, 8):
            table = []
            for high in (pair.high for pair in workspace.get(Pairs).pairs):
                layer, moments = layers[high], real[high]
                rows = to_rows(np.asarray(constant(nodes[high].inputs[1]), np.float32), layer)
                hat = procedural[high].shrunk().hat
                taps = rows.shape[2] // layer.shape[1] if layer.op == "Conv" else 1
                power = np.maximum(np.einsum("gii->gi", hat)[0].reshape(-1, taps).mean(axis=1), 1e-9)
                widest = np.abs(rows[0]).reshape(rows.shape[1], -1, taps).max(axis=(0, 2)) + 1e-9
                signal = rounding_error(rows, np.zeros_like(rows), moments)
                shares = []
                for scale in [*(power ** (p / 2) for p in POWERS), 1 / widest, np.sqrt(power**0.5 / widest)]:
                    columns = np.repeat(scale / np.exp(np.log(scale).mean()), taps).astype(np.float32)
                    back = rounded(rows * columns, hat / columns[:, None] / columns, bits) / columns
                    shares.append(float((rounding_error(rows, back, moments) / signal).mean()))
                table.append(shares)
            logs = np.log(np.array(table))
            cells = [*np.exp(logs.mean(axis=0)), np.exp(logs.min(axis=1).mean())]
            print(f"| {name} | {bits} | {len(table)} | " + " | ".join(f"{100 * c:.3g} %" for c in cells) + " |")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
