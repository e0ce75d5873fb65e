"""What stands between inputs and first layers, as linear functions: held against a run of the same nodes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from dfmpc_onnx.model.linear_head import Head, linear_head
from dfmpc_onnx.model.linear_maps import Filters
from dfmpc_onnx.runtime.session import Session


def parsed(body: str, outputs: int, shape: str = "n, 2, 9, 9", weights: str = "") -> onnx.ModelProto:
    """A body that ends in `y`, of so many channels, which a BatchNormalization reads."""
    ones, zeros = ", ".join(["1"] * outputs), ", ".join(["0"] * outputs)
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 13]> net (float[{shape}] x) => (float z)
        <float[{outputs}] g = {{{ones}}}, float[{outputs}] b = {{{zeros}}}, float[{outputs}] m = {{{zeros}}},
         float[{outputs}] v = {{{ones}}} {"," if weights else ""} {weights}>
        {{ {body} z = BatchNormalization<epsilon = 1e-9>(y, g, b, m, v) }}"""
    )


def head_of(model: onnx.ModelProto, *shape: int) -> Head:
    return linear_head(model, {"x": shape})


def applied(filters: Filters, x: np.ndarray) -> np.ndarray:
    """Filters where all of their taps lie on the map: a slow loop."""
    (part,) = filters.parts.values()
    kernel = part.weight.shape[2:]
    size = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], kernel, part.spacing, strict=True)]
    y = np.empty((len(x), len(part.weight), *size))
    for at in np.ndindex(*size):
        window = tuple(slice(i * s, i * s + k) for i, s, k in zip(at, part.spacing, kernel, strict=True))
        patch = x[(slice(None), slice(None), *window)].reshape(len(x), -1)
        y[(slice(None), slice(None), *at)] = patch @ part.weight.reshape(len(part.weight), -1).T + filters.offset
    return y


NUMBERS = ", ".join(str(round(v, 2)) for v in np.random.default_rng(0).standard_normal(36))


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv(x, w)",
        "y = Conv<strides = [2, 2], dilations = [2, 2]>(x, w)",
        "a = Sub(x, half) c = Div(a, std) y = Conv(c, w, bias)",
        "a = Conv(x, w) y = Conv<strides = [2, 2]>(a, next)",
        "a = Conv<strides = [2, 2]>(x, w) c = Mul(a, std) y = Conv(c, next, bias)",
        "a = Gather<axis = 1>(x, turned) y = Conv(a, w)",
        "a = Transpose<perm = [0, 2, 3, 1]>(x) c = Mul(a, last) d = Transpose<perm = [0, 3, 1, 2]>(c) y = Conv(d, w)",
        "a = Conv(x, w) c = Conv(x, next) y = Sub(a, c)",
        "a = Identity(x) c = Add(half, a) d = Sub(half, c) y = Conv<group = 2>(d, single)",
    ],
)
def test_linear_nodes_are_filters(body: str) -> None:
    weights = f"""float[2, 2, 3, 3] w = {{{NUMBERS}}}, float[2, 2, 3, 3] next = {{{NUMBERS}}},
        float[2] bias = {{0.5, -2}}, float half = {{0.5}}, float[2, 1, 1] std = {{2, 0.25}}, float[2] last = {{3, -1}},
        int64[2] turned = {{1, 0}}, float[2, 1, 2, 2] single = {{1, 2, 3, 4, 5, 6, 7, 8}}"""
    model = parsed(body, 2, weights=weights)
    ((_, filters),) = head_of(model, 1, 2, 9, 9).norms
    x = np.random.default_rng(1).standard_normal((3, 2, 9, 9)).astype(np.float32)
    np.testing.assert_allclose(applied(filters, x), Session(model).run({"x": x})[0], rtol=1e-3, atol=1e-4)


def test_a_padded_conv_knows_which_outputs_see_the_edge() -> None:
    model = parsed("y = Conv<pads = [1, 1, 1, 1]>(x, w)", 2, weights=f"float[2, 2, 3, 3] w = {{{NUMBERS}}}")
    ((_, filters),) = head_of(model, 1, 2, 9, 9).norms
    (part,) = filters.parts.values()
    assert len(part.places) == 9 and sum(share for share, _ in part.places) == pytest.approx(1)
    x = np.ones((1, 2, 9, 9), np.float32)
    mean = sum(share * (part.weight * mask).sum(axis=(1, 2, 3)) for share, mask in part.places)
    np.testing.assert_allclose(mean, Session(model).run({"x": x})[0].mean(axis=(0, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(
    "body",
    [
        "a = Relu(x) y = Conv(a, w)",
        "a = Mul(x, x) y = Conv(a, w)",
        "a = Div(half, x) y = Conv(a, w)",
        "y = Conv(x, computed)",
    ],
)
def test_what_is_not_linear_is_not_followed(body: str) -> None:
    made = "computed = Mul(w, x)" if "computed" in body else ""
    model = parsed(f"{made} {body}", 2, weights=f"float[2, 2, 3, 3] w = {{{NUMBERS}}}, float half = {{0.5}}")
    assert head_of(model, 1, 2, 9, 9).norms == ()


def test_arithmetic_is_told_where_a_layer_reads_it() -> None:
    body = "a = Mul(x, k) c = Sub(a, mean) d = Relu(c) y = Conv(d, w)"
    weights = f"float[2, 2, 3, 3] w = {{{NUMBERS}}}, float k = {{0.5}}, float[1, 2, 1, 1] mean = {{1, 2}}"
    (end,) = head_of(parsed(body, 2, weights=weights), 1, 2, 9, 9).ends["x"]
    factor, offset = end.along(1)
    assert factor.tolist() == [0.5] and offset.tolist() == [-1, -2]
