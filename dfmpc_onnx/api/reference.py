"""The float model that a result is compared with, and whose fault it is where that does not run."""

from __future__ import annotations

import numpy as np

from dfmpc_onnx import catalog
from dfmpc_onnx.errors import ModelError, RuntimeUnavailable
from dfmpc_onnx.evaluation.fidelity import INPUT_TYPES
from dfmpc_onnx.graph.exchange import to_graph, to_model
from dfmpc_onnx.inputs.batches import (
    Samples,
    check_images,
    concrete_shape,
    model_inputs,
)
from dfmpc_onnx.model.resource_limits import check_claims
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.model.unbounded_loops import check_loops
from dfmpc_onnx.pipeline.facts import Normalized
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.settings import Settings
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq import expansion as expansion
from dfmpc_onnx.runtime.session import Session

CHECK_IMAGES = 16
CHECK_SEED = 1_000_000


def check_limits(source: Source, settings: Settings) -> None:
    """Raise ModelError where a run on inputs of their shapes would take more memory than there is, or no end."""
    shapes = {t.name: concrete_shape(t, settings)[0] for t in model_inputs(source.model) if t.shape is not None}
    check_claims(source.model, shapes, source.label)
    check_loops(source.model, source.label)


def check_source(source: Source, settings: Settings) -> None:
    """Raise ModelError where onnxruntime cannot run the float model either: then the fault is not ours."""
    try:
        session, said = reference_session(source, settings)
    except RuntimeUnavailable:
        return  # nobody to ask
    if session is None:
        raise ModelError(said)
    try:
        found = check_images(model_inputs(source.model), settings, 1)
    except ModelError:
        return  # nothing to ask with
    if isinstance(found, Samples):
        session.run({name: np.asarray(values[0]) for name, values in found.feeds.items()})
        return
    name, shape, kind = session.inputs[0]
    stated = shape[0] if shape and isinstance(shape[0], int) else None
    x = found.x.astype(INPUT_TYPES.get(kind, np.float32))
    session.run({name: np.repeat(x, stated or 1, axis=0)})
    if stated is None:
        try:
            session.run({name: np.repeat(x, 2, axis=0)})
        except ModelError as error:
            raise ModelError(
                f"{error}: two images at once, which its input allows; export it for one at a time"
            ) from None


def reference_session(source: Source, settings: Settings) -> tuple[Session | None, str]:
    """A session of the float model, and why it is not that of the file itself.

    What onnxruntime cannot run as it stands, such as an old opset, it may run once it has been normalized.
    """
    try:
        return Session(source.path or source.model, label=source.label), ""
    except ModelError as error:
        said = str(error)
    workspace = Workspace(to_graph(source), settings, source.label)
    try:
        PassManager(catalog.passes_up_to(Normalized)).run(workspace)
        return Session(to_model(workspace.graph), label=source.label), said
    except ModelError:
        return None, said
