"""Every config builds, and says what the paper or the released code says."""

import copy
import functools
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, init_default_scope
from mmpretrain import get_model
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmirnet.binary import binary_layers
from mmirnet.engine import OvSWHook, ScheduleHook, Teacher
from mmirnet.engine.config_checks import keyword_problems
from mmirnet.packed import pack
from mmirnet.packed.simulation import Simulation

ROOT = Path(__file__).parents[1]
#: Layers by folder; those of the comparison are named in its files.
LAYERS = {
    'irnet': 'IRConv2d',
    'examples': 'IRConv2d',
    'bnn': 'BNNConv2d',
    'dorefa': 'DoReFaConv2d',
    'xnor': 'XNORConv2d',
    'bireal': 'BiRealConv2d',
    'bihalf': 'BiHalfConv2d',
    'reste': 'ReSTEConv2d',
    'recu': 'ReCUConv2d',
    'adabin': 'AdaBinConv2d',
    'react': 'ReActConv2d',
    'ovsw': 'OvSWConv2d',
    'biper': 'BiPerConv2d',
}


def names(*folders):
    files = [p for folder in folders for p in (ROOT / 'configs' / folder).glob('*.py')]
    return sorted(p.relative_to(ROOT / 'configs').as_posix() for p in files)


CONFIGS = names(*LAYERS, 'fair')
ABLATION = names('ablation', 'ablation_cifar10')


@functools.cache
def load(name):
    return Config.fromfile(ROOT / 'configs' / name)


def build(name):
    init_default_scope('mmpretrain')
    return MODELS.build(copy.deepcopy(load(name).model))


@pytest.mark.parametrize('name', CONFIGS)
def test_builds_with_the_bits_and_layers_of_its_name(name):
    cfg, model = load(name), build(name)
    layers = [layer for _, layer in binary_layers(model)]
    marks = {'_fp_': set(), 'w1a32': {'1/32'}, '_step1_': {'32/1'}}
    bits = next((b for mark, b in marks.items() if mark in name), {'1/1'})
    assert {layer.bits for layer in layers} == bits
    folder, _, stem = name.partition('/')
    key = stem.split('_')[1] if folder == 'fair' else folder
    kinds = {type(layer).__name__ for layer in layers}
    assert kinds == ({LAYERS[key]} if bits else set())
    hooks = [HOOKS.build(dict(h)) for h in cfg.get('custom_hooks', [])]
    moving = {layer.schedule.name for layer in layers if layer.schedule.numbers}
    assert {h.schedule.name for h in hooks if isinstance(h, ScheduleHook)} == moving
    assert any(isinstance(h, OvSWHook) for h in hooks) == (key == 'ovsw')
    assert cfg.data_preprocessor.num_classes == model.head.num_classes
    assert 'mmirnet' in cfg.custom_imports.imports
    assert not list(keyword_problems(cfg))


#: Processes that a config's learning rate is made for; one where nothing is said.
PROCESSES = {'examples/resnet18_w1a32_cifar10.py': 8}


@pytest.mark.parametrize('name', [*CONFIGS, *ABLATION])
def test_learning_rate_is_that_of_its_batch(name):
    cfg = load(name)
    processes = PROCESSES.get(name, 1)
    if name.endswith('_in1k.py'):
        processes = 8 if name.startswith('react') else 32
    batch = processes * cfg.train_dataloader.batch_size
    assert cfg.auto_scale_lr.base_batch_size == batch


