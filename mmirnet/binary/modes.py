"""Detects how torch runs an operation: eager, compiled, traced or transformed."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def traced() -> bool:
    """Whether operators are being traced for TorchScript, ONNX or torch.export."""
    # torch 2.6 has no is_exporting
    return torch.jit.is_tracing() or getattr(torch.compiler, 'is_exporting', bool)()


def by_operators() -> bool:
    """Whether ordinary operators are needed instead of a faster autograd function.

    They are needed by traces, ``torch.func`` and forward-mode derivatives.
    """
    return not torch.compiler.is_dynamo_compiling() and (traced() or _transformed())


def _transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation is active."""
    functorch = torch._C._are_functorch_transforms_active()
    return functorch or forward_ad._current_level >= 0


def result(y: Tensor) -> Tensor:
    """Returns what the forward pass of an autograd function may return.

    If torch 2.11 compiles a function, a result that was changed in place gets a
    gradient of zero. The compiled code does not copy.
    """
    return y.clone() if torch.compiler.is_dynamo_compiling() else y


def differentiated(x: Tensor) -> bool:
    """Whether derivatives with respect to x may be computed."""
    return _transformed() or (torch.is_grad_enabled() and x.requires_grad)


def differentiate(y: Tensor, inputs: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Computes gradients with a graph, for higher derivatives."""
    return torch.autograd.grad(y, inputs, grad, create_graph=True)
