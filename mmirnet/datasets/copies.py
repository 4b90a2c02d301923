"""Which copy of CIFAR-10 a data set reads: the lossless archive, or image files."""

from pathlib import Path

from mmpretrain.datasets import CIFAR10
from torch.utils.data import Dataset

#: Suffixes of formats that change the pixels.
_LOSSY = {'.jpg', '.jpeg'}


def cifar10_copy(dataset: Dataset) -> str | None:
    """Says which copy of CIFAR-10 a data set reads.

    Args:
        dataset (Dataset): The data set.

    Returns:
        str | None: One line, or None if it is not CIFAR-10.
    """
    if copies := getattr(dataset, 'copies', None):  # of images in memory
        return copies[0]
    if type(dataset) is CIFAR10:
        return 'CIFAR-10: pickles of the official archive'
    classes = dataset.metainfo.get('classes') if hasattr(dataset, 'metainfo') else None
    if list(classes or ()) != list(CIFAR10.METAINFO['classes']) or not len(dataset):
        return None
    path = dataset.get_data_info(0).get('img_path')
    if path is None:
        return None
    suffix = Path(path).suffix.lower()
    if suffix in _LOSSY:
        return f'CIFAR-10: JPEG copy in {dataset.img_prefix}, not the lossless images'
    return f'CIFAR-10: {suffix} files in {dataset.img_prefix}'
