#!/usr/bin/env python3
"""Whether rounding that is learned block by block moves the network, and not the block alone.

    python -m tools.experiments.refine --count 256 --steps 600 > docs/tables/refine.md

A file of ternary and 6-bit weights is the start. A block is what lies between two tensors through which everything
passes. In each the ternary codes of its layers are learned (AdaRound, Nagel et al. 2020, within blocks as in BRECQ, Li
et al. 2021): each may move by one step towards the float weight, and a rectified sigmoid that is pushed to 0 or 1 says
whether it does. `network`: all layers at once, by the error of the network's output in place of those of the blocks.
`scales`: scale and bias of every channel by the network's output, and the codes stay.
Images are learned (zeroq). A block is kept only if the error of the network's output falls on procedural images that
nothing was learned on. Figures on real images are the last columns. Needs PyTorch (extra `learned`).
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs
import torch

import dfmpc_onnx
from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.inputs.files import read_images
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.learning.network import TorchNetwork
from dfmpc_onnx.model.source import load
from dfmpc_onnx.numerics.arrays import Float32
from tools.experiments.learned import side
from tools.experiments.measure import Network, networks

LEAST, MOST = -0.1, 1.1  # what the sigmoid is stretched to before it is cut to 0..1
HEADER = ("network", "learned", "kept", "error falls by", "held out dB", "real dB", "all kept: held out", "real", "s")
Images = torch.Tensor


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of ternary codes: what a code may become, and how far the float weight is on the way, 0..1."""

    weight: str
    codes: torch.Tensor
    towards: torch.Tensor
    share: torch.Tensor
    scale: torch.Tensor

    def start(self) -> torch.Tensor:
        """The logit of half of `share`: below a half, so that without learning every code is what it was."""
        inner = (0.5 * self.share.clamp(0.05, 0.95) - LEAST) / (MOST - LEAST)
        return torch.log(inner / (1 - inner)).requires_grad_(True)

    def values(self, moved: torch.Tensor) -> torch.Tensor:
        return self.scale * (self.codes + self.towards * moved)


def soft(logit: torch.Tensor) -> torch.Tensor:
    return torch.clamp(torch.sigmoid(logit) * (MOST - LEAST) + LEAST, 0, 1)


def decoded(model: object) -> gs.Graph:
    """The graph of a quantized model whose weights are constants of floats."""
    graph = to_graph(load(dfmpc_onnx.expand(model).model))
    for node in [node for node in graph.nodes if node.op == "DequantizeLinear"]:
        codes, scale = (tensor.values.astype(np.float32) for tensor in node.inputs[:2])
        axis = node.attrs.get("axis", 1)
        shape = [-1 if i == axis and scale.size > 1 else 1 for i in range(codes.ndim)]
        made = gs.Constant(node.outputs[0].name, codes * scale.reshape(shape))
        for reader in list(node.outputs[0].outputs):
            reader.inputs = [made if tensor is node.outputs[0] else tensor for tensor in reader.inputs]
        graph.nodes.remove(node)
    return graph


def ternary_layers(graph: gs.Graph, plain: gs.Graph) -> dict[str, Layer]:
    """By the name of its node. plain: the float graph, whose BatchNormalizations stand behind its Convs."""
    originals = {node.name: node for node in plain.nodes}
    found = {}
    for node in graph.nodes:
        if node.op != "Conv" or node.name not in originals:
            continue
        held = torch.from_numpy(node.inputs[1].values.copy())
        scale = held.flatten(1).abs().amax(dim=1).clamp_min(1e-12)[:, None, None, None]
        codes = torch.round(held / scale)
        if not torch.allclose(held, codes * scale, atol=1e-6):
            continue  # more than three levels
        wanted = torch.from_numpy(originals[node.name].inputs[1].values.copy())
        # In the unit of the codes: what fits them best, whatever a folded BatchNormalization has multiplied in.
        unit = (wanted * codes).flatten(1).sum(1) / codes.square().flatten(1).sum(1).clamp_min(1)
        off = wanted / unit[:, None, None, None] - codes
        towards = torch.sign(off)
        towards[(codes + towards).abs() > 1] = 0
        found[node.name] = Layer(node.inputs[1].name, codes, towards, off.abs().clamp(0, 1), scale)
    return found


