"""Training loops with bit-identical resumption.

The loops differ from MMEngine's in three points. All randomness follows from the seed
and the progress. A resumed run can start in the middle of an epoch, where a preempted
run stopped; the place is counted in images, so the batch size and the number of
processes may change. A validation that the killed run may have missed is run first.
"""

import copy
import math
from collections.abc import Iterator

from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS, HOOKS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, DataLoader

from ..datasets.seeding import (
    DeterministicSampler,
    SeededDataset,
    has_deterministic_order,
    seed_all,
)
from ..errors import CheckpointError, ConfigError
from ..registry import find_class
from .changes import parse_config

#: Options of a loader, besides its data set and sampler.
_LOADER_OPTIONS = (
    'batch_size',
    'num_workers',
    'collate_fn',
    'pin_memory',
    'drop_last',
    'timeout',
    'worker_init_fn',
    'multiprocessing_context',
    'generator',
    'prefetch_factor',
    'persistent_workers',
)
_WAY_OUT = (
    "or take MMEngine's loops (train_cfg.type EpochBasedTrainLoop or "
    'IterBasedTrainLoop), which do not resume bit-identically'
)


def deterministic_dataloader(cfg: dict | DataLoader) -> dict | DataLoader:
    """Makes the samples of a data loader deterministic.

    Args:
        cfg (dict | DataLoader): ``train_dataloader``. Its sampler is MMEngine's
            DefaultSampler or InfiniteSampler, by name or class. A DataLoader object
            needs a :class:`~mmirnet.datasets.DeterministicSampler`.

    Returns:
        dict | DataLoader: Config of the loader for MMEngine, or the loader.

    Raises:
        ValueError: If another sampler, one with a seed of its own, or a batch sampler
            is used.

    Example:
        >>> cfg = deterministic_dataloader(dict(
        ...     dataset=range(9), batch_size=3, sampler=dict(type='DefaultSampler')))
        >>> cfg['sampler']
        {'type': 'DeterministicSampler'}
    """
    if not isinstance(cfg, dict):
        return _seeded(cfg)
    cfg = copy.copy(cfg)
    sampler = copy.copy(cfg.get('sampler') or {})
    kind = sampler.get('type') if isinstance(sampler, dict) else type(sampler)
    found = find_class(DATA_SAMPLERS, kind)
    if not has_deterministic_order(found) or not isinstance(sampler, dict):
        name = kind if isinstance(kind, str) else getattr(kind, '__name__', None)
        raise ConfigError(
            'train_dataloader.sampler.type must be one of '
            'DefaultSampler, InfiniteSampler and DeterministicSampler for a '
            'deterministic training loop, got '
            f'{name!r}: take one of these, {_WAY_OUT}'
        )
    if cfg.get('batch_sampler') is not None:
        raise ConfigError(
            'train_dataloader.batch_sampler cannot be resumed within an epoch by a '
            f'deterministic training loop: leave it out, {_WAY_OUT}'
        )
    if sampler.get('seed') is not None:
        raise ConfigError(
            'train_dataloader.sampler.seed has no effect in a deterministic training '
            f'loop, whose order follows from randomness.seed: leave it out, {_WAY_OUT}'
        )
    cfg['sampler'] = {**sampler, 'type': 'DeterministicSampler'}
    cfg['dataset'] = dict(type=SeededDataset, dataset=cfg['dataset'])
    return cfg


def _seeded(loader: DataLoader) -> DataLoader:
    """Returns a copy of a loader object with seeded samples."""
    sampler = getattr(loader, 'sampler', None)
    if not (
        isinstance(loader, DataLoader)
        and isinstance(sampler, DeterministicSampler)
        and type(loader.batch_sampler) is BatchSampler
    ):
        raise ConfigError(
            f'train_dataloader is a {type(loader).__name__} with '
            f'{type(sampler).__name__}, and a deterministic training loop needs '
            'sampler=mmirnet.datasets.DeterministicSampler(dataset) and a batch_size: '
            f'give it these, {_WAY_OUT}'
        )
    if isinstance(loader.dataset, SeededDataset):
        return loader
    return DataLoader(
        SeededDataset(loader.dataset),
        sampler=loader.sampler,
        **{name: getattr(loader, name) for name in _LOADER_OPTIONS},
    )


def _undisturbed(loader: DataLoader) -> Iterator:
    """Iterates over a loader, even if hooks iterate over it meanwhile."""
    batches = iter(loader)
    if not loader.persistent_workers:
        yield from batches
        return
    # Otherwise a hook, such as MMPretrain's PreciseBNHook, would restart these.
    loader._iterator = None
    yield from batches
    loader._iterator = batches


def _ensure_resume_hook(runner: Runner) -> None:
    kind = HOOKS.get('ResumeHook')
    if not any(isinstance(hook, kind) for hook in runner.hooks):
        runner.register_hook(dict(type='ResumeHook'))


