"""Sums and products of values, parameters and numbers."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calls import function, is_number


@function(torch.add, Tensor.add, Tensor.add_, Tensor.__radd__)
def _add(call, input, other, *, alpha=1) -> str:
    # x + alpha * y rounds once, a scale and a sum twice.
    if not is_number(alpha) or not _power_of_two(alpha):
        call.refuse(f'alpha={alpha!r} is no power of two')
    return _sum(call, input, other, alpha)


@function(torch.sub, Tensor.sub, Tensor.sub_, torch.subtract, Tensor.subtract)
def _sub(call, input, other, *, alpha=1) -> str:
    if is_number(alpha):
        return _add(call, input, other, alpha=-alpha)
    call.refuse(f'alpha={alpha!r}')


@function(Tensor.__rsub__)
def _rsub(call, input, other) -> str:
    """Records other - input; the sign is exact, so one rounding is left."""
    if not is_number(other):
        call.refuse('its operands are no value and number')
    return _affine(call, input, -1, other)


@function(torch.mul, Tensor.mul, Tensor.mul_, torch.multiply, Tensor.multiply)
def _mul(call, input, other) -> str:
    if (pair := _by_parameter(call, input, other)) is not None:
        return _affine_by(call, *pair, np.float32(0))
    value, factor = (input, other) if is_number(other) else (other, input)
    if not is_number(factor):
        call.refuse('a product of two tensors, none of them a parameter of the model')
    return _affine(call, value, factor, 0)


@function(torch.div, Tensor.div, Tensor.div_, torch.true_divide)
def _div(call, input, other, *, rounding_mode=None) -> str:
    if rounding_mode is not None or not is_number(other) or not _power_of_two(other):
        call.refuse('only divisions by a power of two; multiply by the reciprocal')
    return _affine(call, input, 1 / other, 0)


@function(torch.neg, Tensor.neg, Tensor.neg_)
def _neg(call, input) -> str:
    return _affine(call, input, -1, 0)


def _sum(call, a: Any, b: Any, sign: float = 1) -> str:
    """Records a + sign * b of values, parameters and numbers."""
    recorder = call.recorder
    if (pair := _by_parameter(call, a, b)) is not None:
        value, offset = pair
        factor = np.float32(1)
        if value is a:
            offset = np.float32(sign) * offset
        else:
            factor = np.float32(sign)
        return _affine_by(call, value, factor, offset)
    if is_number(b):
        return _affine(call, a, 1, sign * b)
    if is_number(a):
        return _affine(call, b, sign, a)
    first, second = recorder.name(a, call), recorder.name(b, call)
    if a.shape != b.shape:
        call.refuse(
            f'tensors of shapes {tuple(a.shape)} and {tuple(b.shape)} are broadcast'
        )
    if sign != 1:
        second = _affine(call, b, sign, 0)
    if recorder.shapes[first] != recorder.shapes[second]:
        first, second = recorder.vector(first), recorder.vector(second)
    return recorder.emit('add', [first, second])


def _affine(call, value: Any, factor: float, offset: float) -> str:
    recorder = call.recorder
    name = recorder.name(value, call)
    if factor == 1 and offset == 0:
        return name
    attributes = dict(factor=float(factor), offset=float(offset))
    return recorder.emit('scale', [name], attributes)


def _affine_by(call, value: Any, factor: np.ndarray, offset: np.ndarray) -> str:
    """Records factor * value + offset with arrays of one number, or one a channel."""
    recorder = call.recorder
    name = recorder.name(value, call)
    if value.dim() == 2:
        name = recorder.vector(name)
    channels = recorder.shapes[name][0]
    spread = [np.broadcast_to(np.float32(v), channels) for v in (factor, offset)]
    return recorder.emit('affine', [name], {}, dict(affine=np.stack(spread)))


def _by_parameter(call, a: Any, b: Any) -> tuple[Any, np.ndarray] | None:
    """Returns the value and the parameter of a pair, the latter as an array.

    None if the pair is not of a value and a parameter.
    """
    recorder = call.recorder
    for value, other in ((a, b), (b, a)):
        if not isinstance(value, Tensor) or value not in recorder.values:
            continue
        if isinstance(other, Tensor) and id(other) in recorder.parameters:
            shape = (1,) * (value.dim() - other.dim()) + tuple(other.shape)
            if len(shape) != value.dim() or shape not in (
                (1,) * value.dim(),
                (1, value.shape[1], *[1] * (value.dim() - 2)),
            ):
                call.refuse(
                    f'a parameter of shape {tuple(other.shape)} is no number for each '
                    f'channel of {tuple(value.shape)}'
                )
            return value, recorder.array(other, 'operand', call).ravel()
    return None


def _power_of_two(value: float) -> bool:
    return value != 0 and abs(np.frexp(value)[0]) == 0.5
