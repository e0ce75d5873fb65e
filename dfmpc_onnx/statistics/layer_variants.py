"""Many networks, each with one weight changed, that advance together beside the float network.

What changing one weight does to the outputs is asked for every layer. One walk answers it for all: a layer's variant
is born where the layer stands, and everything in front of it is run once. So what is run is, for each layer, only what
lies behind it, and in front of a compared output; a wide linear map at the end is run for none (`LastProjection`). The
walk is that of `dfmpc_onnx.statistics.walk`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.compared_outputs import compared_tensors, selects
from dfmpc_onnx.graph.last_projections import LastProjection, last_projections, nodes_in_front
from dfmpc_onnx.graph.query import reads
from dfmpc_onnx.numerics.arrays import Array, Float, Float32
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters
from dfmpc_onnx.numerics.least_squares import PatchMoments
from dfmpc_onnx.numerics.moments import MeanVariance
from dfmpc_onnx.numerics.output_loss import JudgedOutput, OutputLoss
from dfmpc_onnx.numerics.recalibration import restoring_gain, shrunk_mean
from dfmpc_onnx.statistics.channel_statistics import ChannelStatistics, channel_moments, run_means
from dfmpc_onnx.statistics.clipping import OwnTensors, clip_in_place
from dfmpc_onnx.statistics.image_streams import ImageStreams, affine_map, alike, bytes_of, is_index
from dfmpc_onnx.statistics.walk import Affine, Live

Norms = Literal["batch", "exported"]  # what BatchNormalizations normalize by
OFTEN = 4  # runs of a layer that make up for laying out its weight
MOST_LIVE = 2**29  # bytes of live activations beyond which no more variants start


@dataclasses.dataclass(frozen=True)
class Variants:
    """A tensor in the float network, and in those of its variants in which it differs, by the variant's name."""

    plain: npt.NDArray[np.generic]
    hats: Mapping[str, npt.NDArray[np.generic]]

    @property
    def bytes(self) -> int:
        return bytes_of(self.plain) + sum(map(bytes_of, self.hats.values()))


