"""Small data sets as one tensor on the device, with augmentation of whole batches.

For small images, a pipeline per sample, its worker processes and the copies to the GPU
take longer than the network. Here a batch takes a few operations on the device of the
model. The augmentation has the distributions of MMPretrain's transforms. It
follows from seed, epoch and sample alone, independent of the history of the run and of
the number of processes.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import CenterCrop, LoadImageFromFile, Pad, Resize
from mmengine.config import ConfigDict
from mmengine.dataset import (
    ClassBalancedDataset,
    Compose,
    ConcatDataset,
    RepeatDataset,
)
from mmengine.device import get_device
from mmengine.registry import DATA_SAMPLERS, FUNCTIONS
from mmpretrain.datasets.transforms import PackInputs, ResizeEdge
from mmpretrain.registry import DATASETS, TRANSFORMS
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..errors import ConfigError
from ..registry import find_class
from .augmentation import Augmentation, Draws
from .copies import cifar10_copy
from .decoded import decoded_images
from .labelled import labelled
from .seeding import SeededIndex, has_deterministic_order
from .wrapped import leaves

#: Deterministic transforms.
_STILL = (LoadImageFromFile, Resize, ResizeEdge, CenterCrop, Pad)
_WAY_OUT = 'or leave InMemory out'


@DATASETS.register_module()
class InMemory(Dataset):
    """A data set with images of equal size, all in one tensor.

    The data set reads the images of another data set once, through the deterministic
    part of its pipeline, and applies the rest of the pipeline to whole batches.
    :class:`~mmirnet.datasets.DeterministicSampler` provides seed and epoch. The data
    loader needs ``collate_fn=dict(type='as_is')`` and no worker processes.
    :func:`keep_in_memory` sets this in a config.

    Args:
        dataset (dict): Config of the data set, in MMEngine's wrappers or not. Its
            pipeline may start with ``LoadImageFromFile``, ``Resize``, ``ResizeEdge``,
            ``CenterCrop`` and ``Pad``. A ``RandomCrop`` to the image's own size with
            zero padding or a bilinear ``RandomResizedCrop``, a horizontal
            ``RandomFlip`` and a ``ColorJitter`` may follow. It ends with
            ``PackInputs``.
        device (str | None): Device of the images. Defaults to the device on which
            MMEngine puts the model.

    Attributes:
        reading (list): Transforms that read and prepare a file. Empty if the data set
            holds its images.

    Raises:
        ValueError: If the pipeline has other transforms, if the images differ in size,
            or if an image does not have exactly one label.

    Example:
        >>> from mmirnet.datasets import DeterministicSampler
        >>> data = InMemory(dict(type='Digits', split='test', pipeline=[
        ...     dict(type='RandomCrop', crop_size=32, padding=4),
        ...     dict(type='PackInputs')]))
        >>> indices = list(DeterministicSampler(data, seed=0))
        >>> data.__getitems__(indices[:64])['inputs'].shape
        torch.Size([64, 3, 32, 32])
    """

    #: Batches of seeded indices are passed on unchanged.
    draws_by_seeded_index = True

    def __init__(self, dataset: dict, device: str | None = None) -> None:
        pipeline = _pipeline(dataset)
        name = getattr(dataset['type'], '__name__', dataset['type'])
        source = DATASETS.build(_without_pipeline(dataset))
        transforms = [TRANSFORMS.build(dict(t)) for t in pipeline]
        still = [t for t in transforms if isinstance(t, _STILL)]
        from_files = any(isinstance(t, LoadImageFromFile) for t in still)
        self.reading = still if from_files else []
        # Wrappers may repeat an image, which is stored once.
        places = [_place(source, i, name) for i in range(len(source))]
        rows = {place: row for row, place in enumerate(dict.fromkeys(places))}
        #: Names of the data sets with the images.
        self.sources = list(dict.fromkeys(type(leaf).__name__ for leaf, _ in rows))
        #: Copy of CIFAR-10 that they read.
        self.copies = list(filter(None, map(cifar10_copy, {leaf for leaf, _ in rows})))
        infos = [leaf.get_data_info(index) for leaf, index in rows]
        labels = _single_labels([info.get('gt_label') for info in infos], name)
        images = decoded_images(infos, Compose(still), pipeline[: len(still)], name)
        self.metainfo = source.metainfo
        device = device or get_device()
        order = [rows[place] for place in places]
        self.rows = torch.tensor(order).to(device)
        self.images = torch.from_numpy(images).to(device)
        self.labels = torch.tensor(labels)[order].to(device)
        size = tuple(self.images.shape[2:])
        self.augmentation = Augmentation(transforms[len(still) :], size)
        if not self.augmentation.fits:
            raise ConfigError(
                'InMemory does RandomCrop to the size of the images with an equal '
                'padding of zeros, or bilinear RandomResizedCrop, then horizontal '
                'RandomFlip, ColorJitter (of Pillow, or torchvision/ColorJitter '
                'between NumpyToPIL and PILToNumpy) and PackInputs, each at most once, '
                f'after {", ".join(t.__name__ for t in _STILL)}: change the pipeline, '
                f'{_WAY_OUT}; it is {pipeline}'
            )
        self._check_channels()
        self._drawn_for = None

    def _check_channels(self) -> None:
        channels, kind = self.images.shape[1], self.images.dtype
        random = self.augmentation
        fits = kind == torch.uint8 and (channels == 3 or not random.jitter)
        if (random.crop or random.jitter) and not fits:
            raise ConfigError(
                'InMemory resizes images of 8 bits and changes the colours of RGB or '
                f'BGR, not of {channels} channels of {kind}: change the pipeline, '
                f'{_WAY_OUT}'
            )

    def draw(self, seed: int, epoch: int) -> Draws:
        """Draws the augmentation of all samples in an epoch.

        Args:
            seed (int): Seed of the run.
            epoch (int): Number of the epoch.

        Returns:
            Draws: The parameters, the same for the same arguments.
        """
        if self._drawn_for != (seed, epoch):
            words = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(words[0]))
            self._drawn = self.augmentation.draw(
                len(self), generator, self.images.device
            )
            self._drawn_for = seed, epoch
        return self._drawn

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> dict:
        """Returns a batch for MMPretrain's data preprocessor.

        Args:
            indices (Sequence[int]): Samples of one epoch, as seeded indices if the
                pipeline has random transforms.

        Returns:
            dict: ``inputs``, (N, 3, H, W) uint8 on the device, and ``data_samples``,
            a list of N labels.

        Raises:
            ValueError: In a worker process, which cannot share the device's memory,
                or if seeds are missing.
        """
        if get_worker_info() is not None:
            raise ConfigError('InMemory needs num_workers=0: the images are in memory')
        chosen = torch.tensor(indices, device='cpu')
        rows = chosen.to(self.images.device)
        draws = None
        if self.augmentation.draws:
            if not isinstance(indices[0], SeededIndex):
                raise ConfigError(
                    'InMemory augments by the seed and epoch of its indices: it needs '
                    "sampler=dict(type='DeterministicSampler')"
                )
            seed, _, epoch, _ = indices[0].seed
            draws = self.draw(seed, epoch)
        images = self.take(chosen, draws)
        return dict(inputs=images, data_samples=labelled(self.labels[rows], indices))

    def take(self, chosen: Tensor, draws: Draws | None) -> Tensor:
        """Returns the augmented images of a batch.

        Args:
            chosen (Tensor): (N,), int64, the samples; on the CPU if colours change.
            draws (Draws | None): Output of :meth:`draw`; None leaves the images as
                they are.

        Returns:
            Tensor: (N, C, H, W) on the device.
        """
        images = self.images[self.rows[chosen.to(self.images.device)]]
        return images if draws is None else self.augmentation(images, draws, chosen)

    def __getitem__(self, index: int) -> dict:
        """Returns one sample in the format of an ordinary pipeline."""
        batch = self.__getitems__([index])
        return dict(inputs=batch['inputs'][0], data_samples=batch['data_samples'][0])


@FUNCTIONS.register_module()
def as_is(batch: dict) -> dict:
    """Collates nothing, because the data set already returns a batch."""
    return batch


def is_in_memory(dataloader: dict) -> bool:
    """Whether a data loader's config has an :class:`InMemory` data set."""
    dataset = dataloader.get('dataset')
    kind = dataset.get('type') if isinstance(dataset, dict) else None
    return find_class(DATASETS, kind) is InMemory


