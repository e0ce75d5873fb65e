"""Leave the layers in float that integers, and the steps to and from them, would make slower."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from dfmpc_onnx.pipeline.facts import Codes, FinalOpset, FloatLayers, FoldedBatchNorms, Layers, Ranges
from dfmpc_onnx.pipeline.manager import Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.refusals import Reason
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.placed_times import LEAST_GAIN, PlacedTimes
from dfmpc_onnx.qdq.placement import Placer


class KeepSlowLayersFloatOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """gain: the smallest part of a network's time, as estimated, that is worth leaving layers in float."""

    gain: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1


class KeepSlowLayersFloat(Pass[KeepSlowLayersFloatOptions]):
    """Before: image -> Conv of 3 channels -> depthwise Conv -> Conv of many channels, all to be integer
    After: the same graph; the first two are known as layers that compute in float

    Why: an integer Conv takes a time for each tap of each pixel that a float one does not, and every step from float to
    integers or back reads and writes the whole tensor. So on large maps of few channels, in depthwise Convs and between
    float neighbours integers are slower. Which layers are to be float is the cheapest cut of the graph in two: each
    layer costs what its kernel takes on either side, each tensor what it takes to cross. It is taken where it
    saves a tenth of the time, and a tenth of a millisecond; a network that gains from integers everywhere stays as it
    is.

    Requires: ranges, codes, and the layers as they will be in the file.

    Refuses when: activations stay in float; the target has no integer operators between layers; sizes are not known.

    Reference: docs/method.md, section 7; Stone 1977 (two processors and a minimum cut).
    """

    name = "keep_slow_layers_float"
    Options = KeepSlowLayersFloatOptions
    requires: ClassVar = (Ranges, Codes, Layers, FoldedBatchNorms, FinalOpset)
    provides: ClassVar = (FloatLayers,)

    def run(self, workspace: Workspace) -> PassResult:
        spared, graph, settings = workspace.find(FloatLayers), workspace.graph, workspace.settings
        before = dict(spared.layers) if spared is not None else {}
        workspace.put(FloatLayers(before))
        if (
            settings.activations == "none"
            or graph.opset < 13
            or not settings.target.between
            or settings.target.all_quantized
        ):
            return PassResult(self.name, notes=("only where operators between layers have integer kernels",))
        times = PlacedTimes(graph, Placer.of(workspace).place(), workspace.inputs.shapes)
        if not times.convs:
            return PassResult(self.name, notes=("no integer Conv of known size",))
        integer = times.cheapest()
        now, best = times.total(None), times.total(integer)
        note = f"{now / 1e6:.2f} ms estimated, {best / 1e6:.2f} at best"
        if now - best < max(self.options.gain * now, LEAST_GAIN):
            return PassResult(self.name, notes=(note,))
        slow = [name for name in times.convs if name not in integer]
        why = "integers would be slower here, with the steps to and from them"
        workspace.put(FloatLayers({**before, **dict.fromkeys(slow, Reason("slower-in-integers", why))}))
        return PassResult(self.name, tuple(Rewrite(name, "stays in float") for name in slow), notes=(note,))
