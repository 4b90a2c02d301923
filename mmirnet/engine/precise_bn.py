"""Batch norms without statistics, folded into a slope and an offset.

For each BatchNorm, a packed file stores only what evaluation needs: y = slope * x +
offset. Training also needs mean and variance, as it normalises with those of the batch.
"""

from collections.abc import Iterable

import torch
from mmengine.dist import all_reduce
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: With torch's eps of 1e-5 the standard deviation is exactly 1. No other batch norm has
#: this variance in all channels, so it marks a folded one.
FOLDED_VARIANCE = torch.tensor(1 - 1e-5)


def fold(affine: Tensor) -> dict[str, Tensor]:
    """Creates a batch norm's state that evaluates to a slope and an offset exactly.

    Args:
        affine (Tensor): (2, channels), float32: slopes and offsets.

    Returns:
        dict[str, Tensor]: State dict of an ``nn.BatchNorm`` with torch's eps.

    Example:
        >>> bn = nn.BatchNorm1d(1).eval()
        >>> _ = bn.load_state_dict(fold(torch.tensor([[0.5], [2.0]])))
        >>> bn(torch.tensor([[4.0]])).item()
        4.0
    """
    slope, offset = affine
    return {
        'weight': slope.clone(),
        'bias': offset.clone(),
        'running_mean': torch.zeros_like(offset),
        'running_var': FOLDED_VARIANCE.repeat(len(offset)),
        'num_batches_tracked': torch.tensor(0),
    }


def folded(model: nn.Module) -> list[_BatchNorm]:
    """Returns the batch norms of a model whose state :func:`fold` created."""
    return [
        m
        for m in model.modules()
        if isinstance(m, _BatchNorm)
        and m.track_running_stats
        and bool((m.running_mean == 0).all())
        and bool((m.running_var == FOLDED_VARIANCE.to(m.running_var)).all())
    ]


@torch.no_grad()
def unfold(model: BaseModel, batches: Iterable[dict]) -> None:
    """Restores the statistics of folded batch norms without changing their output.

    The function measures mean and variance of each batch norm's input in evaluation
    mode, and adapts weight and bias so that slope and offset stay the same, up to
    rounding. In a distributed run, all ranks have to call it.

    Args:
        model (BaseModel): The model, not wrapped.
        batches (Iterable[dict]): Batches of a data loader, as for ``val_step``.
    """
    norms = folded(model)
    for bn in norms:
        bn.running_var.fill_(1 - bn.eps)  # which need not be torch's
    moments = {bn: [] for bn in norms}

    def measure(bn: _BatchNorm, inputs: tuple[Tensor]) -> None:
        x = inputs[0].detach().float()
        dims = [d for d in range(x.dim()) if d != 1]
        moments[bn].append(torch.stack([x.mean(dims), x.square().mean(dims)]))

    handles = [bn.register_forward_pre_hook(measure) for bn in norms]
    training = model.training
    model.eval()
    # A compiled graph would keep the hooks.
    with torch.compiler.set_stance('force_eager'):
        for batch in batches:
            model.val_step(batch)
    model.train(training)
    for handle in handles:
        handle.remove()
    for bn, values in moments.items():
        mean, square = torch.stack(values).mean(0)
        _set_statistics(bn, mean, square)


def _set_statistics(bn: _BatchNorm, mean: Tensor, square: Tensor) -> None:
    all_reduce(mean, 'mean')
    all_reduce(square, 'mean')
    variance = (square - mean.square()).clamp_(min=0)
    bn.bias += bn.weight * mean
    bn.weight *= (variance + bn.eps).sqrt()
    bn.running_mean.copy_(mean)
    bn.running_var.copy_(variance)
