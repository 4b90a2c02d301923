"""Random numbers of a sample that depend on its place and not on earlier samples.

A sampler returns indices with a seed, which combines the seed of the run, the rank, the
epoch and the index. The data set seeds the random number generators with it. As a
result, a resumed run, or a run with another number of workers, has the same augmented
images.
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
    """Seeds Python, numpy and torch with a sequence of integers.

    Args:
        *words (int): The integers.

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
    """An index into a data set, with the seed for the transforms of the sample."""

    seed: tuple[int, ...]

    def __new__(cls, index: int, seed: tuple[int, ...]) -> 'SeededIndex':
        """Creates an index that equals ``index``."""
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __reduce__(self) -> tuple:
        return SeededIndex, (int(self), self.seed)


@DATA_SAMPLERS.register_module()
class DeterministicSampler(DefaultSampler):
    """MMEngine's default sampler with seeded indices and a start position.

    It has the same arguments and gives the same order.

    Attributes:
        start (int): Number of images in the epoch, over all ranks, that the next
            iteration skips. Afterwards it is 0 again. The ranks share the remaining
            images, however many ranks shared those before.

    Example:
        >>> sampler = DeterministicSampler(range(10), shuffle=False, seed=0)
        >>> sampler.start = 7
        >>> list(sampler)
        [7, 8, 9]
    """

    start = 0

    def __iter__(self):
        """Yields the indices of this rank's samples, with seeds."""
        yield from map(self.seeded, self.order())

    def order(self) -> list[int]:
        """Returns the indices of this rank's samples from ``start`` on."""
        start, self.start = self.start, 0
        whole = copy.copy(self)
        whole.rank, whole.world_size, whole.total_size = 0, 1, len(self.dataset)
        order = list(DefaultSampler.__iter__(whole))
        rest = order[start:]
        if self.round_up and rest:
            missing = -len(rest) % self.world_size
            rest += itertools.islice(itertools.cycle(order), missing)
        return rest[self.rank :: self.world_size]

    def seeded(self, index: int) -> SeededIndex:
        """Returns an index with the seed of its sample in this epoch."""
        return SeededIndex(index, (self.seed, self.rank, self.epoch, index))

    def left(self, start: int) -> int:
        """Returns the number of this rank's samples after skipping ``start`` images."""
        rest = max(len(self.dataset) - start, 0)
        if not self.round_up:
            rest -= self.rank
        return max(math.ceil(rest / self.world_size), 0)


def has_deterministic_order(kind: object) -> bool:
    """Whether a sampler class has the same order as DeterministicSampler."""
    if kind in (DefaultSampler, InfiniteSampler):
        return True
    return inspect.isclass(kind) and issubclass(kind, DeterministicSampler)


class SeededDataset(Dataset):
    """A data set whose transforms use the seed of the index.

    It has to be the outermost wrapper, because subsets, concatenations and repetitions
    pass on plain indices.

    Args:
        dataset (Dataset | dict): Any data set, or its config. Its other attributes can
            be read and set.
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
        # In the main process the model uses the same random number generators.
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            seed_all(*index.seed)
            return self.dataset[int(index)]
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])

    def __getitems__(self, indices: Sequence[int]):
        """Returns a batch. torch's loader prefers this method to single samples."""
        if getattr(self.dataset, 'draws_by_seeded_index', False):
            return self.dataset.__getitems__(indices)
        return [self[index] for index in indices]

    def __setattr__(self, name: str, value: object) -> None:
        # MMPretrain's SwitchRecipeHook replaces the pipeline in this way.
        if name == 'dataset':
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)

    def __getattr__(self, name: str):
        # Special methods are not forwarded, because they would bypass the seeds. During
        # unpickling, the data set does not exist yet.
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)