class _DeterministicLoop:
    """Common part of both loops."""

    def __init__(self, runner: Runner, dataloader: dict | DataLoader, **kwargs) -> None:
        super().__init__(runner, deterministic_dataloader(dataloader), **kwargs)
        _ensure_resume_hook(runner)
        if not len(self.dataloader):
            raise ConfigError(
                f'train_dataloader has no batch: {self._images} images, batch_size '
                f'{self.dataloader.batch_size}, drop_last {self.dataloader.drop_last}'
            )
        #: Images used so far in the current epoch or pass through the data.
        self.seen = 0

    @property
    def _images(self) -> int:
        return len(self.dataloader.dataset)

    def _batches(self, epoch: int, seen: int):
        """Iterates over index and content of the remaining batches of an epoch."""
        first = self._enter(epoch, seen)
        if first == len(self.dataloader):
            return
        for number, batch in enumerate(_undisturbed(self.dataloader), first):
            # Before the iteration, so that a checkpoint at its end contains it.
            seen = self._note_place(epoch, seen, number)
            yield number, batch

    def _enter(self, epoch: int, seen: int) -> int:
        """Prepares the sampler; returns the index of the first remaining batch."""
        sampler = self.dataloader.sampler
        # A resumed run without a seed in its config uses that of the checkpoint.
        sampler.seed = _common_seed(self.runner)
        sampler.set_epoch(epoch)
        first = self._first_batch(seen)
        sampler.start = seen if first < len(self.dataloader) else 0
        return first

    def _note_place(self, epoch: int, seen: int, number: int) -> int:
        """Notes for checkpoints, and returns, the images seen after a batch."""
        step = self.dataloader.batch_size * self.dataloader.sampler.world_size
        last = number + 1 == len(self.dataloader)
        seen = self._images if last else min(seen + step, self._images)
        self.runner.message_hub.update_info(
            'place_in_data', dict(epoch=epoch, seen=seen, images=self._images)
        )
        return seen

    def _first_batch(self, seen: int) -> int:
        """Returns the index of the first batch after the images seen."""
        left = self.dataloader.sampler.left(seen)
        size = self.dataloader.batch_size
        left = left // size if self.dataloader.drop_last else math.ceil(left / size)
        return len(self.dataloader) - left

    def _saved_place(self) -> dict[str, int]:
        """Returns epoch and images seen at the checkpoint of a resumed run."""
        info = self.runner.message_hub.runtime_info
        return info.get('place_in_data') or self._place_by_iterations(info)

    def _place_by_iterations(self, info: dict) -> dict[str, int]:
        """Returns the same for a checkpoint that does not count images.

        The batch size is that of the checkpoint's config. The data and the number of
        processes have to be unchanged.
        """
        old = (parse_config(info.get('cfg')) or {}).get('train_dataloader')
        old = old if isinstance(old, dict) else {}
        size = old.get('batch_size', self.dataloader.batch_size)
        drop_last = old.get('drop_last', self.dataloader.drop_last)
        each = self.dataloader.sampler.left(0)
        length = each // size if drop_last else math.ceil(each / size)
        epoch, done = self._epoch_and_iterations(length)
        if not 0 <= done <= length:
            preempted = 'preempted_iter' in str(info.get('last_ckpt'))
            if preempted or not self._epoch or self._iter % self._epoch:
                raise CheckpointError(
                    f'--resume: the checkpoint has {self._epoch} epochs and '
                    f'{self._iter} iterations done, and an epoch has {length} now: '
                    'resume with the data and the number of processes it was saved '
                    'with'
                )
            done = 0  # complete epochs of another length
        seen = done * size * self.dataloader.sampler.world_size
        seen = self._images if done == length else min(seen, self._images)
        return dict(epoch=epoch, seen=seen, images=self._images)

    def _seed(self, iteration: int | None = None) -> None:
        """Seeds what model, preprocessor and hooks draw, by default in this iteration.

        Otherwise random numbers that hooks or validation draw between iterations would
        depend on where the run was resumed.
        """
        done = self.iter if iteration is None else iteration
        seed_all(self.runner.seed, get_rank(), done)

    def _validate(self, done: int, total: int) -> None:
        """Validates if a validation is due after this epoch or iteration."""
        self._decide_current_val_interval()
        due = done % self.val_interval == 0 or done == total
        if self.runner.val_loop is not None and done >= self.val_begin and due:
            # Before the validation, so that a checkpoint at its end contains it.
            self.runner.message_hub.update_info('iter_of_validation', self.iter)
            self._seed()
            self.runner.val_loop.run()

    def _missed_validation(self) -> bool:
        """Whether the checkpoint of a resumed run is older than its validation."""
        last = self.runner.message_hub.runtime_info.get('iter_of_validation')
        return self.iter > 0 and last != self.iter


