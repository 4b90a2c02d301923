"""The recipes as their formulas say it, in float64, with torch's own gradients.

Each returns the binary weight or the binary input. ``step(z, derivative)`` is the sign
with another derivative, the only part that autograd does not know.
"""

import math
from types import SimpleNamespace

import torch


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, derivative):
        ctx.save_for_backward(derivative)
        return torch.where(z >= 0, 1.0, -1.0).to(z.dtype)

    @staticmethod
    def backward(ctx, grad):
        (derivative,) = ctx.saved_tensors
        return grad * derivative, None


class _Whole(torch.autograd.Function):
    """A value whose gradient passes to w with a factor, whatever the value is."""

    @staticmethod
    def forward(ctx, w, value, factor):
        ctx.save_for_backward(factor)
        return value

    @staticmethod
    def backward(ctx, grad):
        (factor,) = ctx.saved_tensors
        return grad * factor, None, None


def straight(z):
    return torch.ones_like(z)


def clipped(z):
    return (z.abs() <= 1).to(z.dtype)


def approx(z):
    return (2 - 2 * z.abs()).clamp(min=0)


def ede(z, t, k):
    return k * t * (1 - torch.tanh(t * z) ** 2)


def power(z, o):
    size = z.abs()
    middle = size ** ((1 - o) / o) / o
    line = torch.full_like(z, 0.1 ** ((1 - o) / o))
    inner = torch.where(size <= 0.1, line, middle)
    return torch.where(size <= 1.5, inner, torch.zeros_like(z))


def step(z, derivative):
    return _Step.apply(z, derivative.detach())


def filters(w):
    """Mean, unbiased variance and population deviation of each filter."""
    rows = w.flatten(1)
    shape = [-1] + [1] * (w.dim() - 1)
    return SimpleNamespace(
        mean=rows.mean(1).view(shape),
        var=rows.var(1).view(shape),
        deviation=rows.var(1, correction=0).sqrt().view(shape),
        size=rows.abs().mean(1).view(shape),
    )


def _signs(w):
    return torch.where(w >= 0, 1.0, -1.0).to(w.dtype)


def _bihalf(w, p):
    value = torch.empty_like(w)
    for filter, to in zip(w.detach().flatten(1), value.flatten(1), strict=True):
        to[:] = 1
        order = sorted(range(len(filter)), key=lambda i: filter[i].item())
        to[order[: len(filter) // 2]] = -1
    return _Whole.apply(w, value, torch.ones_like(w))


def _recu(w, p):
    f = filters(w)
    u = 2 * math.sqrt(2) * (w - f.mean) / torch.sqrt(f.var + 1e-5)
    bound = (-u.abs().mean() * math.log(2 - 2 * p.tau)).detach().item()
    return step(u.clamp(-bound, bound), torch.ones_like(u)) * p.alpha


def _adabin(w, p):
    f = filters(w)
    z = (w - f.mean) / f.deviation
    return f.mean + f.deviation * step(z, ede(z, p.t, p.k))


def _ovsw(w, p):
    f = filters(w)
    scale = ((w - f.mean) / torch.sqrt(f.var + 1e-5)).abs().flatten(1).mean(1)
    return step(w, straight(w)) * scale.detach().view_as(f.mean)


def _biper(w, p):
    z = torch.sin(p.omega * w)
    return step(z, straight(z)) * p.alpha


WEIGHTS = {
    'BNN': lambda w, p: step(w, clipped(w)),
    'DoReFa': lambda w, p: _Whole.apply(
        w, (_signs(w) * w.abs().mean()).detach(), straight(w)
    ),
    'XNOR': lambda w, p: step(w, clipped(w)) * filters(w).size,
    'BiReal': lambda w, p: _Whole.apply(
        w, (_signs(w) * filters(w).size).detach(), clipped(w)
    ),
    'BiHalf': _bihalf,
    'ReSTE': lambda w, p: step(w, power(w, p.o)) * w.abs().mean(),
    'ReCU': _recu,
    'AdaBin': _adabin,
    'OvSW': _ovsw,
    'BiPer': _biper,
}
WEIGHTS['ReAct'] = WEIGHTS['BiReal']


def _divided(x, detached=False):
    rows = x.flatten(1)
    deviation = torch.sqrt(rows.var(1) + 1e-5).view(-1, 1, 1, 1)
    z = x / (deviation.detach() if detached else deviation)
    return step(z, approx(z))


def _shifted(x, p):
    z = x + p.shift.view(1, -1, 1, 1)
    return step(z, approx(z))


def _affine(x, p):
    z = (x - p.beta_a) / p.alpha_a
    return p.alpha_a * (step(z, approx(z)) + p.beta_a)


INPUTS = {
    'BNN': lambda x, p: step(x, clipped(x)),
    'DoReFa': lambda x, p: step(x, clipped(x)),
    'XNOR': lambda x, p: step(x, clipped(x)),
    'BiReal': lambda x, p: step(x, approx(x)),
    'BiHalf': lambda x, p: step(x, clipped(x)),
    'ReSTE': lambda x, p: step(x, power(x, p.o)),
    'ReCU': lambda x, p: _divided(x),
    'AdaBin': _affine,
    'ReAct': _shifted,
    'OvSW': lambda x, p: _divided(x, detached=True),
    'BiPer': lambda x, p: _divided(x),
}
#: Numbers that move with training: buffer of two, and names in the formulas.
MOVING = {
    'ReSTE': [dict(o=1.0), dict(o=1.7), dict(o=3.0)],
    'ReCU': [dict(tau=0.85), dict(tau=0.95), dict(tau=0.99)],
    'AdaBin': [dict(t=1e-3, k=1e3), dict(t=1.0, k=1.0), dict(t=10.0, k=1.0)],
    'BiPer': [dict(omega=20.0)],
}
RECIPES = list(INPUTS)
SMALLEST = {'ReCU': 2, 'AdaBin': 2, 'OvSW': 2}


def parameters(layer, moving):
    """What the formulas need of a layer: its learned numbers, and the moving ones."""
    learned = dict(layer.named_parameters())
    if 'alpha' in learned:
        ones = [1] * (layer.weight.dim() - 1)
        learned['alpha'] = learned['alpha'].view(-1, *ones)
    return SimpleNamespace(**learned, **moving)
