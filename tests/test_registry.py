import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS, MODELS, OPTIMIZERS
from mmpretrain.models import ImageClassifier
from torch import nn

from mmirnet.binary import IRConv2d
from mmirnet.registry import (
    find_class,
    nearest,
    refused_settings,
    registered_names,
)


@pytest.mark.parametrize(
    'kind', ['DefaultSampler', 'mmengine.DefaultSampler', DefaultSampler]
)
@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain'])
def test_finds_a_class_by_any_of_its_names(kind, scope):
    assert find_class(DATA_SAMPLERS, kind, scope) is DefaultSampler


def test_finds_ours_from_the_scope_of_mmpretrain():
    assert find_class(MODELS, 'IRConv2d', 'mmpretrain') is IRConv2d
    assert 'IRConv2d' in registered_names(MODELS, 'mmpretrain')
    assert 'ReLU' in registered_names(MODELS, 'mmpretrain')


@pytest.mark.parametrize('kind', ['IRConv3d', 'absent.IRConv2d', ''])
def test_what_is_not_registered_is_none(kind):
    assert find_class(MODELS, kind, 'mmpretrain') is None


@pytest.mark.parametrize(
    ('name', 'near'), [('irCONV2D', 'IRConv2d'), ('IRConv', 'IRConv2d'), ('x', None)]
)
def test_nearest_name(name, near):
    assert nearest(name, ['IRConv2d', 'Linear']) == near


def error_of(**part):
    """The error of a part that MMPretrain builds as one of its classifiers' parts."""
    classifier = dict(backbone=dict(type='VGG', depth=11), neck=None, head=None) | part
    with pytest.raises(Exception) as caught:
        ImageClassifier(**classifier)
    return caught.value


class ReadsItsOptions(nn.Module):
    """A module of another package, with a bug."""

    def __init__(self, options):
        super().__init__()
        self.scale = options['scale']


class WrongInside(nn.Module):
    """A module of another package, which uses torch wrongly."""

    def __init__(self):
        super().__init__()
        self.act = nn.Dropout(2)


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        (
            dict(backbone=dict(type='VGG', depth=12)),
            'VGG: invalid depth 12 for vgg',
        ),
        (
            dict(
                head=dict(
                    type='LinearClsHead',
                    num_classes=2,
                    in_channels=3,
                    loss=dict(type='LabelSmoothLoss', label_smooth_val=3),
                )
            ),
            'LabelSmoothLoss: LabelSmoothLoss accepts a float label_smooth_val over',
        ),
        (
            dict(
                neck=dict(
                    type='IRConv2d',
                    in_channels=3,
                    out_channels=4,
                    kernel_size=3,
                    groups=2,
                )
            ),
            'IRConv2d: in_channels must be divisible by groups',
        ),
        (dict(neck=dict(type='Absent')), 'Absent is not in the '),
    ],
)
def test_a_class_that_refuses_its_settings_is_named(part, message):
    assert refused_settings(error_of(**part)).startswith(message)


@pytest.mark.parametrize(
    'neck',
    [
        dict(type=ReadsItsOptions, options={}),
        dict(type=WrongInside),
    ],
)
def test_what_may_be_a_bug_is_not_explained(neck):
    assert refused_settings(error_of(neck=neck)) is None


def test_what_others_build_is_not_explained():
    with pytest.raises(ValueError, match='Invalid') as caught:
        OPTIMIZERS.build(dict(type='SGD', params=[torch.ones(1)], lr=-1))
    assert refused_settings(caught.value) is None
    with pytest.raises(ValueError, match='dropout') as caught:
        nn.Dropout(2)
    assert refused_settings(caught.value) is None
