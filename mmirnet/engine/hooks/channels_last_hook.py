"""The channels-last memory format, as a switch of the config."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..wrappers import unwrap


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keeps the weights in channels-last (NHWC) memory format.

    Convolutions pass the format on, so that all tensors between them have it: faster
    in half precision and on large images.

    Example:
        >>> default_hooks = dict(memory_format=dict(type='ChannelsLastHook'))
    """

    #: Before EMAHook copies the model.
    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Change the format of all weights, in place."""
        unwrap(runner.model).to(memory_format=torch.channels_last)
