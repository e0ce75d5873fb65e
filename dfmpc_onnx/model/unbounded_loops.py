"""Loops that may never end: where there are any, and those that onnxruntime could not be stopped in.

A Loop runs until its condition is false or its trip count is reached, and nothing says that either ever happens. A
run of a model that holds one gets a limit of time (`runtime.Session`), at which onnxruntime stops in front of the next
operator. A body in which no operator is left to run, since all of it is constant, offers no such moment.
"""

from __future__ import annotations

import mmap
import os
import pathlib
from collections.abc import Iterable, Mapping

import onnx
from onnx import numpy_helper

from dfmpc_onnx.errors import ModelError, shown
from dfmpc_onnx.model.protos import all_nodes, bodies, initializers, names_read, op_of, stored_value

MOST_EMPTY_TURNS = 10**8  # of a body without operators: some seconds
_FIELD = b'"\x04Loop'  # the operator's name in a NodeProto as it is stored: field 4, four bytes
Constants = Mapping[str, onnx.TensorProto | None]  # None: constant, of a value that is not looked up


def has_loop(model: onnx.ModelProto | bytes | str | os.PathLike[str]) -> bool:
    """Whether a Loop stands anywhere in a model, bodies and functions included; of bytes, whether they may say so.

    False for a file that cannot be read: loading it will tell.
    """
    if isinstance(model, onnx.ModelProto):
        return any(op_of(node) == "Loop" for node in all_nodes(model))
    if isinstance(model, bytes):
        return _FIELD in model
    try:
        with pathlib.Path(model).open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(_FIELD) >= 0
    except (OSError, ValueError):
        return False


def check_loops(model: onnx.ModelProto, where: str) -> None:
    """Raise ModelError for a Loop of very many turns or without an end that no operator in its body lets be stopped."""
    _check(model.graph.node, initializers(model.graph), where)
    for function in model.functions:
        _check(function.node, {}, where)


def _check(nodes: Iterable[onnx.NodeProto], outer: Constants, where: str) -> None:
    constants = {**outer, **_constant_outputs(nodes, outer)}
    for node in nodes:
        for body in bodies(node):
            fed = {value.name for value in body.input}
            inside: dict[str, onnx.TensorProto | None] = {k: v for k, v in constants.items() if k not in fed}
            inside.update(initializers(body))
            _check(body.node, inside, where)
            if op_of(node) == "Loop" and not _ends(node, constants) and not _runs(body, inside):
                raise ModelError(
                    f"{where}: the body of Loop '{shown(node.name)}' computes nothing, so it could not be stopped if "
                    "it never ended; take it out of the model"
                )


def _constant_outputs(nodes: Iterable[onnx.NodeProto], outer: Constants) -> dict[str, onnx.TensorProto | None]:
    """What nodes make out of constants alone, which onnxruntime works out before it runs anything."""
    found: dict[str, onnx.TensorProto | None] = {}
    for node in nodes:
        if all(name in outer or name in found for name in names_read(node)):
            found.update(dict.fromkeys(node.output, stored_value(node)))
    return found


def _ends(node: onnx.NodeProto, constants: Constants) -> bool:
    """Whether a Loop has a trip count that is small, or not settled by the file."""
    count = node.input[0] if node.input else ""
    if count and count not in constants:
        return True
    stored = constants.get(count)
    if stored is None:
        return False
    values = numpy_helper.to_array(stored)
    return values.dtype.kind != "i" or int(values.max(initial=0)) <= MOST_EMPTY_TURNS


def _runs(body: onnx.GraphProto, constants: Constants) -> bool:
    """Whether an output of a body is computed by a node that is not constant, and so is left to run."""
    made = _constant_outputs(body.node, constants)
    results = {value.name for value in body.output}
    return any(name in results and name not in made for node in body.node for name in node.output)
