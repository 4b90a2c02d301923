"""Compilation of the backbone, as a switch of the config."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..speed import compile_model
from ..wrappers import unwrap


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles the backbone for training and for evaluation.

    MMEngine's own ``compile=True`` compiles ``train_step`` with all the Python in it;
    here one graph of the backbone serves training and one evaluation, see
    :func:`mmirnet.engine.speed.compile_model`.

    Args:
        **options: For ``torch.compile``.

    Raises:
        ConfigError: At the start of the run, if the model has no backbone.

    Example:
        >>> default_hooks = dict(compile=dict(type='CompileHook'))
    """

    #: Behind EMAHook, whose copy of the model stays as it is.
    priority = 'VERY_LOW'

    def __init__(self, **options) -> None:
        self.options = options
        self._compiled = False

    def before_run(self, runner: Runner) -> None:
        """Compile, once for all that the runner does."""
        if not self._compiled:
            compile_model(unwrap(runner.model), **self.options)
            self._compiled = True
