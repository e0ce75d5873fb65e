"""Layers as a reader wants them: neighbours that were treated alike are one row."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from dfmpc_onnx.pipeline.weight_plan import FLOAT_BITS
from dfmpc_onnx.report.schema import LayerReport


@dataclasses.dataclass(frozen=True)
class LayerGroup:
    """Neighbours in the network that have op, bits and what they compute in in common.

    loss: what they add to the error of the output, in per cent, together; "-" where nothing measured it.
    """

    names: tuple[str, ...]
    op: str
    bits: str
    stored: str
    loss: str
    computes: str
    why: str

    @property
    def name(self) -> str:
        return f"{self.names[0]}{self.more}"

    @property
    def more(self) -> str:
        """How many stand behind the first."""
        return f" + {len(self.names) - 1} more" if len(self.names) > 1 else ""


def grouped_layers(layers: Sequence[LayerReport], *, each: bool = False) -> list[LayerGroup]:
    """The layers in their order, neighbours that are alike as one group. each: whether every layer stands alone."""
    pairs = enumerate(layers)
    return [
        _group([layer for _, layer in found])
        for _, found in itertools.groupby(pairs, lambda pair: (pair[0] if each else 0, *_looks(pair[1])))
    ]


def _looks(layer: LayerReport) -> tuple[str, ...]:
    computes = "integers" if layer.integer else "float"
    return layer.op, bits_text(layer), f"{layer.stored_bits:g}", computes, str(layer.loss is None)


def _group(layers: Sequence[LayerReport]) -> LayerGroup:
    op, bits, stored, computes, _ = _looks(layers[0])
    losses = [layer.loss for layer in layers if layer.loss is not None]
    loss = loss_text(sum(losses)) if losses else "-"
    return LayerGroup(tuple(layer.name for layer in layers), op, bits, stored, loss, computes, layers[0].why)


def bits_text(layer: LayerReport) -> str:
    """The width of a layer's codes."""
    return "float" if layer.bits == FLOAT_BITS else "ternary" if layer.ternary else f"{layer.bits:g}"


def loss_text(share: float) -> str:
    """A share of the output's error in per cent, without its sign: two digits, never an exponent."""
    percent = 100 * share
    return "<0.0001" if 0 < percent < 1e-4 else f"{percent:.2g}" if percent < 10 else f"{percent:.0f}"
