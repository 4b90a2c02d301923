"""A Precise BN hook for training that starts from a packed file."""

from itertools import islice

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..precise_bn import folded, unfold
from ..wrappers import unwrap


@HOOKS.register_module()
class PackedPreciseBNHook(Hook):
    """Measures the batch norm statistics that a packed file does not contain.

    The hook uses a few training batches before training, see
    :func:`mmirnet.engine.precise_bn.unfold`. It does not change models without folded
    batch norms. MMPretrain's ``PreciseBNHook`` measures after training instead.

    Args:
        batches (int): Maximum number of training batches per rank.

    Example:
        >>> default_hooks = dict(precise_bn=dict(type='PackedPreciseBNHook'))
    """

    priority = 'VERY_HIGH'

    def __init__(self, batches: int = 20) -> None:
        self.batches = batches

    def before_train(self, runner: Runner) -> None:
        """Measures the statistics of folded batch norms."""
        model = unwrap(runner.model)
        if norms := folded(model):
            unfold(model, islice(runner.train_dataloader, self.batches))
            runner.logger.info(
                f'{len(norms)} batch norms from a packed file: statistics measured '
                f'on up to {self.batches} training batches'
            )
