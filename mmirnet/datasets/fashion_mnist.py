"""Fashion-MNIST in the input format of networks for CIFAR."""

import numpy as np
from mmpretrain.datasets import FashionMNIST
from mmpretrain.registry import DATASETS


@DATASETS.register_module()
class FashionMNIST32(FashionMNIST):
    """Fashion-MNIST, 28x28 grey, padded to 32x32 and repeated to three channels.

    Args:
        data_root (str): Folder with the four unpacked IDX files, as created by
            ``tools/prepare_fashion_mnist.py``.
        split (str): 'train' (60,000 images) or 'test' (10,000).
        download (bool): Whether to download missing files.
        **kwargs: Arguments of MMPretrain's ``FashionMNIST``.

    Raises:
        FileNotFoundError: If the files are missing and ``download`` is False.
    """

    def __init__(
        self, data_root: str, split: str = 'train', download: bool = False, **kwargs
    ) -> None:
        # MMPretrain 1.2 reads the test files if test_mode is set, whatever split is.
        super().__init__(
            data_root=data_root,
            split=split,
            download=download,
            test_mode=split == 'test',
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """Reads all images and pads them by 2 pixels on each side."""
        if not self.download and not self._check_exists():
            raise FileNotFoundError(
                f'no Fashion-MNIST in data_root={self.data_root!r}: make it with '
                'tools/prepare_fashion_mnist.py, or set download=True'
            )
        data_list = super().load_data_list()
        for item in data_list:
            item['img'] = np.dstack([np.pad(item['img'], 2)] * 3)
        return data_list
