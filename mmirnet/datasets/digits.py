"""The handwritten digits of scikit-learn."""

import functools
from typing import Any

import mmcv
import numpy as np
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from ..errors import MissingPackageError, check_choice


@DATASETS.register_module()
class Digits(BaseDataset):
    """UCI's 1,797 handwritten digits of 8x8, as 32x32 images with three channels.

    The training split has four fifths of the images and the test split one fifth. Both
    have the same share of each class, and the split is fixed.

    Args:
        split (str): 'train' (1,437 images) or 'test' (360).
        **kwargs: Arguments of MMPretrain's ``BaseDataset``: ``pipeline``,
            ``test_mode``, ``indices``.

    Raises:
        ValueError: If the split is unknown.
        ImportError: If scikit-learn is not installed.

    Example:
        >>> item = Digits(split='test').get_data_info(0)
        >>> item['img'].shape, item['img'].dtype, item['gt_label']
        ((32, 32, 3), dtype('uint8'), 7)
    """

    METAINFO = {'classes': [str(i) for i in range(10)]}

    def __init__(self, split: str = 'train', **kwargs) -> None:
        check_choice('split', split, ('train', 'test'))
        self.split = split
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Reads and splits the images, scales them to 0..255 and resizes them."""
        try:
            from sklearn.model_selection import train_test_split

            digits = _parsed()
        except ImportError as e:
            raise MissingPackageError(
                'the Digits data set needs scikit-learn: pip install scikit-learn'
            ) from e
        indices = train_test_split(
            np.arange(len(digits.target)),
            test_size=0.2,
            stratify=digits.target,
            random_state=0,
        )[self.split == 'test']
        images = np.round(digits.images[indices] * (255 / 16)).astype(np.uint8)
        labels = digits.target[indices]
        return [
            dict(
                img=np.dstack([mmcv.imresize(image, (32, 32))] * 3), gt_label=int(label)
            )
            for image, label in zip(images, labels, strict=True)
        ]


@functools.cache
def _parsed() -> Any:
    """What scikit-learn reads; it parses a text each time."""
    from sklearn.datasets import load_digits

    return load_digits()