@LOOPS.register_module()
class DeterministicEpochLoop(_DeterministicLoop, EpochBasedTrainLoop):
    """MMEngine's epoch-based loop with bit-identical resumption.

    A run that is resumed with another batch size, number of processes or number of
    images keeps its completed epochs. Iterations are counted as if every epoch had the
    current length, so that everything that depends on them stays consistent.

    Args:
        runner (Runner): The runner.
        dataloader (dict | DataLoader): ``train_dataloader``.
        max_epochs (int): Number of epochs. ``val_begin``, ``val_interval`` and
            ``dynamic_intervals`` are those of MMEngine's ``EpochBasedTrainLoop``.

    Example:
        >>> train_cfg = dict(type='DeterministicEpochLoop', max_epochs=400)
    """

    def run(self):
        """Trains and returns the model."""
        missed = self._missed_validation()
        self._restore_place()
        self.runner.call_hook('before_train')
        if missed and self.seen == 0:
            self._validate(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate(self._epoch, self._max_epochs)
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Trains the rest of an epoch."""
        self._begin_epoch()
        for idx, data_batch in self._batches(self._epoch, self.seen):
            self._seed()
            self.run_iter(idx, data_batch)
        self._end_epoch()

    def _begin_epoch(self) -> None:
        # Also where a run is resumed within the epoch.
        self._seed(self._epoch * len(self.dataloader))
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()

    def _end_epoch(self) -> None:
        self.seen = 0
        self._seed()
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _epoch_and_iterations(self, length: int) -> tuple[int, int]:
        return self._epoch, self._iter - self._epoch * length

    def _restore_place(self) -> None:
        """Restores the place of the checkpoint in a resumed run."""
        if not self._iter:
            return
        place = self._saved_place()
        # A loop of iterations counts passes through the data, and no epochs.
        self._epoch = max(self._epoch, place['epoch'])
        if place['epoch'] < self._epoch:
            self.seen = 0
        elif place['seen'] >= place['images']:
            self.seen = self._images
        elif place['images'] != self._images:
            raise CheckpointError(
                f'--resume: the checkpoint is {place["seen"]} images into an epoch of '
                f'{place["images"]}, and train_dataloader has {self._images} now: '
                'resume with the same images, or from a checkpoint between epochs'
            )
        else:
            self.seen = place['seen']
        iterations = self._epoch * len(self.dataloader) + self._first_batch(self.seen)
        if iterations != self._iter:
            self._iter = iterations
            self.runner.optim_wrapper.initialize_count_status(
                self.runner.model, self._iter, self._max_iters
            )


@LOOPS.register_module()
class DeterministicIterLoop(_DeterministicLoop, IterBasedTrainLoop):
    """MMEngine's iteration-based loop with bit-identical resumption.

    The loop goes through the data in shuffled passes, like an epoch-based loop. A run
    that is resumed with another batch size or number of processes keeps its iterations
    and its place in the pass. With another number of images it starts a new pass.

    Args:
        runner (Runner): The runner.
        dataloader (dict | DataLoader): ``train_dataloader``.
        max_iters (int): Number of iterations. ``val_begin``, ``val_interval`` and
            ``dynamic_intervals`` are those of MMEngine's ``IterBasedTrainLoop``.

    Example:
        >>> train_cfg = dict(type='DeterministicIterLoop', max_iters=10000)
    """

    def __init__(self, runner: Runner, dataloader: dict | DataLoader, **kwargs) -> None:
        super().__init__(runner, dataloader, **kwargs)
        self.dataloader_iterator = None  # MMEngine's would keep idle workers
        self._pass = 0

    def run(self):
        """Trains and returns the model."""
        missed = self._missed_validation()
        self._restore_place()
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        if missed:
            self._validate(self._iter, self._max_iters)
        while self._iter < self._max_iters and not self.stop_training:
            self._run_pass()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _run_pass(self) -> None:
        """Trains on the rest of the data."""
        for _, data_batch in self._batches(self._pass, self.seen):
            self.runner.model.train()
            self._seed()
            self.run_iter(data_batch)
            self._validate(self._iter, self._max_iters)
            if self._iter == self._max_iters or self.stop_training:
                return
        self._pass, self.seen = self._pass + 1, 0

    def _epoch_and_iterations(self, length: int) -> tuple[int, int]:
        return divmod(self._iter, length)

    def _restore_place(self) -> None:
        """Restores the place of the checkpoint in a resumed run."""
        if not self._iter:
            return
        place = self._saved_place()
        complete = place['seen'] >= place['images']
        if complete or place['images'] != self._images:
            self._pass, self.seen = place['epoch'] + 1, 0
        else:
            self._pass, self.seen = place['epoch'], place['seen']


def _common_seed(runner: Runner) -> int:
    """Returns the seed of all ranks; with ``diff_rank_seed`` each has added its own."""
    differs = (runner._randomness_cfg or {}).get('diff_rank_seed')
    return runner.seed - get_rank() if differs else runner.seed
