"""Replays of CUDA graphs give bit for bit what the same steps give uncaptured."""

import os

# cuBLAS is deterministic with a workspace of fixed size.
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

import pytest
import torch
from captured_runs import (
    RUNS,
    SGD,
    in_memory,
    metrics_of,
    runner_of,
    trained,
    validating,
)
from killed_runs import differences, state

from mmirnet.errors import ConfigError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU'),
]
EXACT = dict(seed=3, deterministic=True)


@pytest.fixture(autouse=True)
def flags():
    """Deterministic algorithms for the test alone."""
    saved = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = saved


def ends(folder, **kwargs):
    """The ends of a captured run and of the same uncaptured, and the captured one."""
    found = []
    for capture in (False, True):
        path, args = folder / str(capture), dict(capture=capture)
        runner = trained(
            path, 'CapturedEpochLoop', loop_args=args, randomness=EXACT, **kwargs
        )
        found.append(state(path))
    return (*found, runner)


@pytest.mark.parametrize('name', RUNS)
def test_captured_steps_are_the_uncaptured(tmp_path, name):
    uncaptured, captured, runner = ends(tmp_path, **RUNS[name])
    assert differences(uncaptured, captured) == []
    assert runner.train_loop._step._graphs.keys() <= {1, 3}
    assert runner.train_loop._step._graphs
    assert not runner.train_loop._calls.change_between


@pytest.mark.parametrize('kind', ['float32', 'bfloat16'])
def test_sixty_compiled_steps_of_a_resnet(tmp_path, small_resnets, kind):
    wrapper = 'OptimWrapper' if kind == 'float32' else 'Bf16OptimWrapper'
    uncaptured, captured, runner = ends(
        tmp_path,
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='IRResNet_CIFAR', depth=20),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='BNLinearClsHead', num_classes=10, in_channels=64),
            data_preprocessor=dict(num_classes=10, mean=[128] * 3, std=[64] * 3),
        ),
        data=dict(batch_size=32, dataset=in_memory(indices=990)),
        defaults=dict(
            compile=dict(type='CompileHook'),
            channels_last=dict(type='ChannelsLastHook'),
            tf32=dict(type='TF32Hook'),
            logger=dict(type='LoggerHook', interval=100),
        ),
        optim_wrapper=dict(type=wrapper, optimizer=SGD),
    )
    assert differences(uncaptured, captured) == []
    assert set(runner.train_loop._step._graphs) == {1, 3}


def test_is_the_deterministic_loop_where_float32_has_the_learning_rate(tmp_path):
    """A graph reads the learning rate as a float32; powers of two lose nothing."""
    exact = dict(
        optim_wrapper=dict(optimizer=dict(SGD, lr=0.125)),
        param_scheduler=None,
        randomness=EXACT,
    )
    found = []
    for loop, args in (
        ('DeterministicEpochLoop', {}),
        ('CapturedEpochLoop', dict(capture=True)),
    ):
        trained(tmp_path / loop, loop, loop_args=args, **exact)
        found.append(state(tmp_path / loop))
    assert differences(*found) == []


def test_goes_on_within_an_epoch(tmp_path):
    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    captured = dict(loop_args=dict(capture=True), randomness=EXACT)
    trained(whole, 'CapturedEpochLoop', **captured)
    backbone = dict(stop_at=3)  # Python runs in the steps before the first replay
    runner = runner_of(broken, 'CapturedEpochLoop', backbone=backbone, **captured)
    with pytest.raises(SystemExit):
        runner.train()
    trained(broken, 'CapturedEpochLoop', resume=True, **captured)
    assert differences(state(whole), state(broken)) == []


def test_refuses_a_step_that_waits_for_the_device(tmp_path):
    message = r'cannot be captured .*leave out what waits'
    with pytest.raises(ConfigError, match=message) as error:
        trained(
            tmp_path,
            'CapturedEpochLoop',
            backbone=dict(waits=True),
            loop_args=dict(capture=True),
        )
    assert '\n' not in str(error.value)


def test_captures_each_length_once(tmp_path):
    args = dict(capture=True, max_epochs=4)
    trained(tmp_path, 'CapturedEpochLoop', loop_args=args, log_level='INFO')
    text = next(tmp_path.glob('*/*.log')).read_text()
    for steps in (1, 3):
        assert text.count(f'a replay of {steps} steps was captured in ') == 1


@pytest.mark.parametrize(
    'hook',
    [
        dict(type='VisualizationHook', enable=False),
        dict(type='EMAHook'),
        dict(type='CompileHook', backend='aot_eager'),
    ],
    ids=lambda hook: hook['type'],
)
def test_captured_validations_are_the_uncaptured(tmp_path, hook):
    options = dict(hooks=[hook], randomness=EXACT)
    usual = validating(tmp_path / 'usual', 'ValLoop', **options)
    replayed = validating(
        tmp_path / 'replayed', 'CapturedValLoop', capture=True, **options
    )
    wanted, found = metrics_of(usual), metrics_of(replayed)
    assert str(wanted) == str(found)
    assert replayed.val_loop._graph is not None
    assert differences(state(tmp_path / 'usual'), state(tmp_path / 'replayed')) == []
