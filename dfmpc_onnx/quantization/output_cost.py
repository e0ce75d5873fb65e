"""What errors of one size in every layer make of a network's output, before anything is rounded."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.query import constant
from dfmpc_onnx.numerics.arrays import Float32
from dfmpc_onnx.numerics.least_squares import PatchMoments
from dfmpc_onnx.pipeline.facts import Layer, LayerBits
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.layer_reach import to_rows
from dfmpc_onnx.quantization.layer_rebuilder import (
    WIDEST_PATCH,
    Rebuilder,
    ReconstructLayersOptions,
    from_rows,
)
from dfmpc_onnx.statistics.error_at_next_layer import Known
from dfmpc_onnx.statistics.walk import Engine, walk

MAP_STRICTNESS = 4  # times less may an output lose that is a map or a list
STEEPER = 1.5  # docs/method.md, section 8


@dataclasses.dataclass(frozen=True)
class OutputCost:
    """Of the output that suffers most: the share that is lost of what images differ by, 0 to 1, and how much may be."""

    cost: float
    budget: float

    @property
    def times(self) -> float:
        """By what the errors must be multiplied, so that they cost no more than they may; at most 1.

        More than in proportion: the fit takes back less of larger errors.
        """
        return min(1.0, (self.budget / self.cost) ** STEEPER) if self.cost > 0 else 1.0


class Scout(Rebuilder):
    """Disturbs each weight at random, so that what is read of the layer next is wrong by a given share."""

    @functools.cached_property
    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(self._seed)

    def layer(self, node: gs.Node, moments_of: Callable[[], PatchMoments], known: Known) -> Float32 | None:
        first = self.first.get(node.name)
        if first is None:
            return self._disturbed(node, moments_of, known)
        if first not in self._made:  # layers that share a weight have the same errors
            self._made[first] = self._disturbed(node, moments_of, known)
        return self._made[first]

    @functools.cached_property
    def _made(self) -> dict[str, Float32 | None]:
        return {}

    def _disturbed(self, node: gs.Node, moments_of: Callable[[], PatchMoments], known: Known) -> Float32 | None:
        layer = self._layers[node.name]
        self._tell(node.name)
        weight = np.asarray(constant(node.inputs[1]), np.float32)
        if layer.op == "ConvTranspose":
            return None
        rows = to_rows(weight, layer)
        if rows.shape[2] > WIDEST_PATCH:
            return None
        moments = moments_of()
        if not moments.count:
            return None
        measure = self.measure(node, rows, moments, moments.output_errors(rows).variance, known)
        noise = self._generator.standard_normal(rows.shape, np.float32)
        error = moments.power(noise)  # random as it is, no sample can be overfitted by it
        size = np.sqrt(np.divide(measure.signal, error, out=np.zeros_like(error), where=error > 0))
        noise *= size.astype(np.float32)[:, :, None]  # each output is wrong by as much as it varies
        wanted = self._options.threshold
        share = measure.share(wanted * measure.signal)
        return from_rows(rows + noise * np.float32(wanted / np.sqrt(share)), layer) if share > 0 else None

    def observe(self, tensor: str, values: Float32) -> None:
        """Ranges are those of all images."""


def output_cost(
    workspace: Workspace,
    options: ReconstructLayersOptions,
    layers: Mapping[str, Layer],
    plan: Mapping[str, LayerBits],
    probe: Engine[Any],
) -> OutputCost | None:
    """What errors of the threshold's size in every layer cost the outputs; None where none of them can be compared.

    batch: of which half of the images are run, at least 8, where the network takes any number of them.

    The graph is left as it is. Raises ModelError where it cannot be run.
    """
    wanted = frozenset(name for name in layers if plan[name].role == "auto")
    walk(workspace.graph, probe, Scout(workspace, options, dict(layers), dict(plan)), wanted)
    worst = max(
        probe.losses(), key=lambda loss: loss.share_between_images * loss.strictness(MAP_STRICTNESS), default=None
    )
    return (
        None
        if worst is None
        else OutputCost(worst.share_between_images, options.budget / worst.strictness(MAP_STRICTNESS))
    )