def blocks(graph: gs.Graph) -> Iterator[tuple[str, str, list[gs.Node]]]:
    """What lies between tensors through which everything passes: the first, the last, and the nodes."""
    readers = {tensor.name: len(tensor.outputs) for node in graph.nodes for tensor in node.outputs}
    readers[graph.inputs[0].name] = len(graph.inputs[0].outputs)
    left, nodes, first = {graph.inputs[0].name: readers[graph.inputs[0].name]}, [], graph.inputs[0].name
    for node in graph.nodes:
        nodes.append(node)
        for tensor in node.inputs:
            if tensor.name in left:
                left[tensor.name] -= 1
                if not left[tensor.name]:
                    del left[tensor.name]
        left.update({tensor.name: readers[tensor.name] for tensor in node.outputs if readers[tensor.name]})
        if len(left) == 1 and any(n.op == "Conv" for n in nodes) and node.op != "Conv":
            yield first, next(iter(left)), nodes
            first, nodes = next(iter(left)), []


class Refiner:
    """The codes of one network, and what they are learned on."""

    def __init__(self, network: Network, images: Images, held_out: Images, steps: int, rate: float) -> None:
        made = dfmpc_onnx.quantize(
            str(network.model),
            weights="ternary/6",
            activations="none",
            preprocess=network.preprocess,
            check=False,
        )
        self.graph, plain = decoded(made.model), to_graph(load(str(network.model)))
        self.output = self.graph.outputs[0].name
        self.layers = ternary_layers(self.graph, plain)
        self.whole = TorchNetwork(self.graph, {self.output}, "cpu", "quantized")
        self.plain = TorchNetwork(plain, {self.output}, "cpu", "float")
        self.plain_graph = plain
        self.images, self.held_out, self.steps, self.rate = images, held_out, steps, rate
        self.weights: dict[str, torch.Tensor] = {}  # of layers that were moved
        self.keeps_all = False  # without asking whether the network gains

    def sqnr(self, x: Images) -> float:
        """Of the network's output, in dB."""
        with torch.no_grad():
            wanted, found = self.plain(x)[self.output], self.whole(x, self.weights)[self.output]
        return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))

    def learn(
        self, names: Sequence[str], part: TorchNetwork, x: Images, wanted: Images, target: str
    ) -> tuple[dict[str, torch.Tensor], float]:
        """The weights of some layers, and the share of the part's error that is gone."""
        logits = {name: self.layers[name].start() for name in names}
        adam = torch.optim.Adam(list(logits.values()), lr=self.rate)
        generator = torch.Generator().manual_seed(0)

        def weights(moved: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return self.weights | {self.layers[n].weight: self.layers[n].values(m) for n, m in moved.items()}

        def error(given: Mapping[str, torch.Tensor]) -> float:
            with torch.no_grad():
                return float((part(x, given)[target] - wanted).square().mean())

        before = error(self.weights)
        unit = float(wanted.square().mean())
        for step in range(self.steps):
            chosen = torch.randperm(len(x), generator=generator)[:32]
            moved = {name: soft(logit) for name, logit in logits.items()}
            loss = (part(x[chosen], weights(moved))[target] - wanted[chosen]).square().mean() / unit
            done = step / self.steps
            if done > 0.2:  # as AdaRound: free at first, then pushed to 0 or 1 ever harder
                power = 20 - 18 * (done - 0.2) / 0.8
                loss = loss + 0.01 * sum((1 - (2 * m - 1).abs() ** power).mean() for m in moved.values())
            adam.zero_grad()
            loss.backward()
            adam.step()
        found = weights({name: (soft(logit) >= 0.5).float() for name, logit in logits.items()})
        found = {name: value.detach() for name, value in found.items()}
        return found, 1 - error(found) / before

    def keep(self, found: Mapping[str, torch.Tensor]) -> bool:
        """Take weights if the network's error on images held out falls."""
        before, weights = self.sqnr(self.held_out), self.weights
        self.weights = dict(found)
        if self.keeps_all or self.sqnr(self.held_out) > before:
            return True
        self.weights = weights
        return False

    def by_blocks(self) -> tuple[int, int, list[float]]:
        """How many blocks were kept, of how many, and by what share the error of each fell."""
        tried, kept, falls = 0, 0, []
        for first, last, nodes in blocks(self.graph):
            names = [node.name for node in nodes if node.name in self.layers]
            if not names:
                continue
            entry = next(t for n in nodes for t in n.inputs if t.name == first)
            leaving = next(t for n in nodes for t in n.outputs if t.name == last)
            part = TorchNetwork(gs.Graph(nodes, [entry], [leaving]), {last}, "cpu", "block")
            with torch.no_grad():
                x = self.images
                if first != self.graph.inputs[0].name:
                    x = TorchNetwork(self.graph, {first}, "cpu", "quantized")(x, self.weights)[first]
                wanted = TorchNetwork(self.plain_graph, {last}, "cpu", "float")(self.images)[last]
            found, fall = self.learn(names, part, x, wanted, last)
            tried, kept = tried + 1, kept + self.keep(found)
            falls.append(fall)
        return kept, tried, falls

    def scales(self) -> tuple[int, int, list[float]]:
        """The scale and the bias of every channel by the network's output; the codes stay."""
        convs = [node for node in self.graph.nodes if node.op == "Conv" and len(node.inputs) > 2]
        held = {t.name: torch.from_numpy(t.values.copy()) for node in convs for t in node.inputs[1:3]}
        factor = {n.name: torch.zeros(len(held[n.inputs[1].name]), requires_grad=True) for n in convs}
        shift = {n.name: torch.zeros(len(held[n.inputs[1].name]), requires_grad=True) for n in convs}
        adam = torch.optim.Adam([*factor.values(), *shift.values()], lr=self.rate)
        generator = torch.Generator().manual_seed(0)

        def weights() -> dict[str, torch.Tensor]:
            found = {}
            for node in convs:
                kernel, bias = (held[t.name] for t in node.inputs[1:3])
                found[node.inputs[1].name] = kernel * torch.exp(factor[node.name]).reshape(
                    -1, *[1] * (kernel.dim() - 1)
                )
                found[node.inputs[2].name] = bias + shift[node.name] * bias.abs().mean()
            return found

        with torch.no_grad():
            wanted = self.plain(self.images)[self.output]
            before = float((self.whole(self.images)[self.output] - wanted).square().mean())
        for step in range(self.steps):
            adam.param_groups[0]["lr"] = self.rate * 0.5 * (1 + np.cos(np.pi * step / self.steps))
            chosen = torch.randperm(len(self.images), generator=generator)[:32]
            loss = (self.whole(self.images[chosen], weights())[self.output] - wanted[chosen]).square().mean() / before
            adam.zero_grad()
            loss.backward()
            adam.step()
        found = {name: value.detach() for name, value in weights().items()}
        with torch.no_grad():
            after = float((self.whole(self.images, found)[self.output] - wanted).square().mean())
        return int(self.keep(found)), 1, [1 - after / before]

    def at_once(self) -> tuple[int, int, list[float]]:
        """All layers by the network's output."""
        with torch.no_grad():
            wanted = self.plain(self.images)[self.output]
        found, fall = self.learn(list(self.layers), self.whole, self.images, wanted, self.output)
        return int(self.keep(found)), 1, [fall]


def learned(network: Network, count: int, steps: int, seed: int, rate: float = 0.05) -> Float32:
    """Images learned from a network."""
    return dfmpc_onnx.learn_images(
        str(network.model),
        count=count,
        steps=steps,
        learning_rate=rate,
        seed=seed,
        preprocess=network.preprocess,
        threads=1,
    ).x


def rows(network: Network, args: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """A line of the table for each way."""
    images = torch.from_numpy(learned(network, args.count, args.learning_steps, 0))
    held_out = torch.from_numpy(learned(network, 64, 1, 1, rate=1e-12))  # procedural ones
    pixels = read_images(network.images, (1, 3, *side(network)), Preprocess.parse(network.preprocess))
    real = torch.from_numpy(pixels.x[: args.images])
    for way in args.way or WAYS:
        found, kept = [], []
        for keeps_all in (False, True):
            refiner, began = Refiner(network, images, held_out, args.steps, args.rate), time.perf_counter()
            refiner.keeps_all = keeps_all
            taken, tried, falls = WAYS[way](refiner)
            kept.append(taken)
            found.append((f"{refiner.sqnr(held_out):.2f}", f"{refiner.sqnr(real):.2f}"))
            if not tried:
                found *= 2
                break
        seconds = f"{time.perf_counter() - began:.0f}" if tried else "-"
        fall = f"{100 * np.mean(falls):.0f} %" if falls else "-"
        yield network.label, way, f"{kept[0]} of {tried}" if tried else "-", fall, *found[0], *found[1], seconds


WAYS = {
    "nothing": lambda refiner: (0, 0, []),
    "blocks": Refiner.by_blocks,
    "network": Refiner.at_once,
    "scales": Refiner.scales,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(networks()), help="a network; may be repeated")
    parser.add_argument("--way", action="append", choices=list(WAYS), help="may be repeated")
    parser.add_argument("--count", type=int, default=256, help="learned images")
    parser.add_argument("--learning-steps", type=int, default=60, help="of the images")
    parser.add_argument("--steps", type=int, default=600, help="of each block, and of the network")
    parser.add_argument("--rate", type=float, default=0.005, help="of Adam")
    parser.add_argument("--images", type=int, default=500, help="real ones to measure on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for name in args.only or ("resnet20",):
        for row in rows(networks()[name], args):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
