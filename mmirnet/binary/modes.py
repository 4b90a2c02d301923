"""Detects how torch runs an operation: eager, compiled, traced or transformed."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad


def traced() -> bool:
    """Whether operators are being traced for TorchScript, ONNX or torch.export."""
    # torch 2.6 has no is_exporting
    return torch.jit.is_tracing() or getattr(torch.compiler, 'is_exporting', bool)()


def by_operators() -> bool:
    """Whether ordinary operators are needed instead of a faster autograd function.

    They are needed by traces, ``torch.func`` and forward-mode derivatives.
    """
    if torch.compiler.is_dynamo_compiling():
        return torch._C._are_functorch_transforms_active()
    return traced() or _transformed()


def _transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation is active."""
    functorch = torch._C._are_functorch_transforms_active()
    return functorch or forward_ad._current_level >= 0


def in_graph(function: type[Function]) -> Callable[..., Tensor]:
    """Returns ``function.apply`` as one node of the graphs that Dynamo makes.

    Later stages of the compiler see its operations all the same. Dynamo would take
    four times as long for a network. In torch 2.11 it also makes gradients contiguous,
    which loses the channels-last format, and gives a result that was changed in place
    a gradient of zero.
    """

    def apply(*args) -> Tensor:
        return function.apply(*args)

    return torch.compiler.allow_in_graph(apply)


def differentiated(x: Tensor) -> bool:
    """Whether derivatives with respect to x may be computed."""
    return _transformed() or (torch.is_grad_enabled() and x.requires_grad)


def differentiate(y: Tensor, inputs: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Computes gradients with a graph, for higher derivatives."""
    return torch.autograd.grad(y, inputs, grad, create_graph=True)
