"""Whether a network that was exported for a fixed number of images may be run on any."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.inputs.batches import Batch, input_batch
from dfmpc_onnx.pipeline.settings import Settings
from dfmpc_onnx.runtime.session import Session

TOLERANCE = 1e-3  # of the largest output: kernels may sum in another order


def statistics_batch(graph: gs.Graph, settings: Settings, count: int) -> Batch:
    """Inputs to collect statistics with, as `input_batch`; many images where the batch is fixed in the file alone."""
    return input_batch(graph, settings, count, free=batch_is_free(graph, settings))


def batch_is_free(graph: gs.Graph, settings: Settings) -> bool:
    """Whether inputs state one batch, the others leave it open, and two images at once get what each gets alone.

    A Reshape to a constant batch, or a sum over the batch, tells itself by an error or another result.
    """
    if not all(t.shape and len(t.shape) > 1 for t in graph.inputs):
        return False
    stated = {t.shape[0] for t in graph.inputs if isinstance(t.shape[0], int) and t.shape[0] > 0}
    if len(stated) != 1:
        return False
    pair = input_batch(graph, settings, 2, free=True).feeds if settings.images is None else None
    if pair is None or any(len(x) != 2 for x in pair.values()):
        return False
    model = to_model(graph)
    del model.graph.value_info[:]
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        session = Session(model)
        both = session.run(pair)
        alone = [session.run({name: x[i : i + 1] for name, x in pair.items()}) for i in range(2)]
    except ModelError:
        return False
    for index, found in enumerate(both):
        wanted = [np.asarray(a[index]) for a in alone]
        if np.asarray(found).shape[:1] != (2,) or any(w.shape[:1] != (1,) for w in wanted):
            return False
        joined = np.concatenate(wanted)
        if joined.shape != found.shape or joined.dtype.kind not in "fiub":
            return False
        a, b = found.astype(np.float64), joined.astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return False
        a, b = a[finite], b[finite]
        if not np.all(np.abs(a - b) <= TOLERANCE * (np.abs(b).max(initial=0.0) + 1e-12)):
            return False
    return True
