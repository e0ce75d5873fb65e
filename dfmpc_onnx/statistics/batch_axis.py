"""Whether a network that was exported for a fixed number of images may be run on any."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.inputs.batches import Batch, free_batch, input_batch
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.runtime.session import Session

TOLERANCE = 1e-3  # of the largest output: kernels may sum in another order


def statistics_batch(graph: gs.Graph, inputs: InputSpecs, seed: int, count: int) -> Batch:
    """Inputs to collect statistics with, as `input_batch`; many images where the batch is fixed in the file alone."""
    known = inputs.batch_is_free
    return input_batch(inputs, seed, count, free=batch_is_free(graph, inputs, seed) if known is None else known)


def with_free_batch(graph: gs.Graph, inputs: InputSpecs, seed: int) -> InputSpecs:
    """The inputs, and where images are the user's whether their batch is free: by it these are split, once for all."""
    if inputs.images is None:
        return inputs
    return dataclasses.replace(inputs, batch_is_free=batch_is_free(graph, inputs, seed))


def batch_is_free(graph: gs.Graph, inputs: InputSpecs, seed: int) -> bool:
    """Whether inputs state one batch, the others leave it open, and two images at once get what each gets alone.

    A Reshape to a constant batch, or a sum over the batch, tells itself by an error or another result. Procedural
    images are tried, whatever the user's own are.
    """
    stated = {spec.batch for spec in inputs} - {None}
    if len(stated) != 1 or not all(spec.has_batch for spec in inputs):
        return False
    pair = input_batch(dataclasses.replace(inputs, images=None), seed, 2, free=True).feeds
    if any(len(x) != 2 for x in pair.values()):
        return False
    model = to_model(graph)
    free_batch(model, pair)
    try:
        session = Session(model)
        both = session.run(pair)
        alone = [session.run({name: x[i : i + 1] for name, x in pair.items()}) for i in range(2)]
    except ModelError:
        return False
    for index, found in enumerate(both):
        if not isinstance(found, np.ndarray):  # a list or a map says nothing of batches
            return False
        wanted = [np.asarray(a[index]) for a in alone]
        if found.shape[:1] != (2,) or any(w.shape != (1, *found.shape[1:]) for w in wanted):
            return False  # sizes behind the batch differ where an image decides how many boxes come out
        joined = np.concatenate(wanted)
        if joined.dtype.kind not in "fiub":
            return False
        a, b = found.astype(np.float64), joined.astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return False
        a, b = a[finite], b[finite]
        if not np.all(np.abs(a - b) <= TOLERANCE * (np.abs(b).max(initial=0.0) + 1e-12)):
            return False
    return True
