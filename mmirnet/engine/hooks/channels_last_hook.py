"""A hook for the channels-last memory format."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..wrappers import unwrap


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Converts the weights to channels-last (NHWC) memory format.

    Convolutions propagate the format, so all tensors between them have it, too. It is
    faster in half precision and on large images.

    Example:
        >>> default_hooks = dict(channels_last=dict(type='ChannelsLastHook'))
    """

    #: Before EMAHook copies the model.
    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Converts all weights in place."""
        unwrap(runner.model).to(memory_format=torch.channels_last)
