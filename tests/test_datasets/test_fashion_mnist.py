import numpy as np
import pytest

from mmirnet.datasets import FashionMNIST32


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b''.join(
        n.to_bytes(4, 'big') for n in array.shape
    )
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize('split, files', [('train', 'train'), ('test', 't10k')])
def test_pads_two_pixels_and_repeats_the_channel(tmp_path, split, files):
    rng = np.random.default_rng(0)
    images, labels = {}, {}
    for name in ('train', 't10k'):
        images[name] = rng.integers(1, 255, (3, 28, 28), dtype=np.uint8)
        labels[name] = rng.permutation(10)[:3].astype(np.uint8)
        write_idx(tmp_path / f'{name}-images-idx3-ubyte', images[name])
        write_idx(tmp_path / f'{name}-labels-idx1-ubyte', labels[name])
    dataset = FashionMNIST32(data_root=str(tmp_path), split=split)
    item = dataset.get_data_info(1)
    assert item['img'].shape == (32, 32, 3)
    assert item['gt_label'] == labels[files][1]
    for channel in range(3):
        assert (item['img'][2:-2, 2:-2, channel] == images[files][1]).all()
    assert item['img'].sum() == 3 * images[files][1].sum(dtype=int)
    assert dataset.metainfo['classes'][9] == 'Ankle boot'


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere.*prepare_fashion_mnist'):
        FashionMNIST32(data_root=str(tmp_path / 'nowhere'))
