"""Every feature of a config is on in whatever starts the run."""

import os
import re
import subprocess
from pathlib import Path

import mmpretrain
import pytest
import torch
from few_blocks import few_blocks
from mmengine.config import Config
from mmengine.runner import Runner
from torch._dynamo.utils import counters
from warm_python import python

import mmirnet
from mmirnet import apis
from mmirnet.datasets import DeterministicSampler, InMemory
from mmirnet.datasets.in_memory import as_is
from mmirnet.engine import hooks
from mmirnet.engine.config import drop_by_epoch, take_old_switches
from mmirnet.errors import ConfigError

CONFIGS = Path(mmirnet.__file__).parents[1] / 'configs'
TEXT = f"""
_base_ = [
    '{CONFIGS}/_base_/models/resnet20_cifar.py',
    '{CONFIGS}/_base_/datasets/digits_in_memory.py',
    '{CONFIGS}/_base_/schedules/cifar10_400e.py',
    '{CONFIGS}/_base_/fast_runtime.py',
]
train_dataloader = dict(batch_size=32, dataset=dict(dataset=dict(indices=48)))
val_dataloader = dict(dataset=dict(dataset=dict(indices=40)))
train_cfg = dict(max_epochs=2)
default_hooks = dict(
    logger=dict(interval=1),
    tf32=dict(allow=True),
    compile=dict(backend='eager'),
)
randomness = dict(seed=3, deterministic=True)
log_level = 'WARNING'
"""


@pytest.fixture(autouse=True)
def tf32():
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    for switch, allow in zip(switches, before, strict=True):
        switch.allow_tf32 = allow
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'everything.py'
    path.write_text(TEXT)
    return path


def train(config, work_dir):
    """A run that MMEngine starts, and how many graphs it compiled."""
    torch._dynamo.reset()
    before = counters['stats']['unique_graphs']
    cfg = Config.fromfile(config)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = str(work_dir).replace('/', '-')
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, counters['stats']['unique_graphs'] - before


@few_blocks()
def test_the_runner_alone(config, tmp_path):
    runner, graphs = train(config, tmp_path / 'once')
    loader = runner.train_dataloader
    assert isinstance(loader.dataset.dataset, InMemory)
    assert isinstance(loader.sampler, DeterministicSampler)
    assert loader.collate_fn is as_is or loader.collate_fn.func is as_is
    assert isinstance(runner.val_dataloader.dataset, InMemory)
    weight = runner.model.backbone.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    assert graphs == 2  # of training and of evaluation
    kinds = [type(hook) for hook in runner.hooks]
    for kind in (hooks.CheckHook, hooks.ResumeHook, hooks.PackedPreciseBNHook):
        assert kinds.count(kind) == 1

    # What MMEngine wrote down is what ran.
    again, _ = train(tmp_path / 'once' / 'everything.py', tmp_path / 'again')
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name

    # And our own launcher adds nothing to it.
    ours = apis.train(
        str(config),
        work_dir=str(tmp_path / 'ours'),
        cfg_options={'experiment_name': 'ours'},
    )
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, ours.model.state_dict()[name]), name
    texts = [
        Config.fromfile(tmp_path / name / 'everything.py').to_dict()
        for name in ('once', 'ours')
    ]
    for text in texts:
        for key in ('work_dir', 'experiment_name', 'launcher', 'model_wrapper_cfg'):
            text.pop(key, None)
    assert texts[0] == texts[1]


def test_mmpretrains_scripts(config, tmp_path):
    tools = Path(mmpretrain.__file__).parent / '.mim' / 'tools'
    if not tools.exists():
        pytest.skip(f'this MMPretrain comes without {tools}')
    work_dir = tmp_path / 'run'
    for script, *arguments in ('train.py',), ('test.py', work_dir / 'epoch_1.pth'):
        command = [python(), tools / script, config, *arguments]
        command += ['--work-dir', work_dir]
        command += ['--cfg-options', 'train_cfg.max_epochs=1', 'log_level=INFO']
        environment = dict(os.environ, OMP_NUM_THREADS='1')
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert re.search(r'accuracy/top1: [\d.]+', done.stdout + done.stderr)


def test_every_config_names_what_it_runs_with():
    """No config has a switch that MMEngine's Runner does not read."""
    for path in sorted(CONFIGS.rglob('*.py')):
        cfg = Config.fromfile(path)
        assert not {'in_memory', 'channels_last', 'tf32', 'compile'} & cfg.keys(), path


class TestByEpoch:
    """MMPretrain's schedules set it, and MMEngine takes it or a type."""

    def test_goes_where_there_is_a_type(self):
        loop = dict(by_epoch=True, type='DeterministicEpochLoop', max_epochs=3)
        cfg = Config(dict(train_cfg=loop))
        drop_by_epoch(cfg)
        assert cfg.train_cfg == dict(type='DeterministicEpochLoop', max_epochs=3)

    @pytest.mark.parametrize('loop', [None, dict(by_epoch=True, max_epochs=3)])
    def test_stays_otherwise(self, loop):
        cfg = Config(dict(train_cfg=loop))
        drop_by_epoch(cfg)
        assert cfg.train_cfg == loop

    @pytest.mark.parametrize('by_epoch', [True, False])
    def test_may_not_contradict_the_type(self, by_epoch):
        kinds = 'DeterministicEpochLoop', 'DeterministicIterLoop'
        cfg = Config(dict(train_cfg=dict(by_epoch=by_epoch, type=kinds[by_epoch])))
        with pytest.raises(ConfigError, match='contradict each other'):
            drop_by_epoch(cfg)


class TestOldSwitches:
    """Keys that were read by our launcher alone."""

    @pytest.mark.parametrize(
        ('switch', 'value', 'hook'),
        [
            ('compile', True, dict(type='CompileHook')),
            ('compile', dict(mode='default'), dict(type='CompileHook', mode='default')),
            ('channels_last', True, dict(type='ChannelsLastHook')),
            ('tf32', True, dict(type='TF32Hook', allow=True)),
        ],
    )
    def test_are_hooks_now(self, switch, value, hook, caplog):
        cfg = Config({switch: value, 'default_hooks': dict(tf32=dict(allow=False))})
        assert not take_old_switches(cfg)
        assert cfg.default_hooks[switch] == hook
        assert switch not in cfg
        assert f'is now default_hooks.{switch}=' in caplog.text

    @pytest.mark.parametrize('switch', ['compile', 'channels_last', 'tf32'])
    def test_that_are_off_say_nothing(self, switch, caplog):
        cfg = Config({switch: False})
        assert not take_old_switches(cfg)
        assert cfg.to_dict() == {} and not caplog.text

    def test_in_memory(self, caplog):
        assert take_old_switches(Config(dict(in_memory=True)))
        assert '--in-memory' in caplog.text


def test_no_private_attribute_of_the_runner_is_replaced():
    pattern = re.compile(r'\brunner\._\w+ *=[^=]')
    for path in Path(mmirnet.__file__).parent.rglob('*.py'):
        assert not pattern.search(path.read_text()), path
