"""Tests for the data samples of whole batches."""

import copy
import pickle

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

from mmirnet.datasets.labelled import labelled


def parts(labels):
    return [sample.gt_label for sample in labelled(labels, join=True)]


@pytest.mark.parametrize('join', [False, True])
def test_samples_have_the_labels(join):
    labels = torch.tensor([3, 1, 2])
    samples = labelled(labels, [5, 6, 7], join=join)
    assert [s.sample_idx for s in samples] == [5, 6, 7]
    assert [s.gt_label.tolist() for s in samples] == [[3], [1], [2]]


def test_joined_labels_are_those_of_the_batch():
    labels = torch.tensor([3, 1, 2])
    joined = torch.cat(parts(labels))
    assert joined.data_ptr() == labels.data_ptr()
    assert type(joined) is torch.Tensor
    assert joined.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    'choose',
    [
        lambda p: p[::-1],
        lambda p: p[::2],
        lambda p: [p[0], p[0]],
        lambda p: [p[0], p[1].clone()],
        lambda p: [p[0], torch.tensor([9, 9])],
        lambda p: [p[0] + 1, p[1]],
    ],
    ids=['reversed', 'gap', 'twice', 'copy', 'other', 'changed'],
)
def test_other_parts_are_joined_as_usual(choose):
    labels = torch.tensor([3, 1, 2, 4])
    chosen = choose(parts(labels))
    expected = [value for part in chosen for value in part.tolist()]
    joined = torch.cat(chosen)
    assert joined.tolist() == expected
    assert joined.data_ptr() != labels.data_ptr()


def test_the_rest_of_a_batch_is_joined():
    labels = torch.tensor([3, 1, 2, 4])
    assert torch.cat(parts(labels)[1:3]).tolist() == [1, 2]


def test_batches_beside_each_other_in_memory_are_joined_as_usual():
    memory = np.arange(8)
    first, second = (torch.from_numpy(half) for half in (memory[:4], memory[4:]))
    joined = torch.cat(parts(first) + parts(second))
    assert joined.tolist() == list(range(8))


def test_labels_are_joined_by_a_compiled_function():
    def loss(samples, scores):
        target = torch.cat([sample.gt_label for sample in samples])
        return nn.functional.cross_entropy(scores, target)

    labels, scores = torch.tensor([3, 1, 2, 4]), torch.randn(4, 5)
    whole = torch.__version__ >= '2.11'  # Dynamo of 2.6 does not know such labels
    compiled = torch.compile(loss, backend='eager', fullgraph=whole)
    wanted = nn.functional.cross_entropy(scores, labels)
    assert compiled(labelled(labels, join=True), scores) == wanted


def test_other_functions_give_ordinary_tensors():
    label = parts(torch.tensor([3, 1]))[1]
    copies = copy.deepcopy(label), pickle.loads(pickle.dumps(label))
    for value in (label + 1, label[:1], label.clone(), *copies):
        assert type(value) is torch.Tensor
    assert torch.cat(parts(torch.tensor([3, 1])), dim=0).tolist() == [3, 1]
    assert [value.tolist() for value in copies] == [[1], [1]]
    assert label.item() == 1
    assert torch.stack(parts(torch.tensor([3, 1]))).tolist() == [[3], [1]]


def test_preprocessor_and_head_copy_no_labels():
    labels = torch.tensor([3, 1, 2])
    batch = dict(
        inputs=torch.zeros(3, 3, 8, 8, dtype=torch.uint8),
        data_samples=labelled(labels, join=True),
    )
    preprocessor = MODELS.build(
        dict(type='mmpretrain.ClsDataPreprocessor', num_classes=10)
    )
    samples = preprocessor(batch, training=True)['data_samples']
    seen = []
    head = MODELS.build(
        dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=4)
    )
    head.loss_module.forward = lambda score, target, **kwargs: seen.append(target)
    head.loss((torch.zeros(3, 4),), samples)
    assert seen[0].data_ptr() == labels.data_ptr()
    assert seen[0].tolist() == [3, 1, 2]
