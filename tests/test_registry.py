import pytest
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS, MODELS

from mmirnet.binary import IRConv2d
from mmirnet.registry import find_class, nearest, registered_names


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
