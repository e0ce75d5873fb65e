"""How far tensors reach in the float network where an input fills the range that it is stated to have.

A BatchNormalization says what its input was in training; of what is louder, brighter or hotter than that it says
nothing. Where the user states how far an input reaches, the network is run on inputs that go there, its
BatchNormalizations as in inference.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.inputs.batches import free_batch
from dfmpc_onnx.inputs.feeds import filling
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.numerics.ranges import Range
from dfmpc_onnx.runtime.session import Session
from dfmpc_onnx.statistics.batch_axis import statistics_batch

RUNS_IN_RANGE = 8  # inputs that fill a range, rough and smooth


def stated_reach(graph: gs.Graph, inputs: InputSpecs, seed: int) -> dict[str, Range]:
    """The least and greatest value of each tensor of floats; empty where no range is stated, or nothing can be run.

    Pictures are of all grey levels as they are, other inputs are made to fill their range.
    """
    stated = {spec.name: spec.range for spec in inputs if spec.is_float and spec.range is not None}
    if not stated or inputs.own_images is not None:
        return {}
    feeds = dict(statistics_batch(graph, inputs, seed, RUNS_IN_RANGE).feeds)
    for name, bounds in stated.items():
        if not inputs[name].is_picture:
            feeds[name] = filling(feeds[name].shape, bounds, seed).astype(feeds[name].dtype)
    model = to_model(graph)
    fixed = [spec.name for spec in inputs if spec.batch is not None and len(feeds[spec.name]) != spec.batch]
    if fixed:
        free_batch(model, fixed)
    names = [t.name for node in graph.nodes for t in node.outputs if t.dtype == np.float32]
    del model.graph.output[:]
    for name in names:
        for op in ("ReduceMin", "ReduceMax"):
            made = f"{name}.{op}"
            model.graph.node.append(onnx.helper.make_node(op, [name], [made], keepdims=0))
            model.graph.output.append(onnx.helper.make_tensor_value_info(made, onnx.TensorProto.FLOAT, ()))
    try:
        found = [float(np.asarray(v)) for v in Session(model, label="the float network").run(feeds)]
    except ModelError:
        return {}
    pairs = zip(names, found[::2], found[1::2], strict=True)
    return {name: (low, high) for name, low, high in pairs if np.isfinite([low, high]).all()}
