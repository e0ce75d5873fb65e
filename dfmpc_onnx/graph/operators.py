"""What an operator means: a registry by domain, name and version, and the questions that passes ask of a node.

An operator is its domain and its name: ``my.ops::Relu`` is not Relu. So nobody compares ``node.op``; `op_of` gives the
bare name for the standard domain alone, and the questions below look a node's operator up in the registry.

A package with a pass of its own can say what its operators mean, when it is imported::

    from dfmpc_onnx.graph.operators import Meaning, register

    register("my.ops", "Swish", 1, Meaning(function=lambda node: lambda x: x / (1 + np.exp(-x)), bounds=(-0.3, np.inf)))

The module that an entry point ``dfmpc_onnx.passes`` names is imported before the first pass runs, so a call there is
enough; so is one in the script that calls `quantize`. An operator that nobody has registered may do anything: what
reads or makes it stays in float, and the reason says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph.operator_table import NOTHING_KNOWN, STANDARD, Function, Meaning
from dfmpc_onnx.graph.query import has_input, input_constant, nested_nodes
from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, STANDARD_DOMAINS, op_name
from dfmpc_onnx.model.source import NEWEST_OPSET
from dfmpc_onnx.numerics.arrays import Float
from dfmpc_onnx.numerics.batch_norm import BatchNormParameters

__all__ = ["Function", "Meaning", "find", "meaning_of", "op_of", "register", "unregister"]

Versions = dict[int, Meaning]  # by the first opset of each

_registry: dict[tuple[str, str], Versions] = {
    ("", name): {since: meaning} for name, (since, meaning) in STANDARD.items()
}
_writing = threading.Lock()
SETTLED_OPSET = 13  # no entry of the table changes its meaning later


class Domain(str):
    """The domain of a node, with the opset of it that the node's graph imports.

    Nodes are copied from graph to graph and do not know theirs; their domain comes along.
    """

    opset: int | None

    def __new__(cls, name: str, opset: int | None) -> Domain:
        domain = super().__new__(cls, name)
        domain.opset = opset
        return domain

    def __getnewargs__(self) -> tuple[str, int | None]:  # type: ignore[override]
        """What a copy, shallow or deep, is made of."""
        return str(self), self.opset


def register(domain: str, name: str, since: int, meaning: Meaning, *, replace: bool = False) -> None:
    """Say what an operator means from an opset of its domain on, until a later entry takes over.

    Saying the same again changes nothing; functions are the same only where they are one object, so a module that may
    be loaded twice says replace. Raises ValueError where the entry exists with another meaning, for an opset below 1,
    and for an operator with a weight outside the standard domain: passes know layers by their names. Threads may
    register and look up at once.
    """
    domain = _key(domain)
    label = op_name(domain, name)
    if since < 1:
        raise ValueError(f"{label}: opsets count from 1, not from {since}")
    if meaning.weight is not None and domain:
        raise ValueError(f"{label}: only operators of the standard domain can have weights")
    with _writing:
        known = _registry.get((domain, name), {})
        if known.get(since, meaning) != meaning and not replace:
            raise ValueError(f"{label} has another meaning from opset {since} on already")
        _registry[domain, name] = {**known, since: meaning}  # a new one, so that who reads sees no half-made one


def unregister(domain: str, name: str) -> None:
    """Forget what was registered for an operator outside the standard domain; nothing where nothing was."""
    if _key(domain):
        with _writing:
            _registry.pop((domain, name), None)


def find(domain: str | None, name: str, opset: int | None = None) -> Meaning:
    """The meaning of an operator in an opset of its domain; in the newest that is registered where it is None.

    `NOTHING_KNOWN` for what nobody has registered, and for opsets older than the first entry.
    """
    versions = _registry.get((_key(domain), name), {})
    fitting = [since for since in versions if opset is None or since <= opset]
    return versions[max(fitting)] if fitting else NOTHING_KNOWN


def _key(domain: str | None) -> str:
    return "" if (domain or "") in STANDARD_DOMAINS else str(domain)


def meaning_of(node: gs.Node) -> Meaning:
    """The meaning of a node's operator in the opset of its domain that its graph imports (`name_domains`).

    A node that a pass has made is of the newest opset that onnxruntime runs.
    """
    newest = NEWEST_OPSET if is_standard(node) else None
    return find(node.domain, node.op, getattr(node.domain, "opset", newest))


def name_domains(graph: gs.Graph) -> None:
    """Give the domains of nodes the opsets that a graph just imported states; the standard one has one name, "".

    From opset 13 on the standard operators mean what they mean today; there its nodes have None.
    """
    opsets = {item.domain: int(item.version) for item in graph.import_domains or ()}
    for node in (*graph.nodes, *(inner for _, _, inner in nested_nodes(graph))):
        domain = node.domain or ""
        if domain not in STANDARD_DOMAINS:
            node.domain = Domain(domain, opsets.get(domain))
        else:
            node.domain = Domain("", graph.opset) if graph.opset < SETTLED_OPSET else None


# -- which operator it is


def op_of(node: gs.Node, domains: Collection[str] = STANDARD_DOMAINS) -> str:
    """A node's operator: ``Relu`` where it is of one of the domains, else with its domain, ``my.ops::Relu``."""
    return op_name(node.domain, node.op, domains)