def read_each_image(dataloader: ConfigDict) -> None:
    """Reverts :func:`keep_in_memory` if images are needed one by one.

    Args:
        dataloader (ConfigDict): Config, changed in place. Configs of other data sets
            do not change.
    """
    if is_in_memory(dataloader):
        dataloader.dataset = dataloader.dataset.dataset
        dataloader.collate_fn = dict(type='default_collate')


def keep_in_memory(dataloader: ConfigDict) -> None:
    """Changes the config of a data loader to keep its data set in memory.

    A config that already does so does not change.

    Args:
        dataloader (ConfigDict): Config, changed in place. MMEngine's samplers are
            replaced by one with seeds. Other samplers stay if the pipeline has no
            random transforms.

    Raises:
        ValueError: If its sampler or ``collate_fn`` is not supported.
    """
    if is_in_memory(dataloader):
        return
    if not isinstance(dataloader.dataset, dict):
        raise ConfigError(
            'InMemory needs the config of a data set, not a data set that is built: '
            f'give its config, {_WAY_OUT}'
        )
    collate = dataloader.get('collate_fn') or dict(type='default_collate')
    kind = collate.get('type') if isinstance(collate, dict) else collate
    name = getattr(kind, '__name__', kind)
    if name not in ('default_collate', 'pseudo_collate', 'as_is'):
        raise ConfigError(
            f'InMemory creates batches itself and does not use collate_fn={name}: '
            f'leave it out, {_WAY_OUT}'
        )
    kind = find_class(DATA_SAMPLERS, dataloader.sampler.type)
    if has_deterministic_order(kind):
        dataloader.sampler.type = 'DeterministicSampler'
    elif _draws(dataloader.dataset):
        raise ConfigError(
            'InMemory draws crops and flips by seed and epoch, which '
            f'{dataloader.sampler.type} does not provide: set '
            f"sampler=dict(type='DefaultSampler', shuffle=True), {_WAY_OUT}"
        )
    dataloader.dataset = dict(type='InMemory', dataset=dataloader.dataset)
    dataloader.collate_fn = dict(type='as_is')
    dataloader.num_workers = 0
    dataloader.persistent_workers = dataloader.pin_memory = False
    # torch refuses these options without workers.
    for option in ('prefetch_factor', 'multiprocessing_context', 'timeout'):
        dataloader.pop(option, None)


