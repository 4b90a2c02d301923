"""A hook that checks a run before it starts."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ...datasets.copies import cifar10_copy
from ..checks import problems_before_testing, problems_before_training
from ..facts import checkpoint_classes, parts
from ..problems import report


@HOOKS.register_module()
class CheckHook(Hook):
    """Checks data, labels, classes and network before training and testing start.

    The hook reports all errors at once and warns of suspicious settings, see
    :mod:`mmirnet.engine.checks`. ``tools/train.py`` and ``tools/test.py`` add it unless
    the config has ``default_hooks = dict(check=None)``.

    Example:
        >>> custom_hooks = [dict(type='CheckHook')]
    """

    #: Before all other hooks.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self.trained_on: list[str] | None = None
        self.checked = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Saves the class names of the checkpoint."""
        self.trained_on = checkpoint_classes(checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Checks what training and its validation need.

        Raises:
            ValueError: If there are problems; one line per problem.
        """
        report(problems_before_training(runner, self.trained_on))
        self.checked = True
        _log_copy(runner, runner.train_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Checks what a validation without training needs."""
        if not self.checked:
            report(problems_before_testing(runner, 'val', self.trained_on))
            self.checked = True

    def before_test(self, runner: Runner) -> None:
        """Checks what testing needs."""
        report(problems_before_testing(runner, 'test', self.trained_on))
        _log_copy(runner, runner.test_dataloader)


def _log_copy(runner: Runner, loader: DataLoader) -> None:
    """Logs which copy of CIFAR-10 a result is made with."""
    copies = {cifar10_copy(part) for part in parts(loader.dataset)}
    for copy in sorted(filter(None, copies)):
        runner.logger.info(copy)