def is_standard(node: gs.Node) -> bool:
    """Whether a node's operator is of the standard domain: one of the same name elsewhere may do anything."""
    return (node.domain or "") in STANDARD_DOMAINS


def is_known(node: gs.Node) -> bool:
    """Whether a node's operator is of the standard domain, or registered."""
    return is_standard(node) or meaning_of(node) is not NOTHING_KNOWN


def is_weighted(node: gs.Node) -> bool:
    """Whether a node is of an operator whose second operand is a weight."""
    return meaning_of(node).weight == 1


def quantizes(node: gs.Node) -> bool:
    """Whether it is a QuantizeLinear; onnxruntime has one of its own, which does the same."""
    return op_of(node, RUNTIME_DOMAINS) == "QuantizeLinear"


def dequantizes(node: gs.Node) -> bool:
    """Whether it is a DequantizeLinear; onnxruntime has one of its own, which does the same."""
    return op_of(node, RUNTIME_DOMAINS) == "DequantizeLinear"


# -- BatchNormalization


def batch_norm_parameters(node: gs.Node) -> BatchNormParameters | None:
    """Gamma, beta, mean and standard deviation of a BatchNormalization; None where they are not constants.

    None too in training mode, where it does not use them, for doubles, which passes would replace by float32, and for
    an operator of that name in another domain.
    """
    if node.attrs.get("training_mode", 0) or len(node.outputs) > 1 or not is_standard(node):
        return None
    values = [input_constant(node, i) for i in range(1, 5)]
    if any(v is None or v.dtype == np.float64 for v in values) or len(values) != 4:
        return None
    gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in values)
    epsilon = norm_epsilon(node)
    return BatchNormParameters(gamma, beta, mean, np.sqrt(np.maximum(variance, 0.0) + epsilon), epsilon)


def norm_epsilon(node: gs.Node) -> float:
    """What a BatchNormalization adds to the variance before it takes the root."""
    return float(node.attrs.get("epsilon", 1e-5))


# -- functions of one value


def is_clip(node: gs.Node) -> bool:
    """Whether a node limits values: a Relu, a Clip, or what is registered as such."""
    return meaning_of(node).clip is not None


def clip_bounds(node: gs.Node) -> tuple[float, float]:
    """The bounds of what `is_clip`; raises Unknown where they are computed, and for other operators."""
    clip = meaning_of(node).clip
    if clip is None:
        raise Unknown("it does not clip")
    return clip(node)


def elementwise(node: gs.Node) -> Function | None:
    """The function of a smooth or piecewise activation on ``[channels, ...]``; None for other operators."""
    function = meaning_of(node).function
    return None if function is None else function(node)


def activation(node: gs.Node) -> Callable[[Float], Float] | None:
    """As `elementwise`, and what clips between constant bounds."""
    if not is_clip(node):
        return elementwise(node)
    try:
        low, high = clip_bounds(node)
    except Unknown:
        return None
    return lambda x: np.clip(x, low, high)


def squashes(node: gs.Node) -> bool:
    """Whether it squeezes scores: Sigmoid, HardSigmoid, Softmax, LogSoftmax, Tanh."""
    return meaning_of(node).squashes


# -- moves and pools


def keeps_scale(node: gs.Node) -> bool:
    """Whether a node only moves, chooses or repeats values, so that its output has its input's scale."""
    moves = meaning_of(node).moves
    return moves is not None and moves(node)


def pools(node: gs.Node) -> bool:
    """Whether a node chooses or averages values of each channel."""
    return meaning_of(node).pools is not None


def averages(node: gs.Node) -> bool:
    """Whether a node averages values of each channel."""
    return meaning_of(node).pools == "averages"


def flattens_each(node: gs.Node) -> bool:
    """Whether a Flatten makes one row of each image."""
    shape, axis = node.inputs[0].shape, int(node.attrs.get("axis", 1))
    return axis == 1 or (shape is not None and axis == 1 - len(shape))


def averages_space(node: gs.Node) -> bool:
    """Whether a ReduceMean averages over height and width alone."""
    axes = node.attrs.get("axes")
    if axes is None and has_input(node, 1):
        axes = input_constant(node, 1)
    return axes is not None and {int(a) for a in axes} <= {2, 3, 4, -1, -2}
