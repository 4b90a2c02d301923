"""Fashion-MNIST in the shape that networks for CIFAR take."""

import numpy as np
from mmpretrain.datasets import FashionMNIST
from mmpretrain.registry import DATASETS


@DATASETS.register_module()
class FashionMNIST32(FashionMNIST):
    """Fashion-MNIST, 28x28 grey, padded to 32x32 and repeated to three channels.

    Args:
        data_root (str): Folder with the four unpacked IDX files, as
            ``tools/prepare_fashion_mnist.py`` makes it.
        split (str): 'train' (60,000 images) or 'test' (10,000).
        download (bool): Fetch the files where there is a network.
        **kwargs: As for MMPretrain's ``FashionMNIST``.

    Raises:
        FileNotFoundError: If the files are missing and may not be downloaded.
    """

    def __init__(
        self, data_root: str, split: str = 'train', download: bool = False, **kwargs
    ) -> None:
        # MMPretrain 1.2 reads the test files by test_mode, whatever split says.
        super().__init__(
            data_root=data_root,
            split=split,
            download=download,
            test_mode=split == 'test',
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """Read all images; pad 2 pixels on each side."""
        if not self.download and not self._check_exists():
            raise FileNotFoundError(
                f'no Fashion-MNIST in data_root={self.data_root!r}: make it with '
                'tools/prepare_fashion_mnist.py, or set download=True'
            )
        data_list = super().load_data_list()
        for item in data_list:
            item['img'] = np.dstack([np.pad(item['img'], 2)] * 3)
        return data_list
