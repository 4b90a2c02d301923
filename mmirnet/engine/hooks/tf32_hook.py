"""The precision of float32 on GPUs, as a switch of the config."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..speed import allow_tf32


@HOOKS.register_module()
class TF32Hook(Hook):
    """Says whether GPUs may round float32 operands to TF32, for the whole process.

    See :func:`mmirnet.engine.speed.allow_tf32`.

    Args:
        allow (bool): True is faster, and rounds the operands of convolutions and
            matrix products to 10 bits of mantissa. False keeps all 23.

    Example:
        >>> default_hooks = dict(tf32=dict(type='TF32Hook', allow=True))
    """

    priority = 'VERY_HIGH'

    def __init__(self, allow: bool = True) -> None:
        self.allow = allow

    def before_run(self, runner: Runner) -> None:
        """Set torch's switches."""
        allow_tf32(self.allow)