def _draws(dataset: dict) -> bool:
    kinds = [find_class(TRANSFORMS, t['type']) for t in _pipeline(dataset)]
    return any(
        not inspect.isclass(kind) or not issubclass(kind, (*_STILL, PackInputs))
        for kind in kinds
    )


def _pipeline(dataset: dict) -> list[dict]:
    """Returns the pipeline of a data set, or of all data sets inside it."""
    specs = [spec for _, spec in leaves(dataset)]
    if not all(isinstance(spec, dict) for spec in specs):
        raise ConfigError(
            f'InMemory needs the config of a data set inside {dataset["type"]}, not '
            f'one that is built: give its config, {_WAY_OUT}'
        )
    pipelines = [list(spec.get('pipeline', [])) for spec in specs]
    if any(pipeline != pipelines[0] for pipeline in pipelines):
        raise ConfigError(
            f'InMemory needs the same pipeline in all parts of {dataset["type"]}: '
            f'give them one, {_WAY_OUT}'
        )
    return pipelines[0]


def _without_pipeline(dataset: dict) -> dict:
    dataset = dict(dataset)
    if isinstance(dataset.get('dataset'), dict):
        dataset['dataset'] = _without_pipeline(dataset['dataset'])
    elif dataset.get('datasets'):
        dataset['datasets'] = [_without_pipeline(d) for d in dataset['datasets']]
    else:
        dataset['pipeline'] = []
    return dataset


def _place(dataset: Dataset, index: int, name: str) -> tuple[Dataset, int]:
    """Returns the data set inside wrappers with a sample, and its index there."""
    while isinstance(dataset, (ConcatDataset, RepeatDataset, ClassBalancedDataset)):
        place = dataset._get_ori_dataset_idx(index)
        if isinstance(place, tuple):
            part, index = place
            dataset = dataset.datasets[part]
        else:
            dataset, index = dataset.dataset, place
    if not hasattr(dataset, 'get_data_info'):
        raise ConfigError(
            'InMemory reads data sets that have get_data_info, as those on '
            f"MMPretrain's BaseDataset; {name} has not: build it on that, {_WAY_OUT}"
        )
    return dataset, index


def _single_labels(labels: list[Any], name: str) -> list[int]:
    for label in labels:
        if np.ndim(label) or not np.issubdtype(np.asarray(label).dtype, np.integer):
            raise ConfigError(
                f'InMemory needs one class number per image, got the label {label!r} '
                f'from {name}; {_WAY_OUT[3:]}'
            )
    return [int(label) for label in labels]
