from pathlib import Path

import mmpretrain
import pytest
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.registry import HOOKS, TRANSFORMS
from mmpretrain.datasets import ImageNet
from mmpretrain.models import LinearClsHead
from small_run import ROOT

from mmirnet.engine import AtomicCheckpointHook, EDEHook
from mmirnet.engine.config_checks.keywords import keyword_problems, keywords
from mmirnet.models import BNLinearClsHead
from mmirnet.registry import find_class

CONFIGS = ROOT / 'configs'
TRAIN = ('train_dataloader', 'val_dataloader')


def digits(**changes):
    """The digits' config with changes by dotted key."""
    cfg = Config.fromfile(CONFIGS / 'irnet/resnet20_bireal_digits.py')
    cfg.merge_from_dict(changes)
    return cfg


def problems(cfg, loaders=TRAIN):
    return [str(problem) for problem in keyword_problems(cfg, loaders)]


@pytest.mark.parametrize(
    'path', sorted(CONFIGS.glob('[!_]*/*.py')), ids=lambda path: path.stem
)
def test_our_configs_have_no_wrong_names(path):
    assert problems(Config.fromfile(path), (*TRAIN, 'test_dataloader')) == []


def test_mmpretrains_configs_have_no_wrong_names():
    """One of each family; what its data sets need is not always installed."""
    root = Path(mmpretrain.__file__).parent / '.mim/configs'
    families = [
        'resnet',
        'vision_transformer',
        'swin_transformer',
        'mae',
        'simclr',
        'efficientnet',
    ]
    for family in families:
        path = sorted((root / family).glob('*.py'))[0]
        assert problems(Config.fromfile(path)) == [], path


@pytest.mark.parametrize(
    ('key', 'name'),
    [
        ('model.backbone', 'IRResNet_CIFAR'),
        ('model.backbone.conv_cfg', 'IRConv2d'),
        ('model.backbone.act_cfg', 'PReLU'),
        ('model.head.loss', 'CrossEntropyLoss'),
        ('optim_wrapper.optimizer', 'SGD'),
        ('train_dataloader.sampler', 'DefaultSampler'),
        ('train_dataloader.collate_fn', 'pseudo_collate'),
        ('val_evaluator', 'Accuracy'),
        ('param_scheduler', 'CosineAnnealingLR'),
    ],
)
def test_a_name_alone_is_no_part(key, name):
    lines = problems(digits(**{key: name}))
    assert lines == [f"{key}: write dict(type='{name}'), not only the name"]


