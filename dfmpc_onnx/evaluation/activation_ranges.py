"""The ranges of activations in a quantized file, and how much of what a network computes lies beyond them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import ml_dtypes
import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from dfmpc_onnx.evaluation.fidelity import SessionInput, as_taken, chunks_of
from dfmpc_onnx.inputs.files import Images
from dfmpc_onnx.inputs.image_stream import ImageStream
from dfmpc_onnx.inputs.samples import Samples
from dfmpc_onnx.model.protos import RUNTIME_DOMAINS, WEIGHTED_OPERATORS, initializers, op_of, readers, stored_value
from dfmpc_onnx.runtime.session import Session

RUNS_LOOKED_AT = 8
CODE_LIMITS = {
    np.dtype(np.uint8): (0, 255),
    np.dtype(np.int8): (-128, 127),
    np.dtype(np.uint16): (0, 65535),
    np.dtype(np.int16): (-32768, 32767),
    np.dtype(ml_dtypes.uint4): (0, 15),
    np.dtype(ml_dtypes.int4): (-8, 7),
}


class ActivationRange(msgspec.Struct, frozen=True):
    """One tensor that a file quantizes.

    low, high: what its codes stand for at most. least, largest: what it holds before it is quantized, on the inputs
    that were run, as far as a Relu or Clip behind it lets it through. clipped_low, clipped_high: share of its values
    that the range cuts off beyond either end, by more than half a step, and beyond what that Relu or Clip removes.
    read_by: the layers that read it.
    """

    tensor: str
    low: float
    high: float
    least: float
    largest: float
    clipped_low: float
    clipped_high: float
    read_by: tuple[str, ...] = ()

    @property
    def clipped(self) -> float:
        return self.clipped_low + self.clipped_high

    @property
    def used(self) -> float:
        """Share of the range that values lie in."""
        width = self.high - self.low
        return max(min(self.largest, self.high) - max(self.least, self.low), 0.0) / width if width > 0 else 0.0


@dataclasses.dataclass(frozen=True)
class _Site:
    tensor: str
    low: float
    high: float
    step: float
    read_by: tuple[str, ...]
    passes: tuple[float, float] = (-np.inf, np.inf)  # what the Relus and Clips behind it let through


def activation_ranges(
    model: onnx.ModelProto,
    label: str,
    images: Images | Samples | ImageStream,
    float_model: onnx.ModelProto | None = None,
) -> tuple[ActivationRange, ...]:
    """Run a quantized file on a few of these inputs and look at what each QuantizeLinear is given, in graph order.

    float_model: where a Relu or Clip still stands that other tools fuse into a range. Empty where the file quantizes no
    activation, as one with weights alone quantized. Raises ModelError where it cannot be run.
    """
    fused = {} if float_model is None else _passed(float_model.graph)
    sites = tuple(dataclasses.replace(site, passes=fused.get(site.tensor, site.passes)) for site in _sites(model.graph))
    if not sites:
        return ()
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs = {value.name for value in watched.graph.output}
    fed = {value.name for value in watched.graph.input}
    wanted = [site.tensor for site in sites if site.tensor not in fed]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in outputs)
    session = Session(watched, label=label)
    seen = {site.tensor: _Seen() for site in sites}
    for feeds in itertools.islice(_feeds(session, images), RUNS_LOOKED_AT):
        found = dict(zip(wanted, session.run(feeds, wanted), strict=True)) if wanted else {}
        for site in sites:
            values = found.get(site.tensor, feeds.get(site.tensor))
            if values is not None and values.size:
                seen[site.tensor].add(values, site)
    return tuple(seen[site.tensor].result(site) for site in sites if seen[site.tensor].count)


def _sites(graph: onnx.GraphProto) -> Iterator[_Site]:
    """The tensors that are quantized with one scale, each once."""
    stored, read_by, known = initializers(graph), readers(graph.node), set[str]()
    for node in graph.node:
        if op_of(node, RUNTIME_DOMAINS) != "QuantizeLinear" or node.input[0] in known or node.input[0] in stored:
            continue
        if not all(name in stored for name in node.input[1:]):
            continue
        try:
            step, *zero = (numpy_helper.to_array(stored[name]) for name in node.input[1:])
        except ValueError:  # a damaged constant
            continue
        kind = zero[0].dtype if zero else np.dtype(np.uint8)
        if step.size != 1 or kind not in CODE_LIMITS:
            continue
        known.add(node.input[0])
        scale, at = float(step.reshape(-1)[0]), float(zero[0].reshape(-1)[0]) if zero else 0.0
        low, high = (scale * (end - at) for end in CODE_LIMITS[kind])
        yield _Site(node.input[0], low, high, scale, tuple(_layers_behind(node, read_by)))


def _passed(graph: onnx.GraphProto) -> dict[str, tuple[float, float]]:
    """What is let through of each tensor that nothing but Relus and Clips between constants read, or that one gives:
    a tool that fuses it leaves either name to what is in front of it."""
    stored, kept = initializers(graph), {value.name for value in graph.output}
    for node in graph.node:
        value = stored_value(node)
        if value is not None:
            stored[node.output[0]] = value
    found = {}
    for name, nodes in readers(graph.node).items():
        bounds = [_bounds(node, stored) for node in nodes]
        if name not in kept and (known := [pair for pair in bounds if pair is not None]) and len(known) == len(bounds):
            found[name] = min(low for low, _ in known), max(high for _, high in known)
    given = {node.output[0]: _bounds(node, stored) for node in graph.node if node.output}
    return found | {name: bounds for name, bounds in given.items() if bounds is not None}


def _bounds(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> tuple[float, float] | None:
    if op_of(node) == "Relu":
        return 0.0, np.inf
    if op_of(node) != "Clip":
        return None
    limits = {"min": -np.inf, "max": np.inf} | {a.name: a.f for a in node.attribute}  # attributes before opset 11
    for key, name in zip(("min", "max"), node.input[1:], strict=False):
        if not name:
            continue
        if name not in stored or len(stored[name].dims) > 1:
            return None
        limits[key] = float(numpy_helper.to_array(stored[name]).reshape(-1)[0])
    return limits["min"], limits["max"]


def _layers_behind(node: onnx.NodeProto, read_by: dict[str, list[onnx.NodeProto]]) -> Iterator[str]:
    for reader in read_by.get(node.output[0], []):
        for layer in read_by.get(reader.output[0], []) if op_of(reader, RUNTIME_DOMAINS) == "DequantizeLinear" else []:
            if op_of(layer) in WEIGHTED_OPERATORS:
                yield layer.name or layer.output[0]


def _feeds(session: Session, images: Images | Samples | ImageStream) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
    """One run after another, of one image each where the network takes any number."""
    for chunk in chunks_of(images):
        if isinstance(chunk, Images):
            for x in np.array_split(chunk.x, len(chunk.x)) if SessionInput.of(session).batch is None else [chunk.x]:
                yield from (feeds for feeds, _ in SessionInput.of(session).batches(x))
        else:
            for values in zip(*chunk.feeds.values(), strict=True):
                yield as_taken(session, dict(zip(chunk.feeds, values, strict=True)))


class _Seen:
    """What a tensor held."""

    def __init__(self) -> None:
        self.count = self._below = self._above = 0
        self._least, self._largest = np.inf, -np.inf

    def add(self, values: npt.NDArray[np.generic], site: _Site) -> None:
        numbers = values.astype(np.float32, copy=False)
        numbers = numbers[np.isfinite(numbers)]
        if not numbers.size:
            return
        numbers = np.clip(numbers, *site.passes) if np.isfinite(site.passes).any() else numbers
        self.count += numbers.size
        self._least = min(self._least, float(numbers.min()))
        self._largest = max(self._largest, float(numbers.max()))
        half = site.step / 2
        self._below += int((numbers < site.low - half).sum()) if self._least < site.low - half else 0
        self._above += int((numbers > site.high + half).sum()) if self._largest > site.high + half else 0

    def result(self, site: _Site) -> ActivationRange:
        shares = self._below / self.count, self._above / self.count
        return ActivationRange(site.tensor, site.low, site.high, self._least, self._largest, *shares, site.read_by)
