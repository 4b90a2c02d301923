"""What is wrong with a config, before anything is built; all data is real files."""

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from small_run import ROOT

from mmirnet.engine.config import merge_options, read_config
from mmirnet.engine.config_checks import check_config, config_problems
from mmirnet.errors import ConfigError

TRAIN = ('train_dataloader', 'val_dataloader')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Folders of images: ``train`` and ``val`` of three classes, ``less`` of two."""
    root = tmp_path_factory.mktemp('data')
    for split, classes in {'train': 'abc', 'val': 'abc', 'less': 'ac'}.items():
        for name in classes:
            file = root / split / name / '0.png'
            file.parent.mkdir(parents=True)
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(file)
    (root / 'empty').mkdir()
    return root


def config(data, **changes):
    """The digits' run on these images, with changes by dotted key."""
    cfg = Config.fromfile(ROOT / 'configs/irnet/resnet20_bireal_digits.py')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset = dict(
            type='CustomDataset', data_root=str(data / split), pipeline=pipeline
        )
    cfg.model.head.num_classes = 3
    cfg.merge_from_dict(changes)
    return cfg


def problems(cfg):
    return [str(problem) for problem in config_problems(cfg, TRAIN)]


def test_what_is_right_passes(data):
    assert problems(config(data)) == []


def test_a_class_without_a_folder_shifts_the_labels(data):
    cfg = config(data, **{'val_dataloader.dataset.data_root': f'{data}/less'})
    (line,) = problems(cfg)
    assert line == (
        "val_dataloader.dataset has no class 'b', which train_dataloader.dataset has: "
        "label 1 is 'c' in val_dataloader.dataset and 'b' in train_dataloader.dataset; "
        'give both the same classes in the same order (an empty folder for a class '
        'without images)'
    )


def test_an_empty_folder_is_a_class_without_images(data, tmp_path):
    for name in 'abc':
        (tmp_path / name).mkdir()
    for name in 'ac':
        (tmp_path / name / '0.png').write_bytes(
            (data / 'less' / name / '0.png').read_bytes()
        )
    cfg = config(data, **{'val_dataloader.dataset.data_root': str(tmp_path)})
    assert problems(cfg) == []


def test_wrapped_data_sets_are_looked_into(data):
    less = dict(config(data).train_dataloader.dataset, data_root=f'{data}/less')
    repeated = dict(type='RepeatDataset', times=2, dataset=less, _delete_=True)
    (line,) = problems(config(data, **{'val_dataloader.dataset': repeated}))
    assert line.startswith("val_dataloader.dataset.dataset has no class 'b'")


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'train_dataloader.dataset.classes': ['c', 'b', 'a']},
            'classes are not in the order of the folders, which number the labels: '
            "label 0 is 'a' in {data}/train, and 'c' in classes; leave classes out",
        ),
        (
            {'train_dataloader.dataset.classes': ['a', 'b', 'c', 'd']},
            'train_dataloader.dataset: {data}/train has 3 folders, but the data set '
            "has 4 classes (no folder 'd')",
        ),
        (
            {'train_dataloader.dataset.type': 'ImageNet'},
            'train_dataloader.dataset: {data}/train has 3 folders, but the data set '
            'has 1000 classes; name those of the folders with '
            'train_dataloader.dataset.classes=[...]',
        ),
        (
            {'train_dataloader.dataset.data_root': 'absent'},
            "train_dataloader.dataset.data_root: there is no folder 'absent'",
        ),
        (
            {'train_dataloader.dataset.data_prefix': 'absent'},
            "train_dataloader.dataset: there is no folder '{data}/train/absent'",
        ),
        (
            {'train_dataloader.dataset.data_root': '{data}/empty'},
            'train_dataloader.dataset: no images in {data}/empty; their names have to '
            'end in one of .bmp, .jpeg, ',
        ),
        (
            {'train_dataloader.dataset.ann_file': 'absent.txt'},
            'train_dataloader.dataset.ann_file: there is no file {data}/train/absent.',
        ),
        (
            {'val_cfg': None},
            'val_dataloader and val_evaluator without val_cfg: set all of',
        ),
        (
            {'optim_wrapper': None},
            'train_dataloader and train_cfg without optim_wrapper: set all of',
        ),
        (
            {'train_dataloader': None, 'train_cfg': None, 'optim_wrapper': None},
            'the config has no train_dataloader, train_cfg, optim_wrapper',
        ),
        (
            {'train_dataloader.batch_size': 0},
            'train_dataloader.batch_size must be a positive integer, got 0',
        ),
        (
            {'train_dataloader.batch_size': '16'},
            "train_dataloader.batch_size must be a positive integer, got '16'",
        ),
        (
            {'train_dataloader.num_workers': -1},
            'train_dataloader.num_workers must be an integer from 0 on, got -1',
        ),
        (
            {'train_dataloader.prefetch_factor': 0},
            'train_dataloader.prefetch_factor must be a positive integer, got 0',
        ),
        (
            {'train_dataloader.sampler': dict(_delete_=True)},
            'train_dataloader needs a sampler',
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_what_cannot_work_is_one_line(data, changes, message):
    changes = {
        key: value.format(data=data) if isinstance(value, str) else value
        for key, value in changes.items()
    }
    cfg = config(data, **changes)
    if 'train_dataloader.sampler' in changes:
        cfg.train_dataloader.pop('sampler')
    found = problems(cfg)
    assert found
    assert message.format(data=data) in found[0]
    assert '\n' not in found[0]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a/0.png 0\nb/0.png 1\n', None),
        (
            'a/0.png 1\nb/0.png 2\nc/0.png 3\n',
            '{list}, line 3: label 3 is not in 0 to 2; the labels count from 1, and '
            'have to count from 0',
        ),
        ('a/0.png -1\n', '{list}, line 1: label -1 is not in 0 to 2'),
        ('a/0.png 0\nb/0.png bird\n', '{list}, line 2: needs FILE LABEL with a class'),
        ('', '{list} is empty'),
    ],
)
def test_a_list_of_files_is_read(data, tmp_path, text, message):
    path = tmp_path / 'list.txt'
    path.write_text(text)
    cfg = config(data, **{'train_dataloader.dataset.ann_file': str(path)})
    found = problems(cfg)
    if message is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith(message.format(list=path))


