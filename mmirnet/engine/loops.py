"""Training loops that a resumed run goes through as an uninterrupted one does.

They differ from MMEngine's in three things. All randomness follows from the seed
and the progress. An epoch can be entered in its middle, where a preempted run
left it. And a validation that the killed run may have missed is run first.
"""

import copy

from mmengine.dist import get_rank
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from ..datasets.seeding import SeededDataset, seed_all
from ..errors import ConfigError

_SAMPLERS = ('DefaultSampler', 'InfiniteSampler', 'ExactSampler')


def exact_dataloader(cfg: dict | DataLoader) -> dict | DataLoader:
    """The config of a data loader, with seeded samples.

    Args:
        cfg (dict | DataLoader): ``train_dataloader``. Its sampler may be MMEngine's
            DefaultSampler or InfiniteSampler. A ready loader is left alone: its
            sampler has to have ``start`` and ``set_epoch``.

    Returns:
        dict | DataLoader: What MMEngine builds the loader from.

    Raises:
        ValueError: If the sampler is another one.
    """
    if not isinstance(cfg, dict):
        return cfg
    cfg = copy.copy(cfg)
    sampler = copy.copy(cfg.get('sampler') or {})
    if sampler.get('type') not in _SAMPLERS:
        raise ConfigError(
            f'train_dataloader.sampler.type must be one of {list(_SAMPLERS)} for an '
            f'exact training loop, got {sampler.get("type")!r}'
        )
    cfg['sampler'] = {**sampler, 'type': 'ExactSampler'}
    cfg['dataset'] = dict(type=SeededDataset, dataset=cfg['dataset'])
    return cfg


class _ExactLoop:
    """What both loops share."""

    def __init__(self, runner: Runner, dataloader: dict | DataLoader, **kwargs) -> None:
        super().__init__(runner, exact_dataloader(dataloader), **kwargs)

    def _batches(self, epoch: int, first: int):
        """Number and content of an epoch's batches, from the first on."""
        sampler = self.dataloader.sampler
        # A resumed run has the seed of its checkpoint where the config has none.
        sampler.seed = self.runner.seed
        sampler.set_epoch(epoch)
        sampler.start = first * self.dataloader.batch_size
        return enumerate(self.dataloader, first)

    def _seed(self) -> None:
        """Seed what the model and its preprocessor draw in this iteration."""
        seed_all(self.runner.seed, get_rank(), self.iter)

    def _validate(self, done: int, total: int) -> None:
        """Validate if it is due after this epoch or iteration."""
        self._decide_current_val_interval()
        due = done % self.val_interval == 0 or done == total
        if self.runner.val_loop is not None and done >= self.val_begin and due:
            # In front, so that a checkpoint of the validation's end knows.
            self.runner.message_hub.update_info('iter_of_validation', self.iter)
            self.runner.val_loop.run()

    def _missed_validation(self) -> bool:
        """Whether a resumed run's checkpoint is older than its validation."""
        last = self.runner.message_hub.runtime_info.get('iter_of_validation')
        return self.iter > 0 and last != self.iter


@LOOPS.register_module()
class ExactEpochLoop(_ExactLoop, EpochBasedTrainLoop):
    """MMEngine's loop over epochs, exact when resumed.

    Args:
        runner (Runner): The runner.
        dataloader (dict | DataLoader): ``train_dataloader``.
        max_epochs (int): As for MMEngine's ``EpochBasedTrainLoop``, and so are
            ``val_begin``, ``val_interval`` and ``dynamic_intervals``.

    Example:
        >>> train_cfg = dict(type='ExactEpochLoop', max_epochs=400)
    """

    def run(self):
        """Train, and return the model."""
        self.runner.call_hook('before_train')
        at_boundary = self._iter == self._epoch * len(self.dataloader)
        if at_boundary and self._missed_validation():
            self._validate(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate(self._epoch, self._max_epochs)
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train what is left of an epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        first = self._iter - self._epoch * len(self.dataloader)
        for idx, data_batch in self._batches(self._epoch, first):
            self._seed()
            self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class ExactIterLoop(_ExactLoop, IterBasedTrainLoop):
    """MMEngine's loop over iterations, exact when resumed.

    It goes through the data in shuffled passes, as an epoch loop does.

    Args:
        runner (Runner): The runner.
        dataloader (dict | DataLoader): ``train_dataloader``.
        max_iters (int): As for MMEngine's ``IterBasedTrainLoop``, and so are
            ``val_begin``, ``val_interval`` and ``dynamic_intervals``.

    Example:
        >>> train_cfg = dict(type='ExactIterLoop', max_iters=10000)
    """

    def __init__(self, runner: Runner, dataloader: dict | DataLoader, **kwargs) -> None:
        super().__init__(runner, dataloader, **kwargs)
        self.dataloader_iterator = None  # MMEngine's, whose workers would wait here

    def run(self):
        """Train, and return the model."""
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        if self._missed_validation():
            self._validate(self._iter, self._max_iters)
        while self._iter < self._max_iters and not self.stop_training:
            self._run_pass()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _run_pass(self) -> None:
        """Train through what is left of the data."""
        for _, data_batch in self._batches(*divmod(self._iter, len(self.dataloader))):
            self.runner.model.train()
            self._seed()
            self.run_iter(data_batch)
            self._validate(self._iter, self._max_iters)
            if self._iter == self._max_iters or self.stop_training:
                return
