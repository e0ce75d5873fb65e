"""What a random network is grown with: names, constants, inputs, and the tensors that may be read."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = (9, 10, 11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 19, 20, 21, 21, 22, 23, 25)
Shape = tuple[int, ...]


class Drawing:
    """Grows a graph node by node; `live` holds the tensors that may be read, each with its shape, batch first."""

    def __init__(self, rng: random.Random, spoiled: bool) -> None:
        self.rng, self.spoiled = rng, spoiled
        self.values = np.random.default_rng(rng.randrange(2**32))
        self.opset = rng.choice(OPSETS)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.live: list[tuple[str, Shape]] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.domains: set[str] = set()
        self.ordinary, self.count = True, 0
        self.given: list[str] = []

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def add(self, op: str, inputs: list[str], shape: Shape, outputs: int = 1, domain: str = "", **attrs: object) -> str:
        names = [self.name(op.lower()) for _ in range(outputs)]
        label = "" if self.chance(0.05) else names[0]
        self.nodes.append(helper.make_node(op, inputs, names, name=label, domain=domain, **attrs))
        self.live.append((names[0], shape))
        if domain:
            self.domains.add(domain)
        return names[0]

    def number(self, values: np.ndarray, stem: str = "k") -> str:
        """A constant that is no weight: shapes, limits, scales."""
        name = self.name(stem)
        if self.chance(0.2):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values)))
        else:
            self.weights[name] = values
        return name

    def weight(self, shape: Shape, fan: int) -> str:
        """A constant of float32, perhaps absurd, behind whatever exporters put in front of one."""
        values = (self.values.standard_normal(shape) / np.sqrt(max(fan, 1))).astype(np.float32)
        if self.spoiled and self.chance(0.1):
            values = self.absurd(values)
        same = [n for n, v in self.weights.items() if v.shape == values.shape and v.dtype == np.float32]
        if same and self.chance(0.1):
            return self.rng.choice(same)
        name, form = self.name("w"), self.rng.random()
        if form < 0.80:
            self.weights[name] = values
        elif form < 0.88:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values)))
        elif form < 0.94:
            self.weights[f"{name}_source"] = values
            self.nodes.append(helper.make_node("Identity", [f"{name}_source"], [name]))
        else:
            with np.errstate(over="ignore"):
                self.weights[f"{name}_half"] = values.astype(np.float16)
            self.nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
        return name

    def absurd(self, values: np.ndarray) -> np.ndarray:
        self.ordinary = False
        kind, flat = self.rng.randrange(14), values.reshape(-1)
        some = self.values.random(flat.size) < 0.2
        with np.errstate(all="ignore"):
            if kind < 8:
                factors = (0.0, 1e-45, 1e-38, 1e-20, 1e9, 1e18, 1e30, 1e38)
                return (values * np.float32(factors[kind])).astype(np.float32)
            if kind == 8 and values.ndim and values.shape[0]:
                values = values.copy()
                values[0] = 0
                return values
            if kind == 9:
                return np.full_like(values, self.rng.choice([0.0, 1.0, -1.0, 3.4e38]))
            if kind == 10:
                flat[some] = self.rng.choice([np.nan, np.inf, -np.inf])
            elif kind == 11:
                flat[some] *= np.float32(1e6)
            elif kind == 12:
                flat[:] = np.float32(-0.0)
            elif values.ndim:
                cut = list(values.shape)
                cut[self.rng.randrange(len(cut))] = 0
                return np.zeros(cut, np.float32)
        return values

    def input(self, rank: int) -> None:
        side = [self.rng.choice([1, 2, 4, 5, 6, 7, 8, 9]) for _ in range(rank - 2)]
        shape = (self.rng.choice([1, 1, 1, 2]), self.rng.choice([1, 2, 3, 3, 4, 8]), *side)
        name = self.name("x")
        stated: list[int | str | None] = list(shape)
        if self.chance(0.3):
            stated[0] = self.rng.choice(["N", "batch size", None])
        if rank > 2 and self.chance(0.1):
            stated[-1] = "W"
            self.given.append(f"{name}:{'x'.join(map(str, shape))}")
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, stated))
        self.live.append((name, shape))

    def pick(self, fits: Callable[[Shape], bool]) -> tuple[str, Shape] | None:
        """One of the youngest live tensors that fit."""
        found = [item for item in self.live if fits(item[1])]
        if not found:
            return None
        return found[-1] if self.chance(0.75) else self.rng.choice(found[-4:])