def test_other_strings_are_left_alone():
    assert problems(digits(**{'model.backbone.init_cfg': 'as_it_is'})) == []


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'custom_hooks': [dict(type='EDEHook', t_mim=0.1)]},
            "custom_hooks[0]: EDEHook has no argument 't_mim'; did you mean 't_min'?",
        ),
        (
            {'custom_hooks': [dict(type=EDEHook, colour=1)]},
            "custom_hooks[0]: EDEHook has no argument 'colour'; allowed are "
            "['by_epoch', 'interval', 't_max', 't_min']",
        ),
        (
            {'custom_hooks': [dict(type='EMAHook', momentun=1e-3, begin_epoch=1)]},
            "custom_hooks[0]: EMAHook has no argument 'momentun'; did you mean "
            "'momentum'?",
        ),
        (
            {
                'custom_hooks': [
                    dict(type=EMAHook, ema_type='StochasticWeightAverage', momentum=1)
                ]
            },
            "custom_hooks[0]: EMAHook has no argument 'momentum'; allowed are "
            "['begin_epoch', 'begin_iter', 'device', 'ema_type', 'interval', "
            "'strict_load', 'update_buffers']",
        ),
        (
            {'default_hooks.checkpoint.intervall': 1},
            'default_hooks.checkpoint: AtomicCheckpointHook has no argument '
            "'intervall'; did you mean 'interval'?",
        ),
        (
            {'model.backbone.structur': 'bireal'},
            "model.backbone: IRResNet_CIFAR has no argument 'structur'; did you mean "
            "'structure'?",
        ),
        (
            {'model.backbone.norm_evil': True},
            "model.backbone: IRResNet_CIFAR has no argument 'norm_evil'; did you mean "
            "'norm_eval'?",
        ),
        (
            {'model.backbone.conv_cfg.estimater': 'ede'},
            "model.backbone.conv_cfg: IRConv2d has no argument 'estimater'; did you "
            "mean 'estimator'?",
        ),
        (
            {'model.head': dict(type='BNLinearClsHead', num_classes=2, _delete_=True)},
            "model.head: BNLinearClsHead needs the argument 'in_channels'",
        ),
        (
            {'model.head.topkk': 1},
            "model.head: BNLinearClsHead has no argument 'topkk'; did you mean 'topk'?",
        ),
        (
            {'train_dataloader.dataset.splitt': 'train'},
            "train_dataloader.dataset: Digits has no argument 'splitt'; did you mean "
            "'split'?",
        ),
        (
            {'train_dataloader.dataset.pipeline.0.crop_sice': 3},
            'train_dataloader.dataset.pipeline[0]: RandomCrop has no argument '
            "'crop_sice'; did you mean 'crop_size'?",
        ),
        (
            {'train_dataloader.batchsize': 3},
            "train_dataloader: a data loader has no setting 'batchsize'; did you mean "
            "'batch_size'?",
        ),
        (
            {'optim_wrapper.optimizer.momentumm': 0.9},
            "optim_wrapper.optimizer: SGD has no argument 'momentumm'; did you mean "
            "'momentum'?",
        ),
        (
            {'param_scheduler.Tmax': 30},
            "param_scheduler: CosineAnnealingLR has no argument 'Tmax'; did you mean "
            "'T_max'?",
        ),
        (
            {'train_cfg.max_epoch': 30},
            "train_cfg: DeterministicEpochLoop has no argument 'max_epoch'; did you "
            "mean 'max_epochs'?",
        ),
        (
            {'val_evaluator.top_k': 1},
            "val_evaluator: Accuracy has no argument 'top_k'; did you mean 'topk'?",
        ),
        (
            {'data_preprocessor.to_rbg': True},
            "data_preprocessor: ClsDataPreprocessor has no argument 'to_rbg'; did you "
            "mean 'to_rgb'?",
        ),
        (
            {'randomness.sead': 1},
            "randomness: randomness has no setting 'sead'; did you mean 'seed'?",
        ),
        (
            {'custom_hook': [dict(type='BinaryStatsHook')]},
            'custom_hook: nothing reads it; did you mean custom_hooks?',
        ),
        (
            {'param_schedulers': dict(type='MultiStepLR', milestones=[9])},
            'param_schedulers: nothing reads it; did you mean param_scheduler?',
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_names_the_nearest_argument(changes, message):
    assert problems(digits(**changes)) == [message]


@pytest.mark.parametrize(
    ('key', 'name', 'message'),
    [
        ('model', 'ImageClasifier', "no model is called 'ImageClasifier'; did you"),
        ('model.backbone', 'IRResNet', None),
        ('model.backbone', 'IRResnet_CIFAR', "did you mean 'IRResNet_CIFAR'?"),
        ('model.backbone', 'mmpretrain.ResNett', "did you mean 'ResNet'?"),
        ('model.backbone', 'qqq', 'custom_imports has to name the module'),
        ('model.backbone.conv_cfg', 'IRConv', "did you mean 'IRConv2d'?"),
        ('model.backbone.act_cfg', 'Hardtan', "did you mean 'Hardtanh'?"),
        ('model.neck', 'GlobalAvgPooling', "did you mean 'GlobalAveragePooling'?"),
        ('model.head.loss', 'CrossEntropy', "did you mean 'CrossEntropyLoss'?"),
        ('model.head.init_cfg', 'Kaimin', "did you mean 'Kaiming'?"),
        ('train_dataloader.dataset', 'Digit', "did you mean 'Digits'?"),
        ('train_dataloader.sampler', 'DefaultSampl', "did you mean 'DefaultSampler'?"),
        ('train_dataloader.dataset.pipeline.0', 'RandCrop', "mean 'RandomCrop'?"),
        ('optim_wrapper.optimizer', 'SDG', "did you mean 'SGD'?"),
        ('optim_wrapper', 'OptimWraper', "did you mean 'OptimWrapper'?"),
        ('param_scheduler', 'CosineAnealingLR', "did you mean 'CosineAnnealingLR'?"),
        ('default_hooks.timer', 'IterTimeHook', "did you mean 'IterTimerHook'?"),
        (
            'train_cfg',
            'DeterministicEpochLop',
            "did you mean 'DeterministicEpochLoop'?",
        ),
        ('val_evaluator', 'Acuracy', "did you mean 'Accuracy'?"),
        ('visualizer.vis_backends.0', 'LocalVis', "did you mean 'LocalVisBackend'?"),
    ],
)
def test_names_the_nearest_type(key, name, message):
    found = [p for p in problems(digits(**{f'{key}.type': name})) if '.type: ' in p]
    if message is None:
        assert found == []
    else:
        (line,) = found
        place = key.replace('.0', '[0]')
        assert line.startswith(f'{place}.type: no ')
        assert message in line


def test_types_may_be_classes():
    cfg = digits(
        **{
            'train_dataloader.sampler.type': DefaultSampler,
            'model.head.type': BNLinearClsHead,
            'default_hooks.checkpoint.type': AtomicCheckpointHook,
        }
    )
    assert problems(cfg) == []


def test_a_scope_that_was_forgotten_is_named():
    cfg = digits()
    cfg.pop('default_scope')
    assert problems(cfg)[0] == (
        "model.type: no model is called 'ImageClassifier' in mmengine, but in "
        "MMPretrain: set default_scope='mmpretrain'"
    )


def test_variables_of_a_config_are_its_own():
    mine = dict(RandomCrop=1, train_pipeline=[], work=2, test_model=3)
    assert problems(digits(**mine)) == []
    hook = dict(type='BinaryStatsHook')
    assert problems(digits(custom_hook=hook, custom_hooks=[hook])) == []


def test_what_is_not_built_is_not_looked_at():
    cfg = digits(**{'train_dataloader.dataset.splitt': 1, 'test_evaluator.topkk': 1})
    assert len(problems(cfg, TRAIN)) == 1
    (line,) = problems(cfg, ('test_dataloader',))
    assert line.startswith('test_evaluator: ')


def test_a_hook_takes_its_priority_too():
    hook = dict(type='EDEHook', priority='LOW')
    assert problems(digits(custom_hooks=[hook])) == []


class TestKeywords:
    """keywords: what **kwargs stand for."""

    def test_of_the_classes_in_line(self):
        assert {'loss', 'topk', 'cal_acc'} < keywords(BNLinearClsHead)
        assert {'loss', 'topk', 'cal_acc'} < keywords(LinearClsHead)
        assert {'split', 'ann_file', 'indices'} < keywords(ImageNet)

    def test_of_a_hook_that_would_fail_when_it_saves(self):
        assert keywords(CheckpointHook) < keywords(AtomicCheckpointHook) | {'kwargs'}
        assert 'anything' not in keywords(CheckpointHook)

    def test_of_torchvisions_transforms(self):
        jitter = find_class(TRANSFORMS, 'torchvision/ColorJitter', 'mmpretrain')
        assert keywords(jitter) == {'brightness', 'contrast', 'saturation', 'hue'}

    def test_unknown_where_they_may_go_elsewhere(self):
        class Collects(Hook):
            def __init__(self, a, **kwargs):
                self.rest = kwargs

        class Pops(EDEHook):
            def __init__(self, **kwargs):
                self.mine = kwargs.pop('mine')
                super().__init__(**kwargs)

        assert keywords(Collects) is None
        assert keywords(Pops) is None

    def test_none_where_a_class_has_no_constructor(self):
        assert keywords(find_class(HOOKS, 'IterTimerHook', 'mmengine')) == frozenset()
