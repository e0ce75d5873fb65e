"""Which outputs cannot be class scores or labels, by what makes them and by their names.

A vector for each image may hold scores of classes, of which the largest is the answer, or numbers whose largest entry
means nothing: an embedding, coordinates, answers of yes and no to several questions. A whole number for each image may
be a label, or a count.
"""

from __future__ import annotations

import math
import re

import onnx

from dfmpc_onnx.model.protos import initializers, makers, op_of, stored_value

MOVES_VALUES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
# What stands at the end of an embedding, of features, of coordinates, or of questions answered one by one.
ENDS_OTHERWISE = frozenset({"BatchNormalization", "Div", "HardSigmoid", "LpNormalization", "Relu", "Sigmoid", "Tanh"})
CHOOSES_LABELS = frozenset({"ArgMax", "ArgMin", "TopK"})
CLASSIFIES = re.compile(r"^(ai\.onnx\.ml\.)?(Linear|SVM|TreeEnsemble)Classifier$")
WHOLE_NUMBERS = frozenset(
    getattr(onnx.TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)
)
NAMES_CLASSES = frozenset({"Softmax", "LogSoftmax"})
OTHER_NAMES = re.compile(
    r"(?i:embed|feature|landmark|keypoint|bbox|boxes|coord|latent|regress)"
    # Words of their own: transpose, purpose, rectangle and defeat say nothing.
    r"|(?<![A-Za-z])(?i:feat|angle|pose|vector)|(?<=[a-z])(?:Feat|Angle|Pose|Vector)"
)


def outputs_without_classes(model: onnx.ModelProto) -> frozenset[str]:
    """The outputs of a model that hold no class scores and no labels, whatever their shape.

    A Softmax says more than a name does. Whole numbers are labels where an operator that chooses the best makes them.
    """
    made = makers(model.graph.node)
    scalars = _scalars(model.graph)
    return frozenset(value.name for value in model.graph.output if _is_other(value, made, scalars))


def _scalars(graph: onnx.GraphProto) -> frozenset[str]:
    """The constants of one value."""
    stored = {**initializers(graph), **{node.output[0]: stored_value(node) for node in graph.node if node.output}}
    return frozenset(name for name, tensor in stored.items() if tensor is not None and math.prod(tensor.dims) == 1)


def _is_other(value: onnx.ValueInfoProto, made: dict[str, onnx.NodeProto], scalars: frozenset[str]) -> bool:
    name = value.name
    node = made.get(name)
    while node is not None and (
        op_of(node) in MOVES_VALUES or (op_of(node) == "Div" and scalars.issuperset(node.input[1:]))
    ):
        node = made.get(node.input[0])
    kind = "" if node is None else op_of(node)
    if value.type.tensor_type.elem_type in WHOLE_NUMBERS:
        return kind not in CHOOSES_LABELS and not CLASSIFIES.match(kind)
    return kind not in NAMES_CLASSES and (kind in ENDS_OTHERWISE or OTHER_NAMES.search(name) is not None)