class LayerVariants:
    """The engine of variants: `layer` with a weight of the visitor's starts one, under the name that it has there.

    Behind each BatchNormalization a variant has the deviation and mean of the float network again, as those of a
    quantized network are re-calibrated; `centred` names the layers whose outputs' means are, since none follows.
    """

    def __init__(
        self,
        graph: gs.Graph,
        feeds: Mapping[str, npt.NDArray[np.generic]],
        *,
        norms: Norms = "batch",
        variant_of: Callable[[str], str] = lambda layer: layer,
        centred: Collection[str] = (),
    ) -> None:
        """feeds: a batch for each input. variant_of: the variant that a layer's weight belongs to, by layer."""
        self._graph = graph
        self._norms = norms
        self._variant_of = variant_of
        self._centred = centred
        self._compared = compared_tensors(graph).tensors
        self._in_front = nodes_in_front(graph, self._compared)
        self._projections = [last for last in last_projections(graph, self._compared) if last.node.name not in centred]
        self._not_run = {id(last.node) for last in self._projections}
        self._plain = ImageStreams(graph, feeds, seed=0, positions=0)
        self._own = OwnTensors()
        self.postponed: set[str] = set()  # variants that memory was too short for
        self._started: set[str] = set()
        self._found: MeanVariance | None = None  # moments of what a BatchNormalization reads in the float network
        self.live: Live[Variants] = Live(graph, lambda value: value.bytes, self._kept())
        for name, x in feeds.items():
            self.live.put(name, Variants(x, {}))

    def guard(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def check(self, node: gs.Node) -> None:
        """What cannot be measured has stopped the walk that made the weights."""

    def patch_moments(self, node: gs.Node) -> PatchMoments:
        raise NotImplementedError("a variant's weight is made by another walk")

    def known(self, tensor: gs.Tensor) -> MeanVariance | None:
        return None

    def layer(self, node: gs.Node, weight: Array, weight_hat: Float32 | None) -> Variants:
        inputs = self._inputs(node)
        own = None if weight_hat is None else self._start(self._variant_of(node.name))
        found = self._run_all(node, inputs, without=own)[0]
        if weight_hat is not None and own is not None:
            feeds = {name: value.hats.get(own, value.plain) for name, value in inputs.items()}
            hat = self._plain.run(node, feeds, weight_hat)[0]
            found = dataclasses.replace(found, hats={**found.hats, own: hat})
        if node.name not in self._centred or not found.hats or not found.plain.size or found.plain.ndim < 2:
            return found
        means = run_means(found.plain)
        return Variants(found.plain, {name: _centred(means, hat) for name, hat in found.hats.items()})

    def shortfall(self, output: Variants) -> Callable[[], Float] | None:
        return None

    def with_bias(self, output: Variants, old: Array | None, new: Float32) -> Variants:
        raise NotImplementedError("no visitor of variants changes a bias")

    def normalizes(self, node: gs.Node) -> bool:
        return not isinstance(node.inputs[0], gs.Constant) and self._plain.normalizes_values(
            self.live[node.inputs[0].name].plain
        )

    def channel_statistics(self, node: gs.Node, norm: BatchNormParameters) -> ChannelStatistics:
        self._found = mean, variance = channel_moments(self.live[node.inputs[0].name].plain)
        if self._norms == "exported":
            mean, variance = norm.mean, norm.variance
        return ChannelStatistics(mean, variance, mean, variance)

    def affine(self, node: gs.Node, plain: Affine, hat: Affine) -> Variants:
        assert self._found is not None  # the walk asks for the statistics first
        (factor, offset), (mean, variance) = plain, self._found
        x, last = self.live[node.inputs[0].name], self.live.readers(node.inputs[0].name) == 1
        hats = {}
        for name, value in x.hats.items():
            mean_hat, variance_hat = channel_moments(value)
            scaled = factor * restoring_gain(variance, variance_hat)
            hats[name] = affine_map(value, scaled, factor * mean + offset - scaled * mean_hat, in_place=last)
        self._own.add(node.outputs[0].name)
        return Variants(affine_map(x.plain, *plain), hats)

    def other(self, node: gs.Node) -> list[Variants]:
        inputs = self._inputs(node)
        bounds = self._own.bounds(node, self.live.readers(node.inputs[0].name)) if len(inputs) == 1 else None
        if bounds is not None:
            (x,) = inputs.values()
            hats = x.hats if id(node) in self._in_front else {}
            clipped = {variant: clip_in_place(hat, bounds) for variant, hat in hats.items()}
            return [Variants(clip_in_place(x.plain, bounds), clipped)]
        return self._run_all(node, inputs)

    def values(self, output: Variants) -> Float32 | None:
        return None

    def advance(self, node: gs.Node) -> None: ...

    def losses(self) -> list[OutputLoss]:
        """Those of variants are asked for by name: `losses_of`."""
        return []

    def outputs(self) -> list[Variants]:
        """After the walk, the compared outputs that hold finite numbers."""
        return [Variants(value.plain, {**value.hats, **self._projected(name)}) for name, value in self._judged()]

    def losses_of(self) -> dict[str, list[OutputLoss]]:
        """After the walk, by variant, what it has lost of each of the outputs."""
        found: dict[str, list[OutputLoss]] = {}
        for name, value in self._judged():
            output = JudgedOutput(value.plain)
            for variant, hat in value.hats.items():
                found.setdefault(variant, []).append(output.loss(hat))
            for variant, loss in self._losses_in_front(name, output):
                found.setdefault(variant, []).append(loss)
        return found

    def _judged(self) -> list[tuple[str, Variants]]:
        found = [(t.name, self.live[t.name]) for t in self._compared if t.name in self.live]
        return [
            (name, value)
            for name, value in found
            if isinstance(value.plain, np.ndarray) and value.plain.dtype.kind == "f" and value.plain.size
            if np.isfinite(value.plain).all()
        ]

    def _kept(self) -> list[gs.Tensor]:
        """What is looked at after the walk."""
        return [*self._compared, *(last.read for last in self._projections)]

    def _errors_in_front(self, last: LastProjection) -> Iterator[tuple[str, Float]]:
        """Of variants that were not run through a linear map at the end, by name, the errors in what it reads."""
        read, run = self.live[last.read.name], self.live[last.output].hats
        plain = read.plain.astype(np.float64)
        return ((variant, hat.astype(np.float64) - plain) for variant, hat in read.hats.items() if variant not in run)

    def _projected(self, output: str) -> dict[str, Float32]:
        found = {}
        for last in self._projections:
            if last.output == output:
                for variant, error in self._errors_in_front(last):
                    found[variant] = (self.live[output].plain.astype(np.float64) + error @ last.weight).astype(
                        np.float32
                    )
        return found

    def _losses_in_front(self, output: str, judged: JudgedOutput) -> Iterator[tuple[str, OutputLoss]]:
        for last in self._projections:
            if last.output == output and judged.pools_last_axis:
                basis = last.basis()
                for variant, error in self._errors_in_front(last):
                    yield variant, judged.loss_of_error(error @ basis)
            elif last.output == output:
                for variant, error in self._errors_in_front(last):
                    yield variant, judged.loss(self.live[output].plain.astype(np.float64) + error @ last.weight)

    def _inputs(self, node: gs.Node) -> dict[str, Variants]:
        return {tensor.name: self.live[tensor.name] for tensor in reads(node)}

    def _run_all(self, node: gs.Node, inputs: Mapping[str, Variants], without: str | None = None) -> list[Variants]:
        """The outputs of a node in the float network and in each variant that its inputs differ in."""
        changed = [
            name for name in dict.fromkeys(n for value in inputs.values() for n in value.hats) if name != without
        ]
        if id(node) not in self._in_front or id(node) in self._not_run:
            changed = []
        often = len(changed) >= OFTEN
        plain = self._plain.run(node, {name: value.plain for name, value in inputs.items()}, often=often)
        hats: list[dict[str, npt.NDArray[np.generic]]] = [{} for _ in plain]
        chooses = selects(node)
        for variant in self._affordable(changed, sum(map(bytes_of, plain))):
            fed = {name: value.hats.get(variant, value.plain) for name, value in inputs.items()}
            for found, x, y in zip(hats, plain, self._plain.run(node, fed, often=often), strict=True):
                if alike(x, y) and not (chooses and is_index(x)):
                    found[variant] = y
        return [Variants(x, found) for x, found in zip(plain, hats, strict=True)]

    def _affordable(self, variants: list[str], size: int) -> list[str]:
        """As many variants as memory holds of outputs of so many bytes, one at least; the others wait."""
        kept = variants[: max(1, MOST_LIVE // max(size, 1))]
        waiting = set(variants[len(kept) :])
        if waiting:
            self.postponed |= waiting
            for name in self.live:
                value = self.live[name]
                if not waiting.isdisjoint(value.hats):
                    hats = {variant: hat for variant, hat in value.hats.items() if variant not in waiting}
                    self.live.put(name, Variants(value.plain, hats))
        return kept

    def _start(self, variant: str) -> str | None:
        """The variant, or None where memory is too short to start it; the walk after this one takes it."""
        if variant not in self._started and self._started and self.live.bytes > MOST_LIVE:
            self.postponed.add(variant)
        if variant in self.postponed:
            return None
        self._started.add(variant)
        return variant


def _centred(means: Float, hat: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """A variant's output, which nobody else has, with the mean of each channel corrected, as far as the sample vouches
    for it.

    means: `run_means` of the float network.
    """
    shift = shrunk_mean(means - run_means(hat)).astype(np.float32)
    result = np.asarray(hat, np.float32)
    result += shift.reshape(-1, *(1,) * (hat.ndim - 2))
    return result
