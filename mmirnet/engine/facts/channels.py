"""Determines order and normalisation of the channels of a network's images."""

import os
import tempfile

import mmcv
import numpy as np
from mmcv.transforms import Normalize
from mmengine.dataset import default_collate
from mmpretrain.datasets import PackInputs
from torch import Tensor, nn
from torch.utils.data import Dataset

from .data_sets import (
    FILE_SIZES,
    HELD_SHAPES,
    held_shape,
    own_transforms,
    parts,
    transforms,
)


def reverses_channels(model: nn.Module) -> bool:
    """Whether a model's data preprocessor reverses the three channels of an image.

    Args:
        model (nn.Module): The model.

    Returns:
        bool: The answer, determined with two images that differ in the first channel.
    """
    black, marked = np.zeros((2, 1, 1, 3), np.uint8)
    marked[..., 0] = 255
    batch = default_collate([PackInputs()(dict(img=img)) for img in (black, marked)])
    one, other = model.data_preprocessor(batch, False)['inputs']
    return (one != other).flatten(1).any(1).nonzero().flatten().tolist() == [2]


def held_order(dataset: Dataset, turned: bool = False) -> str:
    """Determines the channel order of the images in a data set.

    CIFAR-10, the digits and Fashion-MNIST have RGB images. For other data sets, the
    data preprocessor decides: BGR if it reverses the channels.

    Args:
        dataset (Dataset): A data set that holds its images.
        turned (bool): Whether the data preprocessor reverses the order. Defaults to
            False.

    Returns:
        str: ``'rgb'`` or ``'bgr'``, or ``'grey'`` unless there are three channels.
    """
    if held_shape(dataset)[2:] != (3,):
        return 'grey'
    known = isinstance(parts(dataset)[0], tuple(HELD_SHAPES))
    return 'bgr' if turned and not known else 'rgb'


def normalised_twice(dataset: Dataset, model: nn.Module) -> bool:
    """Whether both the pipeline and the model's preprocessor normalise the images.

    Args:
        dataset (Dataset): The data set.
        model (nn.Module): The model, without wrappers.

    Returns:
        bool: The answer.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    if not isinstance(getattr(preprocessor, 'mean', None), Tensor):
        return False
    return any(
        isinstance(t, Normalize) for p in parts(dataset) for t in own_transforms(p)
    )


def channel_order(dataset: Dataset, turned: bool = False) -> str:
    """Determines the channel order of the output of a data set's pipeline.

    The function sends a red and a blue file through the pipeline. For data sets that
    hold their images, see :func:`held_order`.

    Args:
        dataset (Dataset): The data set.
        turned (bool): Whether the data preprocessor reverses the order. Defaults to
            False.

    Returns:
        str: ``'rgb'`` or ``'bgr'``, or ``'grey'`` unless there are three channels.

    Raises:
        ConfigError: If the pipeline does not read files.

    Example:
        >>> from mmirnet.datasets import Digits
        >>> channel_order(Digits(split='test', pipeline=[dict(type='PackInputs')]))
        'rgb'
    """
    if held_shape(dataset) is not None:
        return held_order(dataset, turned)
    chain = mmcv.transforms.Compose(transforms(dataset))
    sums = []
    with tempfile.TemporaryDirectory() as folder:
        for colour in ((0, 0, 255), (255, 0, 0)):  # red and blue, written as BGR
            path = os.path.join(folder, 'colour.png')
            mmcv.imwrite(np.full((*FILE_SIZES[1], 3), colour, np.uint8), path)
            inputs = chain(dict(img_path=path, gt_label=0, sample_idx=0))['inputs']
            sums.append(inputs.double().sum((1, 2)))
    if len(sums[0]) != 3:
        return 'grey'
    return 'rgb' if sums[0][0] > sums[1][0] else 'bgr'
