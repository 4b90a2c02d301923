import json

import pytest
from mmengine.registry import init_default_scope
from mmpretrain.datasets import MultiTaskDataset
from mmpretrain.registry import DATASETS
from squares import squares
from torch.utils.data import Subset

from mmirnet.datasets import Digits
from mmirnet.datasets.seeding import SeededDataset
from mmirnet.engine.checks.data_sets import known_samples
from mmirnet.engine.facts import keyed_parts


def test_data_sets_below_wrappers_have_their_keys():
    init_default_scope('mmpretrain')
    part = DATASETS.build(squares())
    concat = DATASETS.build(
        dict(
            type='ConcatDataset',
            datasets=[
                squares(),
                dict(type='RepeatDataset', times=2, dataset=squares()),
            ],
        )
    )
    found = dict(keyed_parts(SeededDataset(concat), 'data'))
    assert list(found) == ['data.datasets[0]', 'data.datasets[1].dataset']
    assert list(keyed_parts(Subset(part, [0]), 'data')) == [('data.dataset', part)]


@pytest.mark.parametrize('serialize', [True, False])
def test_labels_are_known_without_reading_images(serialize):
    init_default_scope('mmpretrain')
    data = DATASETS.build(squares([2, 0, 1], serialize_data=serialize))
    assert known_samples(data) == [dict(gt_label=i) for i in (2, 0, 1)]
    digits = Digits(split='test')
    labels = [digits.get_data_info(i)['gt_label'] for i in range(len(digits))]
    assert [s['gt_label'] for s in known_samples(digits)] == labels


def test_labels_of_several_tasks_are_known(tmp_path):
    samples = [dict(img_path='a.png', gt_label=dict(kind=1, sex=0))]
    path = tmp_path / 'tasks.json'
    path.write_text(json.dumps(dict(metainfo={}, data_list=samples)))
    (sample,) = known_samples(MultiTaskDataset(str(path), data_root='/data'))
    assert sample == dict(img_path='/data/a.png', gt_label=dict(kind=1, sex=0))


def test_data_sets_of_other_tasks_are_not_read(monkeypatch):
    init_default_scope('mmpretrain')
    data = DATASETS.build(squares())
    monkeypatch.setattr(data, 'get_data_info', lambda i: dict(instances=[i]))
    assert known_samples(data) is None
    assert known_samples(Subset(data, [0])) is None