def test_data_that_downloads_itself_needs_no_folder(data):
    cifar = dict(type='CIFAR10', data_root='absent', split='train', _delete_=True)
    key = 'train_dataloader.dataset'
    assert problems(config(data, **{key: cifar, 'model.head.num_classes': 10})) == []
    (line,) = problems(config(data, **{key: dict(cifar, download=False)}))
    assert line.startswith(f"{key}.data_root: there is no folder 'absent'")


def test_all_is_said_at_once(data):
    cfg = config(
        data,
        **{
            'model.backbone.structur': 'normal',
            'val_cfg': None,
            'train_dataloader.batch_size': 0,
        },
    )
    with pytest.raises(ConfigError) as caught:
        check_config(cfg, TRAIN)
    assert len(str(caught.value).splitlines()) == 3


def test_a_model_is_checked_by_itself(data):
    cfg = Config(dict(model=config(data).model))
    check_config(cfg)
    cfg.model.backbone.conv_cfg.type = 'IRConv'
    with pytest.raises(ConfigError, match=r"did you mean 'IRConv2d'\?"):
        check_config(cfg)


@pytest.mark.parametrize('loaders', [(), ('val_dataloader',)])
def test_numbers_of_a_model_are_checked_wherever_it_is_built(data, loaders):
    cfg = config(data, **{'model.head.num_classes': 'ten'})
    with pytest.raises(ConfigError, match=r"^model\.head\.num_classes must .* 'ten'$"):
        check_config(cfg, loaders)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('model.head.num_classes', 'ten', "must be an integer, at least 1, got 'ten'"),
        ('model.head.in_channels', 0, 'must be an integer, at least 1, got 0'),
        ('train_cfg.max_epochs', 0, 'must be an integer, at least 1, got 0'),
        ('train_cfg.max_epochs', 'two', "must be an integer, at least 1, got 'two'"),
        ('train_cfg.val_interval', 0, 'must be an integer, at least 1, got 0'),
        ('train_cfg.val_interval', 1.5, 'must be an integer, at least 1, got 1.5'),
        ('optim_wrapper.accumulative_counts', 0, 'must be an integer, at least 1'),
        ('optim_wrapper.optimizer.lr', '1e-3x', "must be a number, at least 0, got '1"),
        ('optim_wrapper.optimizer.lr', -0.1, 'must be a number, at least 0, got -0.1'),
        ('optim_wrapper.optimizer.lr', float('nan'), 'must be a number, at least 0'),
        ('optim_wrapper.clip_grad', dict(max_norm=-1), 'max_norm must be a number, mo'),
        ('param_scheduler.T_max', 0, 'must be a number, more than 0, got 0'),
        ('default_hooks.logger.interval', 0, 'must be an integer, at least 1, got 0'),
        ('default_hooks.checkpoint.max_keep_ckpts', 'a', "at least -1, got 'a'"),
        ('randomness.seed', 'abc', "must be an integer, at least 0, got 'abc'"),
        ('auto_scale_lr.base_batch_size', 0, 'must be an integer, at least 1, got 0'),
    ],
)
def test_numbers_that_nothing_can_be_done_with(data, key, value, message):
    (line,) = problems(config(data, **{key: value}))
    assert line.startswith(key)
    assert message in line


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        (
            'log_level',
            'LOUD',
            "must be DEBUG, INFO, WARNING, ERROR or CRITICAL, got 'L",
        ),
        (
            'env_cfg.mp_cfg.mp_start_method',
            'thread',
            "must be one of ['fork', 'spawn', ",
        ),
    ],
)
def test_names_that_logging_and_processes_do_not_know(data, key, value, message):
    (line,) = problems(config(data, **{key: value}))
    assert line.startswith(f'{key} {message}')


