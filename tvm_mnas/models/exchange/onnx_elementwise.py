"""ONNX's elementwise operators as torch's."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvm_mnas.models.exchange.building import UnsupportedError, Value
from tvm_mnas.models.exchange.onnx_call import Call


def unary(function: Callable[..., Tensor]) -> Callable[[Call], Value]:
    """Return an operator of one input."""
    return lambda call: call.graph.function(function, call.input(0))


def binary(function: Callable[..., Tensor]) -> Callable[[Call], Value]:
    """Return an operator of two inputs, which are broadcast."""

    def apply(call: Call) -> Value:
        if "axis" in call.attributes:
            raise UnsupportedError("broadcasting from an axis on, of opset 6 and before")
        return call.graph.function(function, call.input(0), call.input(1))

    return apply


def several(function: Callable[..., Tensor]) -> Callable[[Call], Value]:
    """Return an operator of any number of inputs, taken in pairs."""

    def apply(call: Call) -> Value:
        values = [value for value in call.inputs if value is not None]
        return functools.reduce(lambda a, b: call.graph.function(function, a, b), values)

    return apply


def average(call: Call) -> Value:
    """Mean of several inputs."""
    return call.graph.function(operator.truediv, several(operator.add)(call), len(call.inputs))


def layer(make: Callable[[], nn.Module]) -> Callable[[Call], Value]:
    """Return an operator of one input that is a module, which fuses best."""
    return lambda call: call.graph.module(make(), call.input(0))


def clip(call: Call) -> Value:
    """Clip: a rectifier where its bounds are those of one."""
    low, high = (call.setting(name, index) for name, index in (("min", 1), ("max", 2)))
    bounds = (None if low is None else float(low[0]), None if high is None else float(high[0]))
    if bounds == (0.0, 6.0):
        return call.graph.module(nn.ReLU6(), call.input(0))
    if bounds == (0.0, None):
        return call.graph.module(nn.ReLU(), call.input(0))
    if bounds == (None, None):
        return call.input(0)
    return call.graph.function(torch.clamp, call.input(0), *bounds)


def leaky(call: Call) -> Value:
    """LeakyRelu."""
    return call.graph.function(F.leaky_relu, call.input(0), call.number("alpha", 0.01))


def parametric(call: Call) -> Value:
    """PRelu with constant slopes."""
    slopes = Value(call.constant(1))
    rest = call.graph.function(torch.clamp, call.input(0), None, 0.0)
    return call.graph.function(
        operator.add,
        call.graph.module(nn.ReLU(), call.input(0)),
        call.graph.function(operator.mul, rest, slopes),
    )


def exponential(call: Call) -> Value:
    """Elu."""
    return call.graph.function(F.elu, call.input(0), call.number("alpha", 1.0))


def gelu(call: Call) -> Value:
    """Gelu."""
    return call.graph.function(F.gelu, call.input(0))


def hard_sigmoid(call: Call) -> Value:
    """HardSigmoid."""
    alpha, beta = call.number("alpha", 0.2), call.number("beta", 0.5)
    scaled = call.graph.function(operator.mul, call.input(0), alpha)
    return call.graph.function(
        torch.clamp, call.graph.function(operator.add, scaled, beta), 0.0, 1.0
    )


def hard_swish(call: Call) -> Value:
    """HardSwish."""
    return call.graph.module(nn.Hardswish(), call.input(0))


def chosen(call: Call) -> Value:
    """Where."""
    return call.graph.function(torch.where, call.input(0), call.input(1), call.input(2))


def same(call: Call) -> Value:
    """Identity, and Dropout in inference."""
    return call.input(0)


def power(call: Call) -> Value:
    """Pow; a square is a product."""
    exponent = call.optional(1)
    if exponent is not None and exponent.constant and exponent.example.numel() == 1:
        number: Any = float(exponent.example)
        if number == 2.0:
            return call.graph.function(operator.mul, call.input(0), call.input(0))
        return call.graph.function(torch.pow, call.input(0), number)
    return call.graph.function(torch.pow, call.input(0), call.input(1))
