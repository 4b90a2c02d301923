"""Randomness of a sample that depends on where it is, not on what came before.

A sampler hands out indices that carry their own seed, made of the run's seed, the
rank, the epoch and the index; the data set seeds itself from it. A resumed run, or
one with another number of data workers, then sees the same augmented images.
"""

import copy
import inspect
import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import Dataset, get_worker_info


def seed_all(*words: int) -> None:
    """Seed Python, numpy and torch from some whole numbers.

    Example:
        >>> seed_all(0, 3)
        >>> first = torch.rand(1)
        >>> seed_all(0, 3)
        >>> bool(first == torch.rand(1))
        True
    """
    a, b = np.random.SeedSequence(words).generate_state(2).tolist()
    random.seed(a)
    np.random.seed(b)
    torch.manual_seed(a << 32 | b)


class SeededIndex(int):
    """An index into a data set, with the seed of what happens to the sample."""

    seed: tuple[int, ...]

    def __new__(cls, index: int, seed: tuple[int, ...]) -> 'SeededIndex':
        """An index that equals ``index``."""
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __reduce__(self) -> tuple:
        return SeededIndex, (int(self), self.seed)


@DATA_SAMPLERS.register_module()
class DeterministicSampler(DefaultSampler):
    """MMEngine's default sampler, with seeded indices and a place to start at.

    Takes the same arguments and gives the same order.

    Attributes:
        start (int): How many images of the epoch, those of all ranks together, the
            next iteration skips; it is 0 again afterwards. The ranks share what is
            left, however many shared what went before.

    Example:
        >>> sampler = DeterministicSampler(range(10), shuffle=False, seed=0)
        >>> sampler.start = 7
        >>> list(sampler)
        [7, 8, 9]
    """

    start = 0

    def __iter__(self):
        """Yield the indices of this rank's samples."""
        start, self.start = self.start, 0
        whole = copy.copy(self)
        whole.rank, whole.world_size, whole.total_size = 0, 1, len(self.dataset)
        order = list(DefaultSampler.__iter__(whole))
        rest = order[start:]
        if self.round_up and rest:
            missing = -len(rest) % self.world_size
            rest += itertools.islice(itertools.cycle(order), missing)
        for i in rest[self.rank :: self.world_size]:
            yield SeededIndex(i, (self.seed, self.rank, self.epoch, i))

    def left(self, start: int) -> int:
        """How many samples this rank has when ``start`` images are skipped."""
        rest = max(len(self.dataset) - start, 0)
        if not self.round_up:
            rest -= self.rank
        return max(math.ceil(rest / self.world_size), 0)


def has_deterministic_order(kind: object) -> bool:
    """Whether a sampler's class gives the order that DeterministicSampler gives."""
    if kind in (DefaultSampler, InfiniteSampler):
        return True
    return inspect.isclass(kind) and issubclass(kind, DeterministicSampler)


class SeededDataset(Dataset):
    """A data set whose samples draw from the seed of their index.

    It belongs outside of whatever else wraps the data: subsets, concatenations and
    repetitions hand plain indices on.

    Args:
        dataset (Dataset | dict): Any data set, or its config; its other attributes
            show through.
    """

    def __init__(self, dataset: Dataset | dict) -> None:
        is_config = isinstance(dataset, dict)
        self.dataset = DATASETS.build(dataset) if is_config else dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        if not isinstance(index, SeededIndex):
            return self.dataset[index]
        if get_worker_info() is not None:
            seed_all(*index.seed)
            return self.dataset[int(index)]
        # In the main process the model draws from the same generators.
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            seed_all(*index.seed)
            return self.dataset[int(index)]
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])

    def __getitems__(self, indices: Sequence[int]):
        """A batch, for torch's loader, which asks for this before single samples."""
        if getattr(self.dataset, 'draws_by_seeded_index', False):
            return self.dataset.__getitems__(indices)
        return [self[index] for index in indices]

    def __getattr__(self, name: str):
        # Protocols of Python and torch do not show through: they would go past the
        # seeds. The data set is not there yet while it is unpickled.
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)
