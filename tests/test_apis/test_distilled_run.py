"""A run with a teacher through the tools' functions, on a few digits."""

import json
import shutil

import pytest
import torch
from killed_runs import differences, state
from mmpretrain.registry import MODELS
from small_run import ROOT, small_config

from mmirnet import apis
from mmirnet.apis.packing import pack_checkpoint
from mmirnet.engine.config import load_config
from mmirnet.engine.facts import build_model
from mmirnet.errors import CheckpointError, ConfigError, DataError

pytestmark = pytest.mark.usefixtures('small_resnets')

TEACHER = f"""
_base_ = '{ROOT}/configs/irnet/resnet20_bireal_digits.py'
model = dict(
    backbone=dict(
        conv_cfg=dict(_delete_=True, type='Conv2d'),
        act_cfg=dict(_delete_=True, type='ReLU'),
    )
)
"""
STUDENT = """
model = dict(
    type='BinaryClassifier',
    teacher=dict(type='Teacher', config='{folder}/teacher.py', checkpoint='{weights}'),
    label_weight=0.5,
)
"""
EVERYTHING = """
custom_hooks = [dict(type='EDEHook'), dict(type='EMAHook')]
default_hooks = dict(
    compile=dict(type='CompileHook', backend='eager'),
    checkpoint=dict(max_keep_ckpts=-1),
)
optim_wrapper = dict(type='Bf16OptimWrapper')
"""


def written(folder, name, extra='', classes=None, weights=None):
    """A student's config with a teacher beside it."""
    (folder / 'teacher.py').write_text(TEACHER)
    cfg = load_config(str(folder / 'teacher.py'), None, 'none')
    torch.manual_seed(3)
    network = dict(state_dict=build_model(cfg, None).state_dict(), meta={})
    if classes is not None:
        network['meta']['dataset_meta'] = dict(classes=classes)
    torch.save(network, folder / 'teacher.pth')
    weights = weights or folder / 'teacher.pth'
    text = STUDENT.format(folder=folder, weights=weights)
    return str(small_config(folder / name, text + extra))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A finished run with averaging, compilation and mixed precision."""
    folder = tmp_path_factory.mktemp('distilled')
    config = written(folder, 'run', EVERYTHING)
    apis.train(config, work_dir=str(folder / 'run'))
    return config, folder / 'run'


def test_the_log_shows_the_sum_and_its_parts(run):
    scalars = next(run[1].glob('*/vis_data/scalars.json')).read_text().splitlines()
    logged = [json.loads(line) for line in scalars if 'loss' in line]
    assert logged
    for line in logged:
        parts = [line[f'{name}_loss'] for name in ('label', 'distillation')]
        assert min(parts) > 0
        assert line['loss'] == pytest.approx(sum(parts), rel=1e-5)


def test_a_resumed_run_ends_as_the_unbroken_one(run, tmp_path):
    config, folder = run
    shutil.copy(folder / 'epoch_1.pth', tmp_path / 'epoch_1.pth')
    apis.train(config, work_dir=str(tmp_path), resume='auto')
    whole = state(folder)
    assert differences(whole, state(tmp_path)) == []
    assert {name.split('.')[0] for name in whole['state_dict']} == {'backbone', 'head'}


def test_afterwards_nobody_needs_the_teacher(run, tmp_path):
    config, folder = run
    checkpoint = str(folder / 'epoch_2.pth')
    packed = str(tmp_path / 'model.safetensors')
    for name in ('teacher.pth', 'teacher.py'):
        (folder.parent / name).rename(folder.parent / f'no {name}')
    try:
        metrics = apis.evaluate(config, checkpoint, work_dir=str(tmp_path))
        pack_checkpoint(config, checkpoint, packed)
        assert apis.evaluate(config, packed, work_dir=str(tmp_path)) == metrics
    finally:
        for name in ('teacher.pth', 'teacher.py'):
            (folder.parent / f'no {name}').rename(folder.parent / name)


@pytest.mark.parametrize(
    'options, error, message',
    [
        (
            {'model.teacher.checkpoint': 'gone.pth'},
            CheckpointError,
            'model.teacher.checkpoint: checkpoint gone.pth: there is no such file',
        ),
        ({'model.teacher.config': 'gone.py'}, ConfigError, 'model.teacher.config: '),
        (
            {'model.head.num_classes': 11},
            ConfigError,
            'model.teacher has 10 classes, and model.head.num_classes is 11',
        ),
        (
            {'data_preprocessor.mean': [0.0, 0.0, 0.0]},
            ConfigError,
            'model.teacher was trained on images with',
        ),
        (
            {'model.teacher.chekpoint': 'a.pth'},
            ConfigError,
            "model.teacher: Teacher has no argument 'chekpoint'; did you mean",
        ),
        (
            {'model.distillation.type': 'DistilationLoss'},
            ConfigError,
            "model.distillation.type: .* did you mean 'DistillationLoss'",
        ),
    ],
)
def test_mistakes_are_found_before_training(tmp_path, options, error, message):
    config = written(tmp_path, 'run')
    with pytest.raises(error, match=message) as caught:
        apis.train(config, work_dir=str(tmp_path / 'w'), cfg_options=options)
    assert '\n' not in str(caught.value)


def test_a_teacher_that_takes_other_images(tmp_path):
    config = written(tmp_path, 'run')
    backbone = dict(type='LeNet5', num_classes=10)
    teacher = dict(type='ImageClassifier', backbone=backbone, head=dict(type='ClsHead'))
    torch.save(MODELS.build(teacher).state_dict(), tmp_path / 'teacher.pth')
    message = r'model.teacher.backbone.features.0 takes 1 channels, but gets 3, from'
    with pytest.raises(DataError, match=message):
        apis.train(
            config,
            work_dir=str(tmp_path / 'w'),
            cfg_options={'model.teacher.config': dict(teacher, _delete_=True)},
        )


def test_a_teacher_with_the_classes_in_another_order(tmp_path):
    config = written(tmp_path, 'run', classes=list('9876543210'))
    with pytest.raises(DataError, match='the teacher'):
        apis.train(config, work_dir=str(tmp_path / 'w'))
