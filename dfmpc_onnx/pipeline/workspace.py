"""What travels through a pipeline: the graph, the user's settings, and the facts that passes have learnt."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from typing import TypeVar

import onnx
import onnx_graphsurgeon as gs

from dfmpc_onnx.graph.edit import copy_graph
from dfmpc_onnx.inputs.knowledge import with_ranges
from dfmpc_onnx.inputs.spec import InputSpecs, resolve
from dfmpc_onnx.numerics.arrays import Float32
from dfmpc_onnx.numerics.quantized import QuantizedWeight
from dfmpc_onnx.pipeline.deadline import Deadline
from dfmpc_onnx.pipeline.facts import Codes
from dfmpc_onnx.pipeline.progress import Progress
from dfmpc_onnx.pipeline.settings import Settings

Fact = TypeVar("Fact")


def resolve_inputs(model: onnx.ModelProto | gs.Graph, settings: Settings) -> InputSpecs:
    """The inputs of a model under the user's settings.

    Raises OptionError where a given shape does not fit, or a range is given for what is no input of numbers.
    """
    inputs = resolve(model, settings.input_shapes, settings.preprocess, settings.images)
    return with_ranges(inputs, settings.input_ranges)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a workspace held at a moment: a copy of the graph, the inputs, and the facts by type."""

    graph: gs.Graph
    inputs: InputSpecs
    facts: Mapping[type[object], object]


class Workspace:
    """A graph and the typed facts known of it; a fact is looked up by its type.

    inputs: what the network is fed, as `resolve_inputs` finds it where it is not given; their types are those of the
    graph, which a pass that converts it keeps true. progress: told of each layer that a long pass comes to. deadline:
    what says whether there is time for more. sha256: of
    the model as read; empty where that is not known.
    """

    def __init__(
        self, graph: gs.Graph, settings: Settings, label: str = "model", inputs: InputSpecs | None = None
    ) -> None:
        self.graph = graph
        self.settings = settings
        self.inputs = resolve_inputs(graph, settings) if inputs is None else inputs
        self.label = label
        self.sha256 = ""
        self.progress = Progress()
        self.deadline = Deadline()
        self._facts: dict[type[object], object] = {}
        self._unread: dict[str, QuantizedWeight] | None = None  # of the codes, as long as nobody has seen them
        self._decoded = weakref.WeakKeyDictionary[QuantizedWeight, weakref.ref[Float32]]()

    @property
    def tell(self) -> Callable[[str], None]:
        """Takes what a long pass is at, in words, where it does not go layer by layer."""
        return self.progress.note

    def put(self, fact: object) -> None:
        """Store a fact in place of an earlier one of its type."""
        self._facts[type(fact)] = fact
        self._unread = None

    def get(self, kind: type[Fact]) -> Fact:
        """The fact of a type; KeyError where no pass has put one."""
        fact = self._facts[kind]
        assert isinstance(fact, kind)  # put() keys by type
        if kind is Codes:
            self._unread = None
        return fact

    def find(self, kind: type[Fact]) -> Fact | None:
        """The fact of a type, or None."""
        return self.get(kind) if kind in self._facts else None

    def codes(self) -> Mapping[str, QuantizedWeight]:
        """The quantized weights so far, by layer name."""
        found = self.find(Codes)
        return {} if found is None else found.weights

    def set_weight(self, layer: gs.Node, quantized: QuantizedWeight) -> Float32:
        """Give a layer a quantized weight: its codes beside the graph, its dequantized values in the graph's constant.

        The only writer of the pair, so that neither can be without the other. Returns the dequantized values.
        """
        made = self._decoded.get(quantized)
        values = None if made is None else made()
        if values is None:  # layers that share codes share the values too
            values = quantized.dequantize()
            self._decoded[quantized] = weakref.ref(values)
        layer.inputs[1].values = values
        if self._unread is None:  # what somebody has seen stays as it was; a copy for each layer would be quadratic
            made_so_far = dict(self.codes())
            self.put(Codes(made_so_far))
            self._unread = made_so_far
        self._unread[layer.name] = quantized
        return values

    def discard(self, kind: type[object]) -> None:
        self._facts.pop(kind, None)
        self._unread = None

    def snapshot(self) -> Snapshot:
        """The graph, its constants shared, the inputs and the facts as they are now."""
        self._unread = None
        return Snapshot(copy_graph(self.graph), self.inputs, dict(self._facts))

    def restore(self, before: Snapshot) -> None:
        """Go back to a snapshot, whatever a pass has begun since."""
        self.graph, self.inputs, self._facts = before.graph, before.inputs, dict(before.facts)
        self._unread = None

    @property
    def known(self) -> frozenset[type[object]]:
        return frozenset(self._facts)
