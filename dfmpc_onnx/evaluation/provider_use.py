"""Whether a provider other than the CPU's really runs a file, and how far its numbers are from the CPU provider's."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from dfmpc_onnx.errors import RuntimeUnavailable, shown
from dfmpc_onnx.evaluation.fidelity import first_feeds, output_runs
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.image_stream import ImageStream
from dfmpc_onnx.inputs.samples import Samples
from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, initializers, makers, op_of
from dfmpc_onnx.numerics.arrays import Array
from dfmpc_onnx.numerics.ranges import LEVELS
from dfmpc_onnx.runtime.session import CPU_PROVIDER, Loadable, Session


class ProviderUse(msgspec.Struct, frozen=True):
    """A provider beside the CPU's. nodes: how many each provider has run. steps, mean_steps: the largest and the mean
    difference from what the CPU provider makes of the same file, in steps of the output's scale; of outputs that are
    numbers and have the same size on both, all inputs together. not_compared: the others."""

    nodes: dict[str, int]
    steps: float
    mean_steps: float
    not_compared: tuple[str, ...] = ()


def provider_use(
    source: Loadable, model: onnx.ModelProto, provider: str, label: str, images: Images | Samples | ImageStream
) -> ProviderUse:
    """Run a file on a provider and on the CPU's.

    source: what onnxruntime loads; model: the same, as read. Raises RuntimeUnavailable where the provider cannot be
    used, or was given no node of the file, whatever it is said to support.
    """
    with tempfile.TemporaryDirectory() as folder:
        watched = Session(source, provider, label, profile=pathlib.Path(folder) / "profile")
        watched.run(first_feeds(watched, images))
        nodes = watched.profile_counts()
    if not nodes.get(watched.provider):
        short = watched.provider.removesuffix("ExecutionProvider")
        where = ", ".join(name.removesuffix("ExecutionProvider") for name in nodes) or "no provider"
        raise RuntimeUnavailable(f"{label}: provider '{short}' ran none of its nodes, {where} ran them all")
    found = [StepDifference(scale) for scale in output_scales(model)]
    both = (output_runs(Session(source, used, label), images) for used in (CPU_PROVIDER, provider))
    for want, got in zip(*both, strict=True):
        along = want.along() & got.along()
        for difference, a, b in zip(found, want.rows(along), got.rows(along), strict=True):
            difference.add(a, b)
    compared = [difference for difference in found if difference.count]
    worst = max((difference.worst / difference.step for difference in compared), default=0.0)
    total = sum(difference.total / difference.step for difference in compared)
    mean = total / max(sum(difference.count for difference in compared), 1)
    names = (value.name for value in model.graph.output)
    left_out = tuple(shown(name) for name, part in zip(names, found, strict=True) if not part.count)
    return ProviderUse(nodes, round(worst, 3), round(mean, 4), left_out)


@dataclasses.dataclass
class StepDifference:
    """What one output differs by, over all runs whose outputs have the same size in both.

    scale: its own; None where it is computed in float, and a step is its range in 8 bits.
    """

    scale: float | None
    worst: float = 0.0
    total: float = 0.0
    count: int = 0
    low: float = np.inf
    high: float = -np.inf

    @property
    def step(self) -> float:
        """1 where the values are all the same."""
        return self.scale or ((self.high - self.low) / LEVELS if self.high > self.low else 1.0)

    def add(self, want: Array, got: Array) -> None:
        if want.shape != got.shape or not want.size or not {want.dtype.kind, got.dtype.kind} <= set("biuf"):
            return
        x = want.astype(np.float64)
        difference = np.abs(x - got.astype(np.float64))
        self.worst = float(np.maximum(self.worst, difference.max()))
        self.total += float(difference.sum())
        self.count += x.size
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))


def output_scales(model: onnx.ModelProto) -> Sequence[float | None]:
    """The scale of each output that is a dequantized tensor; None for those computed in float."""
    made_by, constants = makers(model.graph.node), initializers(model.graph)
    scales: list[float | None] = []
    for value in model.graph.output:
        maker = made_by.get(value.name)
        decoded = maker is not None and op_of(maker, RUNTIME_DOMAINS) == "DequantizeLinear"
        scale = constants.get(maker.input[1]) if maker is not None and decoded else None
        values = None if scale is None else numpy_helper.to_array(scale)
        scales.append(float(values.reshape(-1)[0]) if values is not None and values.size == 1 else None)
    return scales
