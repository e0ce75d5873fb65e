"""Operators of the standard domain that treat every value alike, in PyTorch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
import torch.nn.functional as F

from dfmpc_onnx.learning.calls import Call, Kernel, NotFollowed
from dfmpc_onnx.learning.torch_import import Tensor

TYPES: Mapping[int, Any] = {
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    # All floats are float32 here.
    onnx.TensorProto.FLOAT16: torch.float32,
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float32,
    onnx.TensorProto.BFLOAT16: torch.float32,
}


def _of_one(function: Callable[[Tensor], Tensor]) -> Kernel:
    return lambda call: function(call.x)


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    return lambda call: function(call.x, call.inputs[1])


def _of_all(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    """Sum, Max and Min take any number of inputs."""
    return lambda call: functools.reduce(function, call.inputs)


def _divide(call: Call) -> Tensor:
    a, b = call.inputs
    whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc" if whole else None)


def _clip(call: Call) -> Tensor:
    low, high = call.number("min", 1, -math.inf), call.number("max", 2, math.inf)
    # The gradient of hardtanh takes one pass, that of clamp several.
    if call.x.is_floating_point() and low < high:
        return F.hardtanh(call.x, low, high)
    return torch.clamp(call.x, low, high)


def _gelu(call: Call) -> Tensor:
    form = call.attr("approximate", "none")
    return F.gelu(call.x, approximate=form if form == "tanh" else "none")


def _hard_sigmoid(call: Call) -> Tensor:
    return torch.clamp(call.attr("alpha", 0.2) * call.x + call.attr("beta", 0.5), 0.0, 1.0)


def _thresholded(call: Call) -> Tensor:
    return torch.where(call.x > call.attr("alpha", 1.0), call.x, torch.zeros_like(call.x))


def _prelu(call: Call) -> Tensor:
    return torch.where(call.x < 0, call.inputs[1] * call.x, call.x)


def _cast(call: Call) -> Tensor:
    wanted = int(call.attr("to", 0))
    if wanted not in TYPES:
        raise NotFollowed(f"a cast to type {wanted}")
    return call.x.to(TYPES[wanted])


def _softmax(function: Callable[..., Tensor]) -> Kernel:
    """As from opset 13 on: along one axis."""
    return lambda call: function(call.x, dim=int(call.attr("axis", -1)))


def _selu(call: Call) -> Tensor:
    alpha, gamma = call.attr("alpha", 1.6732632), call.attr("gamma", 1.0507010)
    return gamma * torch.where(call.x > 0, call.x, alpha * torch.expm1(torch.clamp(call.x, max=0.0)))


ELEMENTWISE_KERNELS: Mapping[str, Kernel] = {
    "Add": _of_two(torch.add),
    "Sub": _of_two(torch.sub),
    "Mul": _of_two(torch.mul),
    "Div": _divide,
    "Pow": _of_two(torch.pow),
    "Sum": _of_all(torch.add),
    "Max": _of_all(torch.maximum),
    "Min": _of_all(torch.minimum),
    "Equal": _of_two(torch.eq),
    "Less": _of_two(torch.lt),
    "Greater": _of_two(torch.gt),
    "And": _of_two(torch.logical_and),
    "Not": _of_one(torch.logical_not),
    "Where": lambda call: torch.where(*call.inputs),
    "Identity": _of_one(lambda x: x),
    "Dropout": _of_one(lambda x: x),
    "Cast": _cast,
    "Neg": _of_one(torch.neg),
    "Abs": _of_one(torch.abs),
    "Exp": _of_one(torch.exp),
    "Log": _of_one(torch.log),
    "Sqrt": _of_one(torch.sqrt),
    "Reciprocal": _of_one(torch.reciprocal),
    "Floor": _of_one(torch.floor),
    "Ceil": _of_one(torch.ceil),
    "Erf": _of_one(torch.erf),
    "Sin": _of_one(torch.sin),
    "Cos": _of_one(torch.cos),
    "Relu": _of_one(torch.relu),
    "Clip": _clip,
    "LeakyRelu": lambda call: F.leaky_relu(call.x, call.attr("alpha", 0.01)),
    "PRelu": _prelu,
    "ThresholdedRelu": _thresholded,
    "Elu": lambda call: F.elu(call.x, call.attr("alpha", 1.0)),
    "Celu": lambda call: F.celu(call.x, call.attr("alpha", 1.0)),
    "Selu": _selu,
    "Gelu": _gelu,
    "Mish": _of_one(F.mish),
    "Sigmoid": _of_one(torch.sigmoid),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _of_one(F.hardswish),
    "Swish": lambda call: call.x * torch.sigmoid(call.attr("alpha", 1.0) * call.x),
    "Softplus": _of_one(F.softplus),
    "Softsign": _of_one(F.softsign),
    "Tanh": _of_one(torch.tanh),
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
}
