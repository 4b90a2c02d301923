"""A literal transcription of IR-Net's formulas, operation by operation.

The tests compare the results of the fast quantisers of :mod:`mmirnet.binary` with it,
and the benchmarks compare their time and memory. Autograd decides which tensors it
saves; the only custom derivative is that of the paper.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EDESign(torch.autograd.Function):
    """Sign, with EDE's derivative k t (1 - tanh(t x)^2)."""

    @staticmethod
    def forward(ctx, x, t, k):
        """Computes the sign of x, with sign(0) = +1."""
        ctx.save_for_backward(x, t, k)
        out = torch.sign(x)
        return torch.where(out == 0, torch.ones_like(out), out)

    @staticmethod
    def backward(ctx, grad):
        """Computes EDE's gradient, eq. 10."""
        x, t, k = ctx.saved_tensors
        return k * t * (1 - torch.pow(torch.tanh(x * t), 2)) * grad, None, None


def libra_pb(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the balanced, standardised weight and its power-of-two scale."""
    shape = (-1, *[1] * (weight.dim() - 1))
    flat = weight.reshape(weight.shape[0], -1)
    w = weight - flat.mean(-1).reshape(shape)
    w = w / w.reshape(w.shape[0], -1).std(-1).reshape(shape)
    mean_abs = w.reshape(w.shape[0], -1).abs().mean(-1)
    s = torch.pow(2.0, (torch.log(mean_abs) / torch.log(torch.tensor(2.0))).round())
    return w, s.reshape(shape).detach()


class ReferenceConv2d(nn.Conv2d):
    """The binary convolution, operation by operation."""

    def __init__(self, *args, binarize_input: bool = True, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.binarize_input = binarize_input
        self.register_buffer('t', torch.tensor(0.1), persistent=False)
        self.register_buffer('k', torch.tensor(10.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolves sign(x) with s * sign(w)."""
        w, s = libra_pb(self.weight)
        w = EDESign.apply(w, self.t, self.k) * s
        if self.binarize_input:
            x = EDESign.apply(x, self.t, self.k)
        return F.conv2d(
            x, w, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
