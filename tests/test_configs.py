"""Every config builds, and says what the paper or the released code says."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, init_default_scope
from mmpretrain.registry import MODELS

from mmirnet.binary import binary_layers

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    p.relative_to(ROOT / 'configs').as_posix()
    for folder in ('irnet', 'examples')
    for p in (ROOT / 'configs' / folder).glob('*.py')
)
ABLATION = [f'ablation/{p.name}' for p in (ROOT / 'configs/ablation').glob('*.py')]


def load(name):
    return Config.fromfile(ROOT / 'configs' / name)


@pytest.mark.parametrize('name', CONFIGS)
def test_builds_with_the_bits_of_its_name(name):
    cfg = load(name)
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    layers = [layer for _, layer in binary_layers(model)]
    hooks = [HOOKS.build(dict(h)) for h in cfg.get('custom_hooks', [])]
    has_ede = any(type(h).__name__ == 'EDEHook' for h in hooks)
    assert has_ede == bool(layers) == ('_fp_' not in name)
    assert {layer.binarize_input for layer in layers} <= {'w1a32' not in name}
    assert cfg.data_preprocessor.num_classes == model.head.num_classes
    assert 'mmirnet' in cfg.custom_imports.imports


#: Processes that a config's learning rate is made for; one where nothing is said.
PROCESSES = {'examples/resnet18_w1a32_cifar10.py': 8}


@pytest.mark.parametrize('name', [*CONFIGS, *ABLATION])
def test_learning_rate_is_that_of_its_batch(name):
    cfg = load(name)
    processes = 32 if name.endswith('_in1k.py') else PROCESSES.get(name, 1)
    batch = processes * cfg.train_dataloader.batch_size
    assert cfg.auto_scale_lr.base_batch_size == batch


# name: (lr, weight decay, epochs, t_min); None where full precision
SETTINGS = {
    'resnet20_bireal_cifar10': (0.1, 1e-4, 400, 1e-3),
    'resnet20_normal_cifar10': (0.1, 1e-4, 400, 1e-3),
    'resnet20_w1a32_cifar10': (0.1, 1e-4, 400, 0.1),
    'resnet20_fp_cifar10': (0.1, 1e-4, 400, None),
    'resnet20_bireal_fashionmnist': (0.1, 1e-4, 400, 1e-3),
    'resnet20_normal_fashionmnist': (0.1, 1e-4, 400, 1e-3),
    'resnet20_w1a32_fashionmnist': (0.1, 1e-4, 400, 0.1),
    'resnet20_fp_fashionmnist': (0.1, 1e-4, 400, None),
    'vgg-small_cifar10': (0.007, 1e-4, 300, 0.1),
    'vgg-small_fashionmnist': (0.007, 1e-4, 300, 0.1),
    'vgg-small_fp_cifar10': (0.007, 1e-4, 300, None),
    'resnet18_normal_cifar10': (0.1, 1e-5, 400, 0.1),
    'resnet18_bireal_cifar10': (0.1, 1e-5, 400, 0.1),
    'resnet18_fp_cifar10': (0.1, 1e-5, 400, None),
    'resnet18_bireal_in1k': (0.8, 1e-5, 100, 0.1),
    'resnet18_normal_in1k': (0.8, 1e-5, 100, 0.1),
    'resnet18_w1a32_in1k': (0.8, 1e-4, 100, 0.1),
    'resnet34_bireal_in1k': (0.8, 1e-4, 100, 0.1),
    'resnet34_normal_in1k': (0.8, 1e-4, 100, 0.1),
    'resnet34_w1a32_in1k': (0.8, 1e-4, 100, 0.1),
}


@pytest.mark.parametrize('name', SETTINGS)
def test_training_settings(name):
    cfg = load(f'irnet/{name}.py')
    lr, decay, epochs, t_min = SETTINGS[name]
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
    assert (optimizer.lr, optimizer.weight_decay) == (lr, decay)
    assert cfg.train_cfg.max_epochs == epochs
    ede = [h for h in cfg.custom_hooks if h.type == 'EDEHook']
    assert [(h.t_min, h.t_max) for h in ede] == ([(t_min, 10)] if t_min else [])
    structure = 'bireal' if 'bireal' in name else 'normal'
    assert cfg.model.backbone.get('structure', structure) == structure
    if 'in1k' in name:
        assert optimizer.nesterov
        warmup, steps = cfg.param_scheduler
        assert (warmup.start_factor * lr, warmup.end) == (0.2, 2500)
        assert (steps.milestones, steps.gamma) == ([30, 60, 90], 0.1)
        assert (ede[0].by_epoch, ede[0].interval) == (False, 10)
        assert cfg.train_dataloader.batch_size * 32 == 2048
        assert cfg.default_hooks.sync_buffers.type == 'SyncBuffersHook'
    else:
        # To zero at the end of the run: MMEngine's T_max is that by default.
        assert cfg.param_scheduler.eta_min == 0 and 'T_max' not in cfg.param_scheduler
        assert cfg.train_dataloader.batch_size == 128


IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CIFAR = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]


@pytest.mark.parametrize('name', [n for n in SETTINGS if 'fashion' not in n])
def test_images_are_normalised_as_in_the_released_scripts(name):
    cfg = load(f'irnet/{name}.py')
    own = 'resnet18' in name and 'cifar10' in name
    for numbers, key in zip(CIFAR if own else IMAGENET, ('mean', 'std'), strict=True):
        expected = [255 * number for number in numbers]
        assert cfg.data_preprocessor[key] == pytest.approx(expected)
    crop = [t for t in cfg.train_pipeline if 'Crop' in t.type]
    if 'in1k' in name:
        assert [t.type for t in crop] == ['RandomResizedCrop']
        jitter = next(t for t in cfg.train_pipeline if 'ColorJitter' in t.type)
        amounts = jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue
        assert amounts == (0.2, 0.2, 0.2, 0.1)
    else:
        assert [(t.crop_size, t.padding) for t in crop] == [(32, 4)]
    assert any(t.type == 'RandomFlip' and t.prob == 0.5 for t in cfg.train_pipeline)


def test_every_run_is_in_the_results_table():
    table = (ROOT / 'configs/irnet/README.md').read_text()
    for name in CONFIGS:
        if name.startswith('irnet/'):
            assert f'[{Path(name).stem}]({Path(name).name})' in table
