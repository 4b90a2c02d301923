import numpy as np
import pytest
import torch

from mmirnet.engine.labels import class_name_problems, label_problems, line_problems
from mmirnet.errors import DataError


@pytest.mark.parametrize(
    ('others', 'kind', 'message'),
    [
        (['a', 'b', 'c'], None, None),
        (
            ['a', 'c'],
            DataError,
            "test has no class 'b', which train has: label 1 is 'c' in test and 'b' in "
            'train; give both the same classes in the same order (an empty folder for '
            'a class without images)',
        ),
        (['a', 'b'], UserWarning, "test has no class 'c', which train has"),
        (
            ['a', 'b', 'c', 'd'],
            DataError,
            "test has a class 'd', which train has not; give both the same classes",
        ),
        (['A', 'a', 'b', 'c'], DataError, "label 0 is 'A' in test and 'a' in train"),
        (['b', 'a', 'c'], DataError, 'test has the classes of train in another order'),
        (['x', 'y', 'z'], DataError, "label 0 is 'x' in test and 'a' in train"),
        (['a', 'x', 'c'], UserWarning, "label 1 is 'x' in test and 'b' in train"),
        (['a', 'b', 'b'], DataError, "test has the class 'b' twice"),
    ],
    ids=repr,
)
def test_classes_by_name_and_order(others, kind, message):
    found = list(class_name_problems({'train': ('a', 'b', 'c'), 'test': others}))
    if kind is None:
        assert found == []
    else:
        assert type(found[0]) is kind
        assert message in str(found[0])


def test_long_lists_of_classes_are_cut():
    names = {'train': 'abcdefgh', 'test': 'h'}
    (problem,) = class_name_problems(names)
    assert "no class 'a', 'b', 'c' and 4 more, which" in str(problem)


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        (['a.png 0', 'with space.png 1'], None),
        (
            ['a.png 1', 'b.png 2'],
            'l.txt, line 2: label 2 is not in 0 to 1; the labels count from 1, and '
            'have to count from 0',
        ),
        (['a.png 0', 'b.png -1'], 'l.txt, line 2: label -1 is not in 0 to 1; classes'),
        (
            ['a.png 7', 'b.png 0', 'c.png 8'],
            'l.txt, line 1 (and 1 other): label 7 is not in 0 to 1',
        ),
        (['a.png 0', 'b.png cat'], "line 2: needs FILE LABEL .* got 'b.png cat'"),
        (['a.png 0', 'b.png 1.0'], "line 2: needs FILE LABEL .* got 'b.png 1.0'"),
        (['a.png 0', '', 'b.png 1'], "line 2: needs FILE LABEL .* got ''"),
        (['a.png'], "line 1: needs FILE LABEL .* got 'a.png'"),
        ([], 'l.txt is empty'),
    ],
    ids=repr,
)
def test_lines_of_a_list(lines, message):
    found = [str(problem) for problem in line_problems('l.txt', lines, 2)]
    if message is None:
        assert found == []
    else:
        (line,) = found
        assert message.partition(' .* ')[0] in line
        assert line.endswith(message.partition(' .* ')[2])


@pytest.mark.parametrize('label', [1, np.int64(1), np.array(1), torch.tensor(1), True])
def test_numbers_of_any_kind_are_labels(label):
    assert list(label_problems('train', [dict(gt_label=label)], 2, False)) == []


@pytest.mark.parametrize(
    ('label', 'several', 'message'),
    [
        (2, False, 'train, a.png: label 2 is not in 0 to 1'),
        (-1, None, 'train, a.png: label -1 is not in 0 to 1'),
        ('cat', False, "train, a.png: the label 'cat' is no class number"),
        (1.0, False, 'train, a.png: the label 1.0 is no class number'),
        (None, False, 'the label None is no class number'),
        ([0, 1], False, 'label [0, 1] is not a single number; the head for several'),
        ([0, 1], True, None),
        ([], True, None),
        ([0, 2], True, 'label 2 is not in 0 to 1'),
        ([0.0, 1.0], True, 'the label [0.0, 1.0] is no class number'),
    ],
    ids=repr,
)
def test_labels_of_samples(label, several, message):
    samples = [dict(gt_label=0), dict(gt_label=label, img_path='a.png')]
    found = [str(p) for p in label_problems('train', samples, 2, several)]
    if message is None:
        assert found == []
    else:
        (line,) = found
        assert message in line


def test_samples_without_labels_pass():
    assert list(label_problems('train', [dict(img_path='a.png')], 2, False)) == []


def test_one_hot_labels_are_named():
    (problem,) = label_problems('train', [dict(gt_label=[0, 1, 0])], 3, True)
    assert str(problem) == (
        'train: labels such as [0, 1, 0] are one-hot; gt_label takes class numbers, '
        'gt_score takes these'
    )


def test_without_a_number_of_classes_labels_are_not_negative():
    samples = [dict(gt_label=label) for label in (99, -1, -2)]
    (problem,) = label_problems('train', samples, None, None)
    assert str(problem).startswith('train, sample 1 (and 1 other): label -1')
