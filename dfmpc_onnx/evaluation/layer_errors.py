"""How far the tensors of a quantized network are from the float network's, and where the error enters.

Three runs give it: the float network, the quantized one, and the quantized one cut at the matched tensors, each piece
fed what the float network computes there. With float values y, quantized values q and those of the pieces p, all summed
over the values of a tensor:

    own error      sum (p - y)^2 / sum y^2     what the piece itself adds: its weights, and the rounding of its inputs
    carried error  sum (q - p)^2 / sum y^2     what came in with its inputs, as it leaves the piece
    error          sum (q - y)^2 / sum y^2

What is done to channels on purpose is taken out first (`taken_back`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import onnx

from dfmpc_onnx.evaluation.fidelity import input_count
from dfmpc_onnx.evaluation.matched_tensors import Matching
from dfmpc_onnx.evaluation.output_differences import decibels, rounded_down
from dfmpc_onnx.evaluation.paired_networks import PairedNetworks
from dfmpc_onnx.evaluation.taken_back import TakenBack
from dfmpc_onnx.evaluation.tensor_sums import ChannelChange, TensorSums
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.image_stream import ImageStream
from dfmpc_onnx.inputs.samples import Samples

LAYER_INPUTS = 16  # on so many the tensors are compared: their values are many


class LayerError(msgspec.Struct, frozen=True):
    """One tensor that stands in both networks.

    tensor: its name. node, op: what makes it in the quantized network, "" and "input" where it is an input; layers:
    the nodes with weights among what computes it from the matched tensors in front, which are `reads`. sqnr_db: signal
    over noise. error: the root of noise over signal. own_error: the same where what it is computed from is the float
    network's. carried_error: what the errors in front come to here. own_share: of the noise that these two add up to,
    what enters here, 0 to 1; 0 where there is none. amplification: `carried_error` over the largest error of what it is
    computed from; None where there is none. rescaled: whether its channels are multiplied by factors that the layers
    behind take back; they are taken out before anything is compared. worst_channel: the one with most of the own noise;
    worst_share: its part of it. worst_gain: what its values of the piece are beside the float network's, by least
    squares: -1 of a negated one; the last three are None where nothing enters here.
    """

    tensor: str
    node: str
    op: str
    layers: tuple[str, ...]
    reads: tuple[str, ...]
    sqnr_db: float
    error: float
    own_error: float
    carried_error: float
    own_share: float
    amplification: float | None
    rescaled: bool
    channels: int
    worst_channel: int | None = None
    worst_share: float | None = None
    worst_gain: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as a table takes them."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


class LayerErrors(msgspec.Struct, frozen=True):
    """The tensors of both networks in the order of the quantized one, and what could not be compared.

    inputs, origin: on how many of what. float_layers: how many layers the float network has; unmatched: those behind
    which no tensor of both networks stands, by name.
    """

    rows: tuple[LayerError, ...]
    inputs: int
    origin: str
    float_layers: int
    unmatched: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """In a line, what is not compared; "" where everything is."""
        if not self.unmatched:
            return ""
        some = ", ".join(self.unmatched[:3]) + (", ..." if len(self.unmatched) > 3 else "")
        return (
            f"{len(self.unmatched)} of {self.float_layers} layers have no tensor of the same name in the quantized "
            f"file, so nothing tells their errors apart: {some}"
        )

    def of_layer(self, name: str) -> LayerError | None:
        """The row in which a layer's weight counts."""
        return next((row for row in self.rows if name in row.layers), None)

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as ``--json`` prints them."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def layer_errors(
    float_model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    inputs: Images | Samples | ImageStream,
    label: str = "the model",
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> LayerErrors:
    """Run both networks and compare the tensors that stand in both.

    inputs: of the float network; a few are enough (LAYER_INPUTS). label: what messages call the models. tell: called
    with how many inputs are done, of how many runs over them in all. Tensors are held for a few inputs at a time, and
    of large networks a few tensors at a time. Raises ModelError where the networks do not take the same inputs, or
    have no tensor in common.
    """
    pair = PairedNetworks(float_model, quantized, inputs, label)
    return errors_of(pair, TakenBack(pair).found(), inputs, tell)


def errors_of(
    pair: PairedNetworks,
    factors: Mapping[str, ChannelChange],
    inputs: Images | Samples | ImageStream,
    tell: Callable[[int, int], None],
) -> LayerErrors:
    """As `layer_errors`, of networks that run side by side already. factors: what is done to channels on purpose."""
    sums = {name: TensorSums() for name in pair.kinds}
    for tensor in pair.matching.inputs:
        sums[tensor.name] = TensorSums()
        for feeds, real in pair.feeds():
            rounded = pair.rounded_inputs(feeds)[tensor.name]
            sums[tensor.name].add(feeds[tensor.name], rounded, rounded, None, real)
    count, done = input_count(inputs), 0
    groups = pair.groups()
    for group in groups:
        pieces = pair.pieces(group)
        for feeds, real in pair.feeds():
            both = pair.both(feeds, sorted({*group, *pieces.inner}))
            own = pieces.run(feeds, both.plain, factors)
            for name in group:
                factor = factors.get(name)
                sums[name].add(both.plain[name], both.hat[name], own[name], factor, real)
            done += real
            tell(done, count * len(groups))
    rows = _rows(pair.matching, sums, factors)
    found = pair.matching
    return LayerErrors(rows, count, inputs.origin, found.layers, found.unmatched)


def _rows(
    matching: Matching, sums: Mapping[str, TensorSums], factors: Mapping[str, ChannelChange]
) -> tuple[LayerError, ...]:
    errors = {name: found.relative(found.noise) for name, found in sums.items()}
    rows = []
    for tensor in (*matching.inputs, *matching.tensors):
        found = sums[tensor.name]
        own, carried = found.relative(found.own), found.relative(found.carried)
        coming = max((errors.get(read, 0.0) for read in tensor.reads), default=0.0)
        worst = found.worst() or (None, None, None)
        rows.append(
            LayerError(
                tensor=tensor.name,
                node=tensor.node,
                op=tensor.op,
                layers=tensor.layers,
                reads=tensor.reads,
                sqnr_db=rounded_down(decibels(found.signal, found.noise)),
                error=_digits(errors[tensor.name]),
                own_error=_digits(own),
                carried_error=_digits(carried),
                own_share=round(own**2 / (own**2 + carried**2), 4) if own else 0.0,
                amplification=_digits(carried / coming) if coming > 0 else None,
                rescaled=tensor.name in factors,
                channels=found.channels,
                worst_channel=worst[0],
                worst_share=None if worst[1] is None else round(worst[1], 4),
                worst_gain=None if worst[2] is None else _digits(worst[2]),
            )
        )
    return tuple(rows)


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
