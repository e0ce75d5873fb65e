"""Whether a provider other than the CPU's really runs a file, and how far its numbers are from the CPU provider's."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Sequence

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from dfmpc_onnx.errors import RuntimeUnavailable
from dfmpc_onnx.evaluation.fidelity import first_feeds, outputs
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.samples import Samples
from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, initializers, makers, op_of
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.ranges import LEVELS
from dfmpc_onnx.runtime.session import CPU_PROVIDER, Loadable, Session


class ProviderUse(msgspec.Struct, frozen=True):
    """A provider beside the CPU's. nodes: how many each provider has run. steps, mean_steps: the largest and the mean
    difference from what the CPU provider makes of the same file, in steps of the output's scale."""

    nodes: dict[str, int]
    steps: float
    mean_steps: float


def provider_use(
    source: Loadable, model: onnx.ModelProto, provider: str, label: str, images: Images | Samples
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
    x = images.x if isinstance(images, Images) else images.feeds
    want, got = outputs(Session(source, CPU_PROVIDER, label), x), outputs(Session(source, provider, label), x)
    steps = [_in_steps(a, b, scale) for a, b, scale in zip(want, got, output_scales(model), strict=True)]
    each = np.concatenate(steps) if steps else np.zeros(0)
    worst, mean = float(each.max(initial=0.0)), float(each.mean()) if each.size else 0.0
    return ProviderUse(nodes, round(worst, 3), round(mean, 4))


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


def _in_steps(want: Float, got: Float, scale: float | None) -> Float:
    """Differences in steps: of the output's own scale, or of its range in 8 bits where it has none."""
    step = scale or float(np.ptp(want) if want.size else 0.0) / LEVELS
    difference = np.abs(want - got).reshape(-1)
    return difference / step if step > 0 else difference
