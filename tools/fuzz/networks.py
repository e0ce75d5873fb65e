"""Small random networks of supported and unsupported operators, as exporters and their bugs could write them.

Every choice is drawn from the generator that is handed in, so a number makes the same network again, and hypothesis,
which hands in generators of its own, can shrink what it found.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tools.fuzz.control_flow import control
from tools.fuzz.drawing import Drawing
from tools.fuzz.elementwise import activation, combine
from tools.fuzz.layers import conv, dense, norm, transposed
from tools.fuzz.moves import move, pool

BLOCKS: tuple[Callable[[Drawing], None], ...] = (
    *(conv, conv, conv, conv, conv, conv, norm, activation, activation, combine, combine, pool, move, move),
    *(dense, transposed, control),
)


@dataclasses.dataclass(frozen=True)
class Network:
    """A model; whether its weights are such as training leaves, so that 8 bits must be near the float network."""

    model: onnx.ModelProto
    ordinary: bool
    input_shapes: tuple[str, ...] = ()


def network(rng: random.Random, *, spoiled: bool = True) -> Network:
    """A network of 1 to 12 blocks. spoiled: whether weights and wiring may be absurd in about every second one."""
    found = _built(Drawing(rng, spoiled and rng.random() < 0.5))
    return dataclasses.replace(found, ordinary=_settle(found)) if found.ordinary else found


def _settle(found: Network) -> bool:
    """Give every BatchNormalization the mean and variance of what it reads, as training does; whether that could be."""
    model = found.model
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        del probe.graph.output[:]
        probe.graph.output.append(onnx.ValueInfoProto(name=node.input[0]))
        try:
            x = _ran(probe, found.input_shapes)
        except Exception:  # onnxruntime's exceptions have no common public base; the network cannot run
            return False
        rows = np.moveaxis(x, 2, 0).reshape(x.shape[2], -1).astype(np.float64)  # behind the runs and the batch
        if not np.isfinite(rows).all() or rows.var(axis=1).min() < 1e-3:
            return False
        for index, values in ((3, rows.mean(axis=1)), (4, rows.var(axis=1))):
            held[node.input[index]].CopyFrom(numpy_helper.from_array(values.astype(np.float32), node.input[index]))
    return True


def _ran(model: onnx.ModelProto, input_shapes: Sequence[str]) -> np.ndarray:
    """The output of a model of one output on eight normal inputs, ``[runs, n, channels, ...]``."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    generator, shapes = np.random.default_rng(0), dict(item.rpartition(":")[::2] for item in input_shapes)
    runs = []
    for _ in range(8):
        feeds = {}
        for value in session.get_inputs():
            stated = [d if isinstance(d, int) and d > 0 else 1 for d in value.shape]
            shape = [int(d) for d in shapes[value.name].split("x")] if value.name in shapes else stated
            feeds[value.name] = generator.standard_normal(shape).astype(np.float32)
        runs.append(session.run(None, feeds)[0])
    return np.stack(runs)


def _built(draw: Drawing) -> Network:
    rank = draw.rng.choice([4, 4, 4, 4, 4, 4, 3, 5, 2])
    for _ in range(draw.rng.choice([1, 1, 1, 1, 2])):
        draw.input(rank)
    if rank > 2:
        conv(draw)
    for _ in range(draw.rng.randint(0, 11)):
        draw.rng.choice(BLOCKS)(draw)
        if np.prod(draw.live[-1][1]) > 20_000:
            break
    if draw.chance(0.5):
        dense(draw)
    return Network(finished(draw), draw.ordinary, tuple(draw.given))


def finished(draw: Drawing) -> onnx.ModelProto:
    """What has been drawn as a model, whose output is the last node's, sometimes another's, too."""
    made = {name for node in draw.nodes for name in node.output}
    outputs = [draw.nodes[-1].output[0]] if draw.nodes else []
    if made and draw.chance(0.2):
        extra = draw.rng.choice(sorted(made))
        outputs += [extra] if extra not in outputs else []
    values = [onnx.ValueInfoProto(name=name) for name in outputs]
    tensors = [numpy_helper.from_array(value, name) for name, value in draw.weights.items()]
    inputs = list(draw.inputs)
    if draw.chance(0.05):
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    graph = helper.make_graph(draw.nodes, "random", inputs, values, tensors)
    ids = [helper.make_opsetid("", draw.opset), *(helper.make_opsetid(d, 1) for d in sorted(draw.domains))]
    model = helper.make_model(graph, opset_imports=ids, ir_version=min(helper.find_min_ir_version_for(ids[:1]), 13))
    return with_types(model)


def with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """Outputs with the type and shape that inference finds, float of any shape where it finds none."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
        known = {info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output)}
    except Exception:  # absurd shapes; onnx raises several kinds
        known = {}
    for value in model.graph.output:
        found = known.get(value.name)
        if found is not None and found.type.tensor_type.elem_type:
            value.CopyFrom(found)
        else:
            value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None))
    return model
