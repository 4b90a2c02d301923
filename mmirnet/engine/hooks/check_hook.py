"""Nothing wrong that could have been found starts."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..checks import problems_before_testing, problems_before_training
from ..config_checks import report
from ..facts import checkpoint_classes


@HOOKS.register_module()
class CheckHook(Hook):
    """Checks data, labels, classes and network before training and testing start.

    All that is wrong is listed at once, what only looks wrong is warned of: see
    :mod:`mmirnet.engine.checks`. ``tools/train.py`` and ``tools/test.py`` always have
    it, unless a config says ``default_hooks = dict(check=None)``.

    Example:
        >>> custom_hooks = [dict(type='CheckHook')]
    """

    #: Before anything else happens to the model or the data.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self.trained_on: list[str] | None = None
        self.checked = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember which classes the checkpoint was trained on."""
        self.trained_on = checkpoint_classes(checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Check what training and its validation need.

        Raises:
            ValueError: With all that is wrong, one line each.
        """
        report(problems_before_training(runner, self.trained_on))
        self.checked = True

    def before_val(self, runner: Runner) -> None:
        """Check what a validation by itself needs."""
        if not self.checked:
            report(problems_before_testing(runner, 'val', self.trained_on))
            self.checked = True

    def before_test(self, runner: Runner) -> None:
        """Check what testing needs."""
        report(problems_before_testing(runner, 'test', self.trained_on))
