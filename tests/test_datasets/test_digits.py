import numpy as np
import pytest
from mmpretrain.registry import DATASETS
from sklearn.datasets import load_digits

from mmirnet.datasets import Digits, digits


@pytest.fixture(scope='module')
def splits():
    return {
        s: DATASETS.build(dict(type='mmpretrain.Digits', split=s))
        for s in ('train', 'test')
    }


def items(dataset):
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def test_every_digit_is_in_one_split(splits):
    assert [len(splits[s]) for s in ('train', 'test')] == [1437, 360]
    # corners of the enlarged images are the corners of the small ones
    corners = sorted(item['img'][0, 0, 0] for s in splits.values() for item in items(s))
    originals = sorted(np.round(load_digits().images[:, 0, 0] * 255 / 16))
    assert corners == originals


def test_classes_have_the_same_share_in_both(splits):
    shares = [
        np.bincount([i['gt_label'] for i in items(s)]) / len(s) for s in splits.values()
    ]
    assert np.abs(shares[0] - shares[1]).max() < 0.005
    assert splits['test'].metainfo['classes'] == [str(i) for i in range(10)]


def test_images(splits):
    images = np.stack([i['img'] for i in items(splits['train'])])
    assert images.shape == (1437, 32, 32, 3) and images.dtype == np.uint8
    assert images.max() == 255 and images.min() == 0
    assert (images[..., 0] == images[..., 2]).all()


def test_the_division_never_changes(splits):
    again = items(Digits(split='test'))
    for a, b in zip(items(splits['test']), again, strict=True):
        assert a['gt_label'] == b['gt_label'] and (a['img'] == b['img']).all()


def test_unknown_split():
    with pytest.raises(ValueError, match=r"split must be one of .*'test'.*'val'"):
        Digits(split='val')


def test_without_scikit_learn(monkeypatch):
    import sys

    digits._parsed.cache_clear()
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        Digits()
