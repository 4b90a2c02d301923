import numpy as np
import pytest

from mmirnet.datasets import FashionMNIST32, InMemory


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b''.join(
        n.to_bytes(4, 'big') for n in array.shape
    )
    path.write_bytes(header + array.tobytes())


@pytest.fixture
def written(tmp_path):
    """Three random images of each split as IDX files in tmp_path."""
    rng = np.random.default_rng(0)
    images, labels = {}, {}
    for name in ('train', 't10k'):
        images[name] = rng.integers(1, 255, (3, 28, 28), dtype=np.uint8)
        labels[name] = rng.permutation(10)[:3].astype(np.uint8)
        write_idx(tmp_path / f'{name}-images-idx3-ubyte', images[name])
        write_idx(tmp_path / f'{name}-labels-idx1-ubyte', labels[name])
    return images, labels


@pytest.mark.parametrize('split, files', [('train', 'train'), ('test', 't10k')])
def test_pads_two_pixels_and_repeats_the_channel(tmp_path, written, split, files):
    images, labels = written
    dataset = FashionMNIST32(data_root=str(tmp_path), split=split)
    item = dataset.get_data_info(1)
    assert item['img'].shape == (32, 32, 3)
    assert item['gt_label'] == labels[files][1]
    for channel in range(3):
        assert (item['img'][2:-2, 2:-2, channel] == images[files][1]).all()
    assert item['img'].sum() == 3 * images[files][1].sum(dtype=int)
    assert dataset.metainfo['classes'][9] == 'Ankle boot'


def test_in_memory(tmp_path, written):
    images, labels = written
    spec = dict(type='FashionMNIST32', data_root=str(tmp_path))
    data = InMemory(dict(spec, pipeline=[dict(type='PackInputs')]), device='cpu')
    assert data.labels.tolist() == labels['train'].tolist()
    assert (data.images[:, 0, 2:-2, 2:-2].numpy() == images['train']).all()


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere.*prepare_fashion_mnist'):
        FashionMNIST32(data_root=str(tmp_path / 'nowhere'))
