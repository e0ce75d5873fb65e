"""If, Loop and Scan, small and as a rule ending: bodies of one or two nodes that keep a tensor's shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools.fuzz.drawing import Drawing, Shape

MAPS = ("Relu", "Neg", "Tanh", "Sigmoid", "Identity")
NEVER = 10**12  # turns: some days


def control(draw: Drawing) -> None:
    """One of them behind a live tensor; without a trace where none fits."""
    found = draw.pick(lambda s: len(s) >= 2 and min(s) > 0)
    if found is not None:
        draw.rng.choice([choice, choice, loop, loop, loop, scan])(draw, *found)


def choice(draw: Drawing, x: str, shape: Shape) -> None:
    """An If whose branches read a tensor from outside."""
    branches = {}
    for key in ("then_branch", "else_branch"):
        nodes, y = _body(draw, x, shape)
        branches[key] = helper.make_graph(nodes, key, [], [_told(y)])
    if draw.chance(0.3):  # what the file does not settle
        size = _node(draw, "Shape", [x])
        most = _node(draw, "ReduceMax", [size], keepdims=0)
        taken = _node(draw, "Less", [most, draw.number(np.array(draw.rng.choice([5, 100])))])
    else:
        taken = draw.number(np.array(draw.chance(0.5)))
    draw.add("If", [taken], shape, **branches)


def loop(draw: Drawing, x: str, shape: Shape) -> None:
    """A Loop that hands one tensor on, ended by its trip count, its condition, neither, or before it begins."""
    turn, go, value = (draw.name("body") for _ in range(3))
    nodes, y = _body(draw, value, shape)
    still = draw.name("body")
    held: list[onnx.TensorProto] = []
    kind = draw.rng.choice(["counted", "counted", "counted", "until", "until", "never begun", "endless"])
    count = draw.rng.choice([1, 2, 3])
    if kind == "until":
        held.append(numpy_helper.from_array(np.array(count), draw.name("body")))
        nodes.append(helper.make_node("Less", [turn, held[0].name], [still]))
    else:
        nodes.append(helper.make_node("Identity", [go], [still]))
    if kind == "endless":
        draw.ordinary = False  # so that nobody runs it to see what its normalizations read
        if draw.chance(0.3):  # a body in which onnxruntime cannot be stopped
            nodes, still, y = [], go, value
    turns = {
        "counted": lambda: draw.number(np.array(count)),
        "endless": lambda: draw.rng.choice(["", draw.number(np.array(NEVER))]),
        "never begun": lambda: draw.number(np.array(0)),
        "until": lambda: draw.rng.choice(["", draw.number(np.array(NEVER))]),
    }[kind]()
    begin = "" if draw.chance(0.3) else draw.number(np.array(kind != "never begun" or draw.chance(0.5)))
    inputs = [_told(turn, TensorProto.INT64, []), _told(go, TensorProto.BOOL, []), _told(value)]
    outputs = [_told(still, TensorProto.BOOL, []), _told(y)]
    every = kind in ("counted", "until") and draw.chance(0.3)
    if every:  # the value of each turn, too
        nodes.append(helper.make_node("Identity", [y], [f"{y}_turn"]))
        outputs.append(_told(f"{y}_turn"))
    body = helper.make_graph(nodes, "body", inputs, outputs, held)
    draw.add("Loop", [turns, begin, x], shape, outputs=1 + every, body=body)
    if every and draw.chance(0.5):
        values = draw.nodes[-1].output[1]
        draw.add("Gather", [values, draw.number(np.array(0))], shape, axis=0)


def scan(draw: Drawing, x: str, shape: Shape) -> None:
    """A Scan over one dimension, each slice by itself or summed to those in front of it."""
    axis = draw.rng.randrange(1, len(shape))
    part, rest = draw.name("body"), (*shape[:axis], *shape[axis + 1 :])
    open_dims: list[int | None] = [None] * len(rest)  # onnxruntime wants as many as there are
    nodes, y = _body(draw, part, rest)
    inputs, outputs, begin = [_told(part)], [_told(y, shape=open_dims)], []
    if draw.chance(0.5):
        so_far, total = draw.name("body"), draw.name("body")
        nodes.append(helper.make_node("Add", [so_far, y], [total]))
        nodes.append(helper.make_node("Identity", [total], [f"{total}_part"]))
        inputs.insert(0, _told(so_far))
        outputs = [_told(total, shape=open_dims), _told(f"{total}_part", shape=open_dims)]
        if draw.opset < 18:
            begin = [_node(draw, "ReduceMax", [x], axes=[axis], keepdims=0)]
        else:
            begin = [_node(draw, "ReduceMax", [x, draw.number(np.array([axis]))], keepdims=0)]
    attrs: dict[str, object] = {"scan_input_axes": [axis], "scan_output_axes": [axis], "num_scan_inputs": 1}
    if draw.chance(0.3):
        attrs["scan_input_directions"] = [1]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    draw.add("Scan", [*begin, x], rest if begin else shape, outputs=len(outputs), body=body, **attrs)
    if begin:
        draw.live[-1] = (draw.nodes[-1].output[1], shape)


def _body(draw: Drawing, x: str, shape: Shape) -> tuple[list[onnx.NodeProto], str]:
    """Nodes that make a tensor of the same shape of x, and its name. Weights stand outside."""
    y = draw.name("inner")
    kind = draw.rng.random()
    if kind < 0.15 and len(shape) in (3, 4, 5):
        weight = draw.weight((shape[1], shape[1], *(1,) * (len(shape) - 2)), shape[1])
        return [helper.make_node("Conv", [x, weight], [y], name=f"{y}_layer")], y
    if kind < 0.3 and len(shape) == 2:
        return [helper.make_node("MatMul", [x, draw.weight((shape[1], shape[1]), shape[1])], [y])], y
    if kind < 0.5:
        return [helper.make_node(draw.rng.choice(["Add", "Mul"]), [x, draw.weight((), 4)], [y])], y
    return [helper.make_node(draw.rng.choice(MAPS), [x], [y])], y


def _node(draw: Drawing, op: str, inputs: list[str], **attrs: object) -> str:
    """A node whose output nobody else reads."""
    made = draw.add(op, inputs, (), **attrs)
    draw.live.pop()
    return made


def _told(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[int | None] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
