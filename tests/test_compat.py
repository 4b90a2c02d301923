import functools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from tiny import tiny_runner

from mmirnet import compat


class SubBuffer(HistoryBuffer):
    """Looks like what is allowed, and is not."""


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def touch(path):
    return Payload(os.system, f'touch {path}')


def payloads(path):
    return {
        'os.system': touch(path),
        'getattr': Payload(getattr, Payload, 'mro'),
        'getattr of an allowed class': Payload(getattr, HistoryBuffer, '__init__'),
        'getattr of a subclass': Payload(getattr, SubBuffer, 'mean'),
        'functools.partial': functools.partial(os.system, f'touch {path}'),
        'subclass of HistoryBuffer': SubBuffer(),
        'eval': Payload(eval, f"open({str(path)!r}, 'w')"),
        'inside a history': {'message_hub': [HistoryBuffer(), touch(path)]},
    }


@pytest.mark.parametrize('kind', payloads('x'))
def test_payloads_are_refused_and_run_nothing(tmp_path, kind):
    trace, file = tmp_path / 'trace', tmp_path / 'bad.pth'
    torch.save({'state_dict': {}, 'extra': payloads(trace)[kind]}, file)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file)
    assert not trace.exists()


def test_histories_and_numpy_values_load(tmp_path):
    buffer = HistoryBuffer()
    for value in (1.0, 2.0, 6.0):
        buffer.update(value)
    saved = dict(
        history=buffer,
        scalar=np.float64(3.5),
        count=np.int64(7),
        array=np.arange(3, dtype=np.float32),
    )
    torch.save(saved, tmp_path / 'x.pth')
    loaded = torch.load(tmp_path / 'x.pth')
    assert loaded['history'].mean() == 3 and loaded['history'].current() == 6
    assert loaded['scalar'] == 3.5 and loaded['count'] == 7
    assert loaded['array'].tolist() == [0, 1, 2]


def test_a_run_resumes(tmp_path):
    hooks = [dict(type='EDEHook')]
    tiny_runner(tmp_path, hooks).train()
    runner = tiny_runner(
        tmp_path, hooks, resume=True, train_cfg=dict(by_epoch=True, max_epochs=4)
    )
    runner.train()
    assert len(runner.model.seen) == 4  # the fourth epoch alone


def test_configs_of_other_packages_are_found(tmp_path):
    # ours, which inherits one of mmpretrain's
    mine = tmp_path / 'mine.py'
    mine.write_text("_base_ = 'mmirnet::examples/resnet18_w1a32_cifar10.py'")
    cfg = Config.fromfile(mine)
    assert cfg.model.backbone.type == 'ResNet_CIFAR'
    assert cfg.model.backbone.conv_cfg.type == 'IRConv2d'
    assert cfg.train_cfg.max_epochs == 200


@pytest.mark.parametrize(
    'name, version, message',
    [
        ('mmengine', '0.7.0', r'mmirnet needs mmengine>=0.10,<1, found 0.7.0: pip'),
        ('mmpretrain', '3.0', r'needs mmpretrain>=1.2,<2, found 3.0'),
    ],
)
def test_unfit_version(monkeypatch, name, version, message):
    monkeypatch.setattr(f'{name}.__version__', version)
    with pytest.raises(ImportError, match=message):
        compat.check_versions()


def test_missing_mmcv_is_named_in_one_line():
    hide = (
        'import sys; sys.modules["mmcv"] = None;'
        'import importlib.util as u; find = u.find_spec;'
        'u.find_spec = lambda n, *a: None if n == "mmcv" else find(n, *a);'
        'import mmirnet'
    )
    run = subprocess.run([sys.executable, '-c', hide], capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith('ImportError: mmirnet needs mmcv>=2.0.1')
    assert "pip install 'mmirnet[lite]'" in last
