import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmpretrain.datasets import CIFAR10
from mmpretrain.registry import DATASETS
from PIL import Image

from mmirnet.datasets import Digits, InMemory
from mmirnet.datasets.copies import cifar10_copy

init_default_scope('mmpretrain')
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]


@pytest.mark.parametrize(
    ('suffix', 'wanted'),
    [('jpg', 'CIFAR-10: JPEG copy in '), ('png', 'CIFAR-10: .png files in ')],
)
@pytest.mark.parametrize('kept', [False, True])
def test_a_folder_is_named_by_its_files(tmp_path, suffix, wanted, kept):
    for name in CIFAR10.METAINFO['classes']:
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(
            tmp_path / name / f'0.{suffix}'
        )
    spec = dict(type='CustomDataset', data_root=str(tmp_path), pipeline=PIPELINE)
    dataset = InMemory(spec, 'cpu') if kept else DATASETS.build(spec)
    assert cifar10_copy(dataset).startswith(f'{wanted}{tmp_path}')


def test_pickles_are_those_of_the_archive():
    dataset = CIFAR10('none', 'test', lazy_init=True)
    assert cifar10_copy(dataset) == 'CIFAR-10: pickles of the official archive'


def test_other_data_sets_have_no_copy():
    assert cifar10_copy(Digits(split='test')) is None
    assert cifar10_copy([1, 2]) is None
