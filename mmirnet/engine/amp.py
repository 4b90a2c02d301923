"""Mixed precision without a loss scale."""

from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """Forward passes under bfloat16 autocast, on GPUs and on CPUs.

    bfloat16 has float32's range, so that gradients need no scaling. MMEngine's
    AmpOptimWrapper is for float16 and needs a GPU.

    Args:
        **kwargs: As for MMEngine's ``OptimWrapper``.

    Example:
        >>> optim_wrapper = dict(
        ...     type='Bf16OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Autocast around a training step's forward pass."""
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
            yield
