"""Networks with some weights rounded, run on given images: what experiments on sensitivity compare.

Each weight is rounded once to each width, on procedural images as in a file; a setting then is a width a layer. The
network is run with BatchNormalizations as exported, re-calibrated as those of a quantized network are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dfmpc_onnx import catalog
from dfmpc_onnx.api.intake import parse_settings, take_in
from dfmpc_onnx.graph.query import constant, nodes_by_name
from dfmpc_onnx.inputs.files import Images, read_images
from dfmpc_onnx.numerics.arrays import Float, Float32
from dfmpc_onnx.pipeline.facts import BitPlan, Layers
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.progress import Progress
from dfmpc_onnx.pipeline.settings import FLOAT, BitWidth
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.grid_rules import GridRules
from dfmpc_onnx.quantization.layer_rebuilder import ReconstructLayersOptions
from dfmpc_onnx.quantization.pooled_uses import pool_uses
from dfmpc_onnx.quantization.sensitivity import ChangedWeights, centred_layers
from dfmpc_onnx.quantization.weight_grids import nearest
from dfmpc_onnx.quantization.width_losses import ROUNDED_WIDTHS, WidthLosses
from dfmpc_onnx.statistics.engines import StatisticsSource
from dfmpc_onnx.statistics.layer_variants import LayerVariants
from dfmpc_onnx.statistics.walk import walk
from tools.experiments.measure import Network

ALL = "all"

Widths = Mapping[str, BitWidth]


def measurable(network: Network, seed: int) -> Workspace:
    """A network as the default recipe has it when widths are chosen."""
    recipe = catalog.find_recipe("mixed")
    pipeline = catalog.build(recipe)
    settings = parse_settings(recipe, None, None, (), network.preprocess, (), (), seed, None, None, "cpu")
    taken = take_in(str(network.model), None, recipe, pipeline, settings, network.preprocess, Progress())
    stop = next(i for i, step in enumerate(pipeline) if step.name == "assign_bits")
    PassManager(taken.pipeline[: stop + 1], known=catalog.passes()).run(taken.workspace)
    return taken.workspace


def labelled(network: Network, workspace: Workspace, count: int) -> Images:
    """Images spread evenly over those of a network, as it takes them."""
    inputs = workspace.inputs
    found = read_images(network.images, inputs.image_input().shape, inputs.preprocess)
    index = np.linspace(0, len(found.x) - 1, min(count, len(found.x))).astype(int)
    return Images(found.x[index], None if found.y is None else found.y[index], found.origin)


@dataclasses.dataclass(frozen=True)
class Answers:
    """Scores of the float network and of each setting on the same images: ``[n, classes]`` float32."""

    plain: Float32
    settings: Mapping[str, Float32]


class Trials:
    """Rounds the weights of a network, and runs it with some of them."""

    def __init__(self, workspace: Workspace, source: StatisticsSource) -> None:
        """source: of the statistics that weights are rounded by."""
        self._workspace = workspace
        self._layers = workspace.get(Layers).by_name()
        self._nodes = nodes_by_name(workspace.graph)
        plan = dict(workspace.get(BitPlan).layers)
        names = [name for name in self._layers if plan[name].bits != FLOAT]
        options = ReconstructLayersOptions()
        self._visitor = WidthLosses(workspace, options, dict(self._layers), plan, ROUNDED_WIDTHS)
        self._visitor.pooled = pool_uses(workspace, options, self._layers, plan, source.engine)
        self.first = {name: self._visitor.first.get(name, name) for name in names}
        self.weights = tuple(dict.fromkeys(self.first.values()))
        self._centred = centred_layers(workspace, names)
        walk(workspace.graph, source.probe() or source.engine(), self._visitor, frozenset(names))

    @property
    def losses(self) -> Mapping[str, Mapping[BitWidth, float]]:
        """By weight what rounding it costs what the next layer reads."""
        return self._visitor.losses

    def size(self, weight: str) -> int:
        """How many numbers it has."""
        return self._layers[weight].size

    def error_of_weight(self, weight: str, bits: BitWidth) -> float:
        """Squared error over energy."""
        plain = self._plain(weight).astype(np.float64)
        return float(np.square(self.rounded(weight, bits) - plain).sum() / np.square(plain).sum())

    def rounded(self, weight: str, bits: BitWidth) -> Float32:
        """A weight as it is at a width, with error feedback where the widths are narrow."""
        if bits in ROUNDED_WIDTHS:
            return self._visitor.rounded[bits][weight]
        return nearest(self._plain(weight), self._layers[weight], bits, GridRules()).dequantize()

    def alone(self, widths: Widths, feeds: Mapping[str, npt.NDArray[np.generic]], **options: Any) -> Answers:
        """Each of some weights rounded with all others in float: a setting a weight, by its name."""
        return self._run(widths, feeds, lambda layer: self.first[layer], options)

    def together(self, widths: Widths, feeds: Mapping[str, npt.NDArray[np.generic]]) -> Answers:
        """All of these weights rounded at once: the one setting `ALL`."""
        return self._run(widths, feeds, lambda layer: ALL, {"norms": "exported"})

    def _run(
        self,
        widths: Widths,
        feeds: Mapping[str, npt.NDArray[np.generic]],
        variant_of: Callable[[str], str],
        options: Mapping[str, Any],
    ) -> Answers:
        by_layer = {name: self.rounded(first, widths[first]) for name, first in self.first.items() if first in widths}
        waiting, plain, hats = frozenset(by_layer), np.zeros(0, np.float32), {}
        while waiting:
            engine = LayerVariants(
                self._workspace.graph, feeds, variant_of=variant_of, centred=self._centred, **options
            )
            walk(self._workspace.graph, engine, ChangedWeights(by_layer), waiting)
            output = engine.outputs()[0]
            plain = output.plain
            hats |= output.hats
            waiting = frozenset(name for name in waiting if variant_of(name) in engine.postponed)
        shape = (len(plain), -1)
        return Answers(plain.reshape(shape), {name: hats.get(name, plain).reshape(shape) for name in hats})

    def _plain(self, weight: str) -> Float32:
        return np.asarray(constant(self._nodes[weight].inputs[1]), np.float32)


def in_batches(feeds: Mapping[str, Float32], at_once: int) -> Iterator[dict[str, Float32]]:
    """So many images at a time."""
    count = min(map(len, feeds.values()))
    for start in range(0, count, at_once):
        yield {name: x[start : start + at_once] for name, x in feeds.items()}


def joined(parts: Sequence[Answers]) -> Answers:
    """Answers on several batches as those on all of them."""
    names = parts[0].settings
    return Answers(
        np.concatenate([part.plain for part in parts]),
        {name: np.concatenate([part.settings[name] for part in parts]) for name in names},
    )


def divergences(plain: Float32, hat: Float32) -> Float:
    """Kullback-Leibler divergence of each image's classes, in nats: ``[n]`` of scores ``[n, classes]``."""
    p, q = _log_softmax(plain), _log_softmax(hat)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=1), np.float64)


def _log_softmax(scores: Float32) -> Float:
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float64)
