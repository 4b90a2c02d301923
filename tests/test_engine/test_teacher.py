"""Where a teacher comes from, and what it has in common with its student."""

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from small_classifier import CLASSIFIER, NORMALISED
from small_classifier import build as classifier
from small_run import ROOT

from mmirnet.engine import Teacher
from mmirnet.errors import CheckpointError, ConfigError


def build(**options):
    return classifier(**dict(data_preprocessor=dict(NORMALISED)) | options)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'teacher.pth'
    torch.manual_seed(5)
    meta = dict(dataset_meta=dict(classes=('cat', 'dog', 'eel')))
    torch.save(dict(state_dict=build().state_dict(), meta=meta), path)
    return str(path)


def as_file(folder):
    path = folder / 'teacher.py'
    Config(dict(model=CLASSIFIER, data_preprocessor=NORMALISED)).dump(path)
    return str(path)


FORMS = {
    'model': lambda folder: CLASSIFIER,
    'model with preprocessor': lambda folder: dict(
        CLASSIFIER, data_preprocessor=NORMALISED
    ),
    'config': lambda folder: dict(model=CLASSIFIER, data_preprocessor=NORMALISED),
    'file': as_file,
}


@pytest.mark.parametrize('form', FORMS)
def test_configs_of_all_forms(tmp_path, checkpoint, form):
    teacher = Teacher(FORMS[form](tmp_path), checkpoint)
    student = build()
    teacher.load(student)
    saved = torch.load(checkpoint)['state_dict']
    loaded = teacher.network.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert teacher.classes == ['cat', 'dog', 'eel']


def test_a_name(tmp_path):
    """Of a config in this package; the weights are given."""
    path = str(tmp_path / 'resnet20.pth')
    cfg = Config.fromfile(ROOT / 'configs/irnet/resnet20_fp_cifar10.py')
    student = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    torch.save(student.state_dict(), path)
    teacher = Teacher('irnet_resnet20_fp_cifar10', path)
    teacher.load(student)
    images = torch.randn(2, 3, 8, 8)
    wanted = student.eval()(images)
    assert torch.equal(teacher.logits(images, student), wanted)


def other_head(**options):
    return dict(CLASSIFIER, head=dict(CLASSIFIER['head'], **options))


def other_images(**options):
    return dict(CLASSIFIER, data_preprocessor=dict(NORMALISED, **options))


@pytest.mark.parametrize(
    'config, message',
    [
        ('no_such.py', 'model.teacher.config: CONFIG no_such.py: there is no file'),
        ('resnet_of_dreams', "'resnet_of_dreams' is neither a config file"),
        (dict(CLASSIFIER, backbone=dict(type='SmallNett')), "did you mean 'SmallNet'"),
        (dict(train_cfg={}, model={}), 'model.teacher.config'),
        (
            dict(CLASSIFIER, head=None),
            'has no classes, and model.head.num_classes is 3',
        ),
        (other_head(num_classes=4), 'has 4 classes, and model.head.num_classes is 3'),
        (other_images(mean=[0.0, 0, 0]), r'trained on images with mean=\[0.0, 0.0'),
        (other_images(std=[1.0, 1, 1]), r'std=\[1.0, 1.0, 1.0\]'),
        (other_images(to_rgb=False), 'to_rgb=False, but gets .* to_rgb=True'),
        (
            dict(model=CLASSIFIER, data_preprocessor=None),
            'images with to_rgb=False, but gets',
        ),
    ],
)
def test_teachers_that_do_not_fit(tmp_path, config, message):
    if isinstance(config, dict):
        path = str(tmp_path / 'teacher.pth')
        spec = config.get('model', config)
        fits = spec and spec['backbone']['type'] == 'SmallNet'
        torch.save((MODELS.build(dict(spec)) if fits else build()).state_dict(), path)
    else:
        path = 'teacher.pth'
    with pytest.raises(ConfigError, match=message) as error:
        Teacher(config, path).load(build())
    assert '\n' not in str(error.value)


def test_a_checkpoint_that_is_not_there():
    with pytest.raises(
        CheckpointError, match=r'model.teacher.checkpoint: .*no such file'
    ):
        Teacher(CLASSIFIER, 'gone.pth').load(build())


def test_a_checkpoint_of_another_network(tmp_path):
    path = str(tmp_path / 'other.pth')
    torch.save(build(backbone=dict(type='LeNet5')).state_dict(), path)
    with pytest.raises(
        CheckpointError, match=r'model.teacher.checkpoint: .*another architecture'
    ):
        Teacher(CLASSIFIER, path).load(build())


def test_part_of_the_weights_is_not_enough(tmp_path, checkpoint):
    state = torch.load(checkpoint)['state_dict']
    del state['head.fc.bias']
    path = str(tmp_path / 'part.pth')
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r'head.fc.bias is missing in the file'):
        Teacher(CLASSIFIER, path).load(build())


def test_a_checkpoint_that_is_not_finite(tmp_path, checkpoint):
    content = torch.load(checkpoint)
    content['state_dict']['backbone.norm1.running_var'][2] = torch.inf
    path = str(tmp_path / 'infinite.pth')
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r'norm1.running_var of .* is not finite'):
        Teacher(CLASSIFIER, path).load(build())


def test_a_checkpoint_has_to_be_named():
    with pytest.raises(ConfigError, match=r'model.teacher.checkpoint=FILE sets it'):
        Teacher(CLASSIFIER).load(build())
