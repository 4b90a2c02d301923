"""How torch runs an operation: eagerly, compiled, traced or transformed."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def traced() -> bool:
    """Whether operators are written down now, for TorchScript, ONNX or torch.export."""
    # torch 2.6 has no is_exporting
    return torch.jit.is_tracing() or getattr(torch.compiler, 'is_exporting', bool)()


def by_operators() -> bool:
    """Whether others look inside: traces, ``torch.func`` and forward-mode derivatives.

    They need ordinary operators where an autograd function is faster.
    """
    return not torch.compiler.is_dynamo_compiling() and (traced() or _transformed())


def _transformed() -> bool:
    """Whether ``torch.func`` or forward-mode derivatives are at work."""
    functorch = torch._C._are_functorch_transforms_active()
    return functorch or forward_ad._current_level >= 0


def differentiated(x: Tensor) -> bool:
    """Whether derivatives of what is made of x will be asked for."""
    return _transformed() or (torch.is_grad_enabled() and x.requires_grad)


def differentiate(y: Tensor, inputs: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients with a graph of their own, for derivatives of derivatives."""
    return torch.autograd.grad(y, inputs, grad, create_graph=True)
