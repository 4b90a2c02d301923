"""Mixed precision in bfloat16, without a loss scale."""

from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """An optimizer wrapper with bfloat16 autocast, for GPUs and CPUs.

    bfloat16 has the range of float32, so gradients need no scaling. MMEngine's
    AmpOptimWrapper uses float16 and needs a GPU.

    Args:
        **kwargs: Arguments of MMEngine's ``OptimWrapper``.

    Example:
        >>> optim_wrapper = dict(
        ...     type='Bf16OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Runs the forward pass of a training step under autocast."""
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
            yield
