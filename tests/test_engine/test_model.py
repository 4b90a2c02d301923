import pytest
from small_run import ROOT

from mmirnet.datasets import FashionMNIST32
from mmirnet.engine.model import build_model, class_names, input_size
from mmirnet.engine.run import load_config


def read(name):
    return load_config(str(ROOT / f'configs/irnet/{name}.py'), None, 'none')


@pytest.mark.parametrize(
    ('config', 'size'),
    [('resnet18_bireal_in1k', (224, 224)), ('resnet20_bireal_cifar10', (32, 32))],
)
def test_image_size_comes_from_the_config(config, size):
    assert input_size(read(config)) == size


def test_class_names_are_the_data_sets():
    names = class_names(read('resnet20_bireal_fashionmnist'))
    assert names == list(FashionMNIST32.METAINFO['classes'])


def test_the_model_evaluates_with_the_configs_normalisation():
    cfg = read('resnet20_bireal_digits')
    model = build_model(cfg, None)
    assert not model.training
    mean = model.data_preprocessor.mean.flatten().tolist()
    assert mean == pytest.approx(cfg.data_preprocessor.mean)
