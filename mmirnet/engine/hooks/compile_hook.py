"""A hook that compiles the backbone."""

import os
import time

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
    see :func:`mmirnet.engine.speed.compile_model`. Each is compiled in its first
    iteration, and the log shows how long that takes. torch keeps compiled code in the
    folder of the environment variable ``TORCHINDUCTOR_CACHE_DIR``.

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
        self._iterations = dict.fromkeys(('train', 'val', 'test'), 0)
        self._start = 0.0

    def before_run(self, runner: Runner) -> None:
        """Compiles the backbone, once for training and evaluation."""
        if not self._compiled:
            compile_model(unwrap(runner.model), **self.options)
            self._compiled = True

    def is_first(self, mode: str) -> bool:
        """Whether the next iteration of training, validation or test compiles."""
        return not self._iterations[mode]

    def _before_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, mode: str = 'train'
    ) -> None:
        """Logs that the first iteration compiles."""
        if self.is_first(mode):
            folder = os.environ.get('TORCHINDUCTOR_CACHE_DIR', 'the temporary folder')
            runner.logger.info(
                f'Compiling the backbone in the first {mode} iteration; {folder} keeps '
                'the code for later runs'
            )
            self._start = time.perf_counter()

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch=None,
        outputs=None,
        mode: str = 'train',
    ) -> None:
        """Logs how long the first iteration took."""
        if self.is_first(mode):
            runner.logger.info(
                f'The first {mode} iteration, with compilation, took '
                f'{time.perf_counter() - self._start:.1f} s'
            )
        self._iterations[mode] += 1
