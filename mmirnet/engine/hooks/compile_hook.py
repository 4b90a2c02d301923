"""A hook that compiles the backbone."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..speed import compile_model
from ..wrappers import unwrap


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles the backbone for training and for evaluation.

    MMEngine's ``compile=True`` compiles ``train_step`` with all its Python code. This
    hook compiles only the backbone, with one graph for training and one for evaluation,
    see :func:`mmirnet.engine.speed.compile_model`.

    Args:
        **options: Arguments of ``torch.compile``.

    Raises:
        ConfigError: At the start of the run, if the model has no backbone.

    Example:
        >>> default_hooks = dict(compile=dict(type='CompileHook'))
    """

    #: After EMAHook, whose copy of the model stays uncompiled.
    priority = 'VERY_LOW'

    def __init__(self, **options) -> None:
        self.options = options
        self._compiled = False

    def before_run(self, runner: Runner) -> None:
        """Compiles the backbone, once for training and evaluation."""
        if not self._compiled:
            compile_model(unwrap(runner.model), **self.options)
            self._compiled = True
