"""Configs with former names run, and say which name is the new one."""

import pytest
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS, HOOKS
from tiny import tiny_runner

from mmirnet.datasets import DeterministicSampler
from mmirnet.engine import AtomicCheckpointHook, DeterministicEpochLoop


def test_a_run_with_former_names(tmp_path):
    with pytest.warns(FutureWarning) as told:
        runner = tiny_runner(
            tmp_path,
            train_cfg=dict(type='ExactEpochLoop', max_epochs=1),
            default_hooks=dict(checkpoint=dict(type='WholeCheckpointHook')),
        )
        runner.train()
    texts = {str(w.message) for w in told if w.category is FutureWarning}
    assert {t for t in texts if ' is now ' in t} == {
        'ExactEpochLoop is now DeterministicEpochLoop: change the config',
        'WholeCheckpointHook is now AtomicCheckpointHook: change the config',
    }
    assert isinstance(runner.train_loop, DeterministicEpochLoop)
    assert any(isinstance(hook, AtomicCheckpointHook) for hook in runner.hooks)
    assert (tmp_path / 'epoch_1.pth').is_file()


@pytest.mark.parametrize(
    ('registry', 'name', 'arguments'),
    [
        (DATA_SAMPLERS, 'ExactSampler', dict(dataset=range(3))),
        (HOOKS, 'UnfoldBatchNormHook', {}),
    ],
)
def test_parts(registry, name, arguments):
    with pytest.warns(FutureWarning, match=f'{name} is now '):
        part = registry.build(dict(type=name, **arguments))
    assert not isinstance(part, DefaultSampler) or isinstance(
        part, DeterministicSampler
    )