def test_numbers_in_a_list_of_schedules_have_their_place(data):
    cfg = config(data)
    cfg.param_scheduler = [cfg.param_scheduler, dict(cfg.param_scheduler, T_max=-1)]
    (line,) = problems(cfg)
    assert line == 'param_scheduler[1].T_max must be a number, more than 0, got -1'


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_half_precision_of_gpus_needs_one(data, monkeypatch, device):
    monkeypatch.setattr(
        'mmirnet.engine.config_checks.settings.get_device', lambda: device
    )
    found = problems(config(data, **{'optim_wrapper.type': 'AmpOptimWrapper'}))
    line = 'optim_wrapper.type: AmpOptimWrapper needs a GPU'
    assert [p.partition(';')[0] for p in found] == [line] * (device == 'cpu')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(\n', "mine.py, line 1: '(' was never closed"),
        ('a = 1\nb = c\n', "mine.py, line 2: NameError: name 'c' is not defined"),
        ("_base_ = 'other.py'\n", "other.py, line 3: '[' was never closed"),
        (
            "_base_ = 'right.py'\na = dict(b=1)\n",
            "mine.py: TypeError: a={'b': 1} in child config cannot inherit from base",
        ),
        (
            "custom_imports = dict(imports=['re', 'no_such_module'])\n",
            "mine.py: No module named 'no_such_module'; PYTHONPATH has to name",
        ),
        (
            "custom_imports = dict(imports=['broken_module'])\n",
            'broken_module.py, line 2: ZeroDivisionError: division by zero',
        ),
        (
            'from mmpretrain.configs._base_.default_runtime import *\n',
            'mine.py: ConfigParsingError: Illegal syntax in config!',
        ),
    ],
    ids=['syntax', 'name', 'base', 'inheritance', 'import', 'module', 'star'],
)
def test_configs_that_cannot_be_read(tmp_path, monkeypatch, text, message):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'other.py').write_text('\n\na = [\n')
    (tmp_path / 'right.py').write_text('a = [1]\n')
    (tmp_path / 'broken_module.py').write_text('a = 1\na / 0\n')
    path = tmp_path / 'mine.py'
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_config(path)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        (
            'max_epochs',
            3,
            'max_epochs: nothing reads it; did you mean train_cfg.max_ep',
        ),
        (
            'optimizer.lr',
            3,
            'nothing reads it; did you mean optim_wrapper.optimizer.lr',
        ),
        ('custom_hook', [], 'nothing reads it; did you mean custom_hooks?'),
        ('no_such_thing', 1, 'no_such_thing: nothing reads it'),
        (
            'train_pipeline.0.padding',
            4,
            'train_pipeline is a variable that the config file has used already; set '
            'train_dataloader.dataset.pipeline',
        ),
        ('custom_hooks.5.t_min', 1, '--cfg-options: Index 5 exceeds the length of'),
    ],
)
def test_options_that_change_nothing(key, value, message):
    cfg = Config.fromfile(ROOT / 'configs/irnet/resnet20_bireal_digits.py')
    with pytest.raises(ConfigError) as error:
        merge_options(cfg, {key: value})
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_options_that_are_read():
    cfg = Config.fromfile(ROOT / 'configs/irnet/resnet20_bireal_digits.py')
    options = {'train_cfg.max_epochs': 3, 'in_memory': True, 'work_dir': 'here'}
    merge_options(cfg, {**options, 'custom_hooks.0.t_min': 0.5})
    assert (cfg.train_cfg.max_epochs, cfg.in_memory, cfg.work_dir) == (3, True, 'here')
    assert cfg.custom_hooks[0].t_min == 0.5
