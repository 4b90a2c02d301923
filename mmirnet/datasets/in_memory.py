"""Small data sets as one tensor on the device, augmented a batch at a time.

For images of 32x32 the pipeline of one sample after another, its worker processes
and the copies to a GPU cost more than the network. Here a batch is a few operations,
wherever the model is. Crops and flips are distributed as those of MMPretrain's
transforms, and follow from seed, epoch and sample alone: neither what ran before nor
the number of processes changes them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms import RandomFlip
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.registry import FUNCTIONS
from mmpretrain.datasets.transforms import PackInputs, RandomCrop
from mmpretrain.registry import DATASETS, TRANSFORMS
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..errors import ConfigError
from .seeding import SeededIndex


def crop_and_flip(
    images: Tensor, offsets: Tensor, flips: Tensor, padding: int
) -> Tensor:
    """Pad every image with zeros, crop it to its own size, and maybe mirror it.

    Args:
        images (Tensor): (N, C, H, W).
        offsets (Tensor): (N, 2), int64: first row and column of each crop in the
            padded image, 0 to 2 * ``padding``.
        flips (Tensor): (N,), bool: which crops to mirror.
        padding (int): Pixels on each side.

    Returns:
        Tensor: (N, C, H, W).

    Example:
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]])
        >>> crop_and_flip(image, torch.tensor([[0, 1]]), torch.tensor([True]), 1)
        tensor([[[[0, 0],
                  [2, 1]]]])
    """
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, [padding] * 4)
    # A view of all (2 * padding + 1)^2 crops, of which one is copied.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    sample = torch.arange(n, device=images.device)
    crops = windows[sample, :, offsets[:, 0], offsets[:, 1]]
    return torch.where(flips[:, None, None, None], crops.flip(-1), crops)


@DATASETS.register_module()
class InMemory(Dataset):
    """A data set of equally sized images, all of them in one tensor.

    Reads the images of another data set once, without its pipeline, and does the
    pipeline's work on whole batches. :class:`~mmirnet.datasets.ExactSampler` tells it
    seed and epoch; it needs ``collate_fn=dict(type='as_is')`` and no worker processes.
    :func:`keep_in_memory` writes all of that into a config.

    Args:
        dataset (dict): The data set's config. Its pipeline may have a ``RandomCrop``
            to the image's own size with zeros around it, a horizontal
            ``RandomFlip``, and ends in ``PackInputs``.
        device (str | None): Where the images are kept, by default where MMEngine
            puts the model.

    Raises:
        ValueError: If the pipeline has anything else, or images differ in size.

    Example:
        >>> from mmirnet.datasets import ExactSampler
        >>> data = InMemory(dict(type='Digits', split='test', pipeline=[
        ...     dict(type='RandomCrop', crop_size=32, padding=4),
        ...     dict(type='PackInputs')]))
        >>> indices = list(ExactSampler(data, seed=0))
        >>> data.__getitems__(indices[:64])['inputs'].shape
        torch.Size([64, 3, 32, 32])
    """

    #: Whole batches of seeded indices come here as they are.
    draws_by_seeded_index = True

    def __init__(self, dataset: dict, device: str | None = None) -> None:
        pipeline = dataset.get('pipeline', [])
        source = DATASETS.build(dict(dataset, pipeline=[]))
        items = [source.get_data_info(i) for i in range(len(source))]
        shapes = {np.shape(item.get('img')) for item in items}
        if len(shapes) != 1 or shapes == {()}:
            raise ConfigError(
                f'InMemory needs images of one size that the data set itself reads, '
                f'got the shapes {sorted(shapes)[:3]} from {dataset["type"]}'
            )
        self.metainfo = source.metainfo
        device = device or get_device()
        images = torch.from_numpy(np.stack([np.atleast_3d(i['img']) for i in items]))
        self.images = images.movedim(-1, 1).contiguous().to(device)
        self.labels = torch.tensor([int(item['gt_label']) for item in items]).to(device)
        self.padding, self.flip_prob = self._augmentation(pipeline)
        self._drawn_for = None

    def _augmentation(self, pipeline: Sequence[dict]) -> tuple[int, float]:
        """Padding of the crop and probability of the flip in a pipeline's words."""
        padding, flip_prob = 0, 0.0
        *transforms, last = [TRANSFORMS.build(t) for t in pipeline] or [None]
        fits = isinstance(last, PackInputs)
        for transform in transforms:
            if isinstance(transform, RandomCrop) and not padding:
                padding = transform.padding or 0
                fits &= isinstance(padding, int) and transform.pad_val == 0
                fits &= tuple(transform.crop_size) == tuple(self.images.shape[2:])
                fits &= transform.padding_mode == 'constant'
            elif isinstance(transform, RandomFlip) and not flip_prob:
                flip_prob = transform.prob
                fits &= isinstance(flip_prob, float)
                fits &= transform.direction == 'horizontal'
            else:
                fits = False
        if not fits:
            raise ConfigError(
                'InMemory does RandomCrop to the size of the images with an equal '
                'padding of zeros, horizontal RandomFlip and PackInputs, each at most '
                f'once; the pipeline is {pipeline}'
            )
        return padding, flip_prob

    def _draw(self, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Crop and flip of every sample in an epoch."""
        if self._drawn_for != (seed, epoch):
            words = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(words[0]))
            n, device = len(self), self.images.device
            high = 2 * self.padding + 1
            offsets = torch.randint(high, (n, 2), generator=generator)
            flips = torch.rand(n, generator=generator) < self.flip_prob
            self._drawn = offsets.to(device), flips.to(device)
            self._drawn_for = seed, epoch
        return self._drawn

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> dict:
        """A batch, as MMPretrain's data preprocessor takes it.

        Args:
            indices (Sequence[int]): Samples of one epoch; seeded ones where there is
                something to draw.

        Returns:
            dict: ``inputs``, (N, 3, H, W) uint8 on the device, and ``data_samples``,
            a list of N labels.

        Raises:
            ValueError: In a worker process, which cannot share the device's memory,
                or if seeds are missing.
        """
        if get_worker_info() is not None:
            raise ConfigError(
                'InMemory needs num_workers=0: there is nothing to wait for'
            )
        rows = torch.tensor(indices, device='cpu').to(self.images.device)
        images = self.images[rows]
        if self.padding or self.flip_prob:
            if not isinstance(indices[0], SeededIndex):
                raise ConfigError(
                    'InMemory augments by the seed and epoch of its indices: it needs '
                    "sampler=dict(type='ExactSampler')"
                )
            seed, _, epoch, _ = indices[0].seed
            offsets, flips = self._draw(seed, epoch)
            images = crop_and_flip(images, offsets[rows], flips[rows], self.padding)
        samples = []
        for index, label in zip(indices, self.labels[rows].split(1), strict=True):
            sample = DataSample()
            # Half the time of set_gt_label, which checks what is known here.
            sample.set_field(label, 'gt_label')
            sample.set_field(int(index), 'sample_idx', field_type='metainfo')
            samples.append(sample)
        return dict(inputs=images, data_samples=samples)

    def __getitem__(self, index: int) -> dict:
        """One sample, in the form of one from an ordinary pipeline."""
        batch = self.__getitems__([index])
        return dict(inputs=batch['inputs'][0], data_samples=batch['data_samples'][0])


@FUNCTIONS.register_module()
def as_is(batch: dict) -> dict:
    """Collate what is a batch already."""
    return batch


def keep_in_memory(dataloader: ConfigDict) -> None:
    """Rewrite a data loader's config to keep its data set in memory.

    Args:
        dataloader (ConfigDict): With a ``DefaultSampler``; changed in place.
    """
    dataloader.dataset = dict(type='InMemory', dataset=dataloader.dataset)
    dataloader.sampler.type = 'ExactSampler'
    dataloader.collate_fn = dict(type='as_is')
    dataloader.num_workers = 0
    dataloader.persistent_workers = dataloader.pin_memory = False