# name: (lr, weight decay, epochs, t_min); None where full precision
SETTINGS = {
    'resnet20_bireal_cifar10': (0.1, 1e-4, 400, 1e-3),
    'resnet20_bireal_cifar10-jpeg': (0.1, 1e-4, 400, 1e-3),
    'resnet20_normal_cifar10-jpeg': (0.1, 1e-4, 400, 1e-3),
    'resnet20_w1a32_cifar10-jpeg': (0.1, 1e-4, 400, 0.1),
    'resnet20_fp_cifar10-jpeg': (0.1, 1e-4, 400, None),
    'resnet20_bireal_fp_cifar10-jpeg': (0.1, 1e-4, 400, None),
    'resnet18_normal_cifar10-jpeg': (0.1, 1e-5, 400, 0.1),
    'resnet18_fp_cifar10-jpeg': (0.1, 1e-5, 400, None),
    'vgg-small_cifar10-jpeg': (0.007, 1e-4, 300, 0.1),
    'vgg-small_fp_cifar10-jpeg': (0.007, 1e-4, 300, None),
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


@pytest.mark.parametrize('kind', ['bireal', 'w1a32', 'fp'])
def test_imagenette_has_the_recipe_of_imagenet_in_proportion(kind):
    cfg = load(f'irnet/resnet18_{kind}_imagenette.py')
    full = load(f'irnet/resnet18_{kind.replace("fp", "w1a32")}_in1k.py')
    iterations = 9469 // cfg.train_dataloader.batch_size + 1
    ours, theirs = cfg.optim_wrapper.optimizer, full.optim_wrapper.optimizer
    assert ours.lr / 128 == theirs.lr / 2048
    assert dict(ours, lr=0) == dict(theirs, lr=0)
    warmup, steps = cfg.param_scheduler
    epochs = cfg.train_cfg.max_epochs
    assert warmup.end == round(2500 / (100 * 625) * epochs * iterations)
    assert [100 * m / epochs for m in steps.milestones] == [30, 60, 90]
    assert cfg.custom_hooks == ([] if kind == 'fp' else full.custom_hooks)
    assert cfg.train_pipeline == full.train_pipeline
    conv = dict(type='Conv2d') if kind == 'fp' else full.model.backbone.conv_cfg
    assert cfg.model.backbone == dict(full.model.backbone, conv_cfg=conv)


JPEG = [name for name in names('irnet') if name.endswith('_cifar10-jpeg.py')]


@pytest.mark.parametrize('name', JPEG)
def test_the_jpeg_copy_has_the_recipe_of_the_lossless_images(name):
    def recipe(cfg):
        keys = 'model', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'custom_hooks'
        normalisation = {k: cfg.data_preprocessor[k] for k in ('mean', 'std')}
        return {key: cfg[key] for key in keys} | normalisation

    lossless = name.replace('-jpeg', '')
    wanted = recipe(load(lossless.replace('bireal_fp', 'bireal')))
    if 'bireal_fp' in name:
        wanted['custom_hooks'] = []
        wanted['model'] = copy.deepcopy(wanted['model'])
        wanted['model']['backbone']['conv_cfg'] = None
    assert recipe(load(name)) == wanted


@pytest.mark.parametrize('name', names('ablation_cifar10'))
def test_the_ablation_changes_what_that_of_fashion_mnist_does(name):
    changed = {
        key: load(name)[key]
        for key in load(name)
        if load(name)[key] != load('ablation_cifar10/irnet.py')[key]
    }
    assert changed.keys() <= {'model', 'custom_hooks'}
    assert bool(changed) == (name != 'ablation_cifar10/irnet.py')
    other = load(name.replace('_cifar10', ''))
    assert all(changed[key] == other[key] for key in changed)


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


# folder: (start of the names, epochs, batch size, weight decay)
PUBLISHED = {
    'reste': [
        ('resnet20', 1000, 256, 1e-4),
        ('resnet18_normal_cifar10', 2000, 256, 1e-5),
    ],
    'recu': [('resnet20', 600, 256, 5e-4), ('vgg-small', 600, 256, 5e-4)],
    'adabin': [('resnet20', 400, 128, 1e-4), ('vgg-small', 300, 128, 1e-4)],
    'react': [
        ('resnet18_bireal_step1_in1k', 128, 64, 1e-5),
        ('resnet18_bireal_step2_in1k', 128, 64, 0.0),
    ],
    'biper': [
        ('resnet20_bireal_step1_cifar10', 600, 128, 1e-4),
        ('resnet20_bireal_step2_cifar10', 300, 128, 1e-4),
    ],
}


@pytest.mark.parametrize('folder', PUBLISHED)
def test_budgets_of_the_papers(folder):
    for start, *wanted in PUBLISHED[folder]:
        found = [n for n in names(folder) if n.startswith(f'{folder}/{folder}_{start}')]
        assert found
        for name in found:
            cfg = load(name)
            decay = cfg.optim_wrapper.optimizer.weight_decay
            batch = cfg.train_dataloader.batch_size
            assert [cfg.train_cfg.max_epochs, batch, decay] == wanted


def test_settings_of_the_papers():
    (warmup, cosine) = load('recu/recu_vgg-small_cifar10.py').param_scheduler
    assert (warmup.end, cosine.begin) == (5, 5)
    for name in names('adabin'):
        model = load(name).model
        assert model.backbone.act_cfg == dict(type='Maxout')
        assert model.backbone.get('structure', 'bireal') == 'bireal'
        assert load(name).custom_hooks[0].t_min == 1e-3
    for name in names('ovsw'):
        (hook,) = load(name).custom_hooks
        wanted = (0.01, 2e-5) if 'in1k' in name else (0.04, 9e-4)
        assert (hook.min_ratio, hook.silent_decay) == wanted
    for name in names('react'):
        cfg = load(name)
        assert cfg.model.backbone.act_cfg == dict(type='RPReLU')
        assert cfg.model.get('label_weight', 0.0) == 0
        assert cfg.optim_wrapper.optimizer.type == 'Adam'
        (linear,) = cfg.param_scheduler
        assert (linear.start_factor, linear.end_factor) == (1, 0)
    for name in names('react')[:2] + names('recu')[:2]:
        assert load(name).model.backbone.shortcut.startswith('avg_')


@pytest.mark.parametrize('first', [n for n in CONFIGS if '_step1_' in n])
def test_a_second_step_starts_from_the_checkpoint_of_the_first(first):
    second = first.replace('step1', 'step2')
    epochs = load(first).train_cfg.max_epochs
    assert load(second).load_from == f'work_dirs/{Path(first).stem}/epoch_{epochs}.pth'
    assert load(first).get('load_from') is None
    given, taken = (build(name).state_dict() for name in (first, second))
    assert given.keys() == taken.keys()
    assert all(given[name].shape == taken[name].shape for name in given)


def test_weights_of_reactnet_start_small_and_positive():
    model = build('react/react_resnet20_bireal_step1_cifar10.py')
    model.backbone.init_weights()
    for _, layer in binary_layers(model):
        assert layer.weight.min() >= 0 and 9e-4 < layer.weight.max() < 1e-3
    assert model.backbone.conv1.weight.min() < 0


@pytest.mark.parametrize(
    'name', ['resnet20_bireal_step1_cifar10', 'resnet18_bireal_step1_in1k']
)
def test_the_teacher_of_reactnet_fits(name, tmp_path):
    cfg = load(f'react/react_{name}.py')
    spec = dict(copy.deepcopy(cfg.model), data_preprocessor=cfg.data_preprocessor)
    spec['backbone'] = dict(type='IRResNet_CIFAR', depth=20)
    spec['head'] = dict(spec['head'], in_channels=64)
    init_default_scope('mmpretrain')
    student = MODELS.build(spec)
    path = str(tmp_path / 'teacher.pth')
    teacher = get_model(student.teacher.config)
    torch.save(teacher.state_dict(), path)
    loaded = Teacher(student.teacher.config, path)
    loaded.load(student)
    assert loaded.network.head.num_classes == student.head.num_classes


@pytest.mark.parametrize('name', names('fair'))
def test_the_comparison_changes_the_recipe_alone(name):
    def rest(name):
        cfg = copy.deepcopy(load(name)._cfg_dict.to_dict())
        own = ('act_cfg', 'shortcut') if '_own_' in name else ()
        for key in ('conv_cfg', *own):
            cfg['model']['backbone'].pop(key, None)
        for key in ('type', 'regulariser'):
            cfg['model'].pop(key, None)
        del cfg['custom_hooks']
        return cfg

    wanted = rest('fair/fair_irnet_cifar10-jpeg.py')
    if '_own_' in name:
        wanted['model']['backbone'].pop('act_cfg')
    if 'react_own' in name or 'adabin_own' in name:
        assert load(name).model.backbone.act_cfg.type in ('RPReLU', 'Maxout')
    found = rest(name)
    if 'recu_own' in name:
        found['model']['backbone'].pop('act_cfg', None)
    assert found == wanted


@pytest.mark.parametrize('name', names('fair'))
def test_trains_every_parameter_and_is_packed_bit_for_bit(name):
    model = build(name)
    model.init_weights()
    images = torch.randn(4, 3, 8, 8)
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # nothing moves the schedule
        losses = model.train().loss(images, samples)
    sum(losses.values()).backward()
    for parameter, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), parameter
    with torch.no_grad():
        wanted = model.eval()(images)
        got = Simulation(pack(model, (8, 8))).eval()(images)
    assert torch.equal(got, wanted)
