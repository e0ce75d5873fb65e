"""The work of a conversion grows with the size of a graph, and not with its square: calls are counted, no time."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest

import dfmpc_onnx
from tests.graphs import Net

SMALL, TIMES = 40, 4


def outputs(count: int) -> onnx.ModelProto:
    net = Net()
    x = net.conv("x", 4)
    return net.model(*(net.relu(x) for _ in range(count)))


def moves(count: int) -> onnx.ModelProto:
    """Reshapes and the like between two layers."""
    net = Net()
    x = net.relu(net.conv("x", 4))
    for _ in range(count):
        x = net.node("Transpose", x, perm=[0, 1, 3, 2])
    net.channels[x] = 4
    return net.model(net.conv(x, 4))


def gates(count: int) -> onnx.ModelProto:
    """Blocks whose layers are gated, and added to what they read."""
    net = Net()
    x = net.conv("x", 4)
    for _ in range(count):
        y = net.conv(x, 4, kernel=1, weight=np.full((4, 4, 1, 1), 0.001, np.float32))
        x = net.node("Add", net.node("Mul", y, net.node("Sigmoid", y)), x)
        net.channels[x] = 4
    return net.model(net.conv(x, 4))


def splits(count: int) -> onnx.ModelProto:
    """Units of which half pass and half are convolved."""
    net = Net()
    x = net.conv("x", 8)
    for _ in range(count):
        first = net.node("Split", x, axis=1)
        second = f"{first}.second"
        net.nodes[-1].output.append(second)
        net.channels[first] = net.channels[second] = 4
        x = net.concat(second, net.relu(net.conv(first, 4, kernel=1, group=4)))
    return net.model(net.conv(x, 4))


def calls(model: onnx.ModelProto) -> int:
    """How many functions a conversion calls, and how many turns generators take."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        dfmpc_onnx.quantize(model, recipe="int8", preprocess="imagenet", check=False)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("kind", [outputs, moves, gates, splits])
def test_four_times_as_many_nodes_take_four_times_as_many_calls(kind: Callable[[int], onnx.ModelProto]) -> None:
    calls(kind(2))  # what is imported and read once
    small, large = (calls(kind(n)) for n in (SMALL, SMALL * TIMES))
    assert large < TIMES * small  # by a part of them, which does not depend on the size
