"""What the layers that read one weight read, all together: what its one set of codes is made for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.query import constant
from dfmpc_onnx.numerics.arrays import Float32
from dfmpc_onnx.numerics.least_squares import PatchMoments, pooled_moments
from dfmpc_onnx.pipeline.facts import Layer, LayerBits
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.layer_reach import to_rows
from dfmpc_onnx.quantization.layer_rebuilder import WIDEST_PATCH, Rebuilder, ReconstructLayersOptions
from dfmpc_onnx.quantization.rounding_task import Measure, PooledUses
from dfmpc_onnx.statistics.error_at_next_layer import Known
from dfmpc_onnx.statistics.walk import Engine, walk

MOST_POOLED = 16  # uses of a weight that are looked at, evenly spaced: more say the same again


class Collector(Rebuilder):
    """Changes nothing, and keeps what layers read."""

    def layer(self, node: gs.Node, moments_of: Callable[[], PatchMoments], known: Known) -> None:
        rows = to_rows(np.asarray(constant(node.inputs[1]), np.float32), self._layers[node.name])
        moments = moments_of()
        if not moments.count or rows.shape[2] > WIDEST_PATCH:
            return
        size = float(moments.diagonal.mean())
        if size <= 0:
            return
        signal = moments.output_errors(rows).variance
        measure = self.measure(node, rows, moments, signal, known)
        # Each use counts by what it does to its own outputs, however quiet its input is.
        self._gathered(node).add(moments, 1 / size, dataclasses.replace(measure, signal=signal / size))

    def _gathered(self, node: gs.Node) -> _Gathered:
        return self.gathered.setdefault(self.first[node.name], _Gathered())

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.gathered: dict[str, _Gathered] = {}

    def observe(self, tensor: str, values: Float32) -> None:
        """Ranges are taken by the walk that quantizes."""


class _Gathered:
    """The moments so far of the uses of one weight, and how errors are measured at each."""

    def __init__(self) -> None:
        self.moments: PatchMoments | None = None
        self.measures: list[Measure] = []

    def add(self, moments: PatchMoments, factor: float, measure: Measure) -> None:
        self.moments = pooled_moments(self.moments, len(self.measures), moments, factor)
        self.measures.append(measure)


def pool_uses(
    workspace: Workspace,
    options: ReconstructLayersOptions,
    layers: Mapping[str, Layer],
    plan: Mapping[str, LayerBits],
    engine: Callable[[], Engine[Any]],
) -> dict[str, PooledUses]:
    """By the first of the layers that share a weight what all of them read; empty where no weight is shared.

    One walk over the float network. ConvTransposes are left out: they are rounded without statistics.
    """
    collector = Collector(workspace, options, dict(layers), dict(plan))
    uses: dict[str, list[str]] = {}
    for name, first in collector.first.items():
        layer = layers[name]
        if layer.op != "ConvTranspose":
            uses.setdefault(first, []).append(name)
    wanted = {names[i] for names in uses.values() for i in _spread(len(names))}
    if wanted:
        walk(workspace.graph, engine(), collector, frozenset(wanted))
    return {
        first: PooledUses(found.moments, tuple(found.measures), len(uses[first]))
        for first, found in collector.gathered.items()
        if found.moments is not None
    }


def _spread(count: int) -> list[int]:
    """At most MOST_POOLED of so many, evenly spaced, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, MOST_POOLED)).round().astype(int).tolist()))
