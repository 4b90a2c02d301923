"""A hook for the precision of float32 on GPUs."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..speed import allow_tf32


@HOOKS.register_module()
class TF32Hook(Hook):
    """Sets whether GPUs may round float32 operands to TF32, for the entire process.

    See :func:`mmirnet.engine.speed.allow_tf32`.

    Args:
        allow (bool): If True, operands of convolutions and matrix products are rounded
            to 10 bits of mantissa, which is faster. If False, they keep all 23 bits.

    Example:
        >>> default_hooks = dict(tf32=dict(type='TF32Hook', allow=True))
    """

    priority = 'VERY_HIGH'

    def __init__(self, allow: bool = True) -> None:
        self.allow = allow

    def before_run(self, runner: Runner) -> None:
        """Sets the options of torch."""
        allow_tf32(self.allow)
