"""Files in which every dimension is a number, for targets that compile a file for one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.graph.output_layers import inferred_shapes
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.pipeline.settings import Settings
from dfmpc_onnx.pipeline.workspace import Workspace


def check_dimensions(inputs: InputSpecs, settings: Settings) -> None:
    """Raise OptionError where the target takes no open dimension, and one behind the batch is unknown."""
    for spec in inputs if settings.target.static_shapes else ():
        if spec.stated is not None and spec.is_assumed:
            sizes = "x".join(map(str, spec.example))
            raise OptionError(
                f"target {settings.target.name}: it takes no open dimension, and input '{shown(spec.name)}' leaves one "
                f"open; give --input-shape {shown(spec.name)}:{sizes}, or the size that you need"
            )


def with_static_shapes(model: onnx.ModelProto, workspace: Workspace) -> onnx.ModelProto:
    """The model, its dimensions fixed where the target takes no open one; what only the values of a run say stays open.

    Last of all, so that statistics run the network on many images at once.
    """
    if workspace.settings.target.static_shapes:
        _fix(model, inferred_shapes(workspace.graph, workspace.inputs.shapes))
    return model


def _fix(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]]) -> None:
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        known = sizes.get(value.name)
        if known and all(known):
            value.type.tensor_type.shape.ClearField("dim")
            value.type.tensor_type.shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in known)


def assumed_batches(workspace: Workspace) -> tuple[str, ...]:
    """A line for each input whose batch was fixed although nobody stated it."""
    target = workspace.settings.target
    return tuple(
        f"input '{shown(spec.name)}' is fixed at {'x'.join(map(str, spec.shape))}, since {target.name} takes no open "
        "dimension; give --input-shape for another batch"
        for spec in (workspace.inputs if target.static_shapes else ())
        if spec.stated and spec.given is None and spec.batch is None and spec.has_batch
    )
