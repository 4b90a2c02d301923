import functools
import os
import pickle
import re
import subprocess
import sys
import warnings
from importlib import metadata

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from small_run import ROOT
from tiny import tiny_runner
from yapf.yapflib import reformatter

from mmirnet import compat
from mmirnet.datasets import Digits
from mmirnet.errors import MissingPackageError


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


def test_data_loaders_of_our_configs_can_be_inherited(tmp_path):
    mine = tmp_path / 'mine.py'
    mine.write_text("""
_base_ = 'mmirnet::irnet/resnet20_bireal_digits.py'
train_dataloader = dict(num_workers=0, persistent_workers=False)
""")
    cfg = Config.fromfile(mine)
    assert cfg.train_dataloader.collate_fn._scope_ == 'mmpretrain'
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loader = Runner.build_dataloader(cfg.train_dataloader)
    assert next(iter(loader))['inputs'].shape == (64, 3, 32, 32)
    assert cfg.train_dataloader.collate_fn._scope_ == 'mmpretrain'  # as it was


def test_configs_of_other_packages_are_found(tmp_path):
    # ours, which inherits one of mmpretrain's
    mine = tmp_path / 'mine.py'
    mine.write_text("_base_ = 'mmirnet::examples/resnet18_w1a32_cifar10.py'")
    cfg = Config.fromfile(mine)
    assert cfg.model.backbone.type == 'ResNet_CIFAR'
    assert cfg.model.backbone.conv_cfg.type == 'IRConv2d'
    assert cfg.train_cfg.max_epochs == 200


@pytest.fixture(params=['openmmlab', 'onedl'])
def prefix(request, monkeypatch):
    """What stands in front of the packages' names in either family."""
    prefix = 'onedl-' if request.param == 'onedl' else ''
    monkeypatch.setattr(compat, '_prefix', lambda: prefix)
    return prefix


@pytest.mark.parametrize(
    ('name', 'version', 'wanted'),
    [
        ('mmengine', '0.10.5', 'mmengine>=0.10.6,<1'),
        ('mmpretrain', '3.0', 'mmpretrain>=1.2,<2'),
        ('mmcv', '1.7', 'mmcv>=2.0.1,<2.4'),
    ],
)
def test_unfit_version(monkeypatch, prefix, name, version, wanted):
    monkeypatch.setattr(f'{name}.__version__', version)
    with pytest.raises(MissingPackageError) as error:
        compat.check_versions()
    package = f'{prefix}{wanted}'
    if name == 'mmcv' and not prefix:
        package = package.replace('mmcv', 'mmcv-lite')
    assert str(error.value) == (
        f"mmirnet needs {wanted}, found {version}: pip install '{package}'"
    )


@pytest.mark.parametrize('version', ['0.10.6', '0.10.12', '0.11.0rc1'])
def test_fit_versions(monkeypatch, version):
    monkeypatch.setattr('mmengine.__version__', version)
    compat.check_versions()


def test_the_family_is_what_is_installed():
    installed = {d.metadata['Name'] for d in metadata.distributions()}
    assert (compat._prefix() == 'onedl-') == ('onedl-mmengine' in installed)


def test_extras_install_what_the_import_checks():
    text = (ROOT / 'pyproject.toml').read_text()
    for name, (low, high) in compat.REQUIRED.items():
        package = 'mmcv-lite' if name == 'mmcv' else name
        assert f'"{package}>={low},<{high}"' in text
        assert re.search(rf'"onedl-{name}>=[\d.]+,<{re.escape(high)}"', text)


def run_python(code):
    """What Python prints last, on either stream."""
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    return (run.stdout + run.stderr).strip().splitlines()[-1]


def without(*names):
    """Code that hides packages from what follows."""
    return ';'.join(['import sys', *(f'sys.modules[{n!r}] = None' for n in names), ''])


def test_missing_packages_are_named_in_one_line():
    last = run_python(without('mmcv') + 'import mmirnet')
    assert last.startswith('mmirnet.errors.MissingPackageError: mmirnet needs mmcv>=2')
    assert 'mmcv-lite>=' in last or 'onedl-mmcv>=' in last


@pytest.mark.parametrize('part', ['datasets', 'engine', 'models'])
def test_without_openmmlab_its_parts_say_what_to_install(part):
    code = without(*compat.REQUIRED) + f'import mmirnet; import mmirnet.{part}'
    last = run_python(code)
    assert last.startswith('mmirnet.errors.MissingPackageError: mmirnet needs mmengine')
    for name in compat.REQUIRED:
        assert last.count(name) == 2  # the need and the command


def escape(path):
    """What Python says of a pattern in a file when it compiles it."""
    compile(r"'\d'", path, 'exec')


HARMLESS = {
    'mmpretrain': lambda: escape('/x/mmpretrain/evaluation/metrics/vqa.py'),
    'torch': lambda: warnings.warn(
        '`broadcast_buffers` is deprecated. Use `forward_sync_buffers` instead.',
        FutureWarning,
        stacklevel=1,
    ),
}


@pytest.mark.parametrize('name', HARMLESS)
def test_harmless_warnings_are_silent_and_others_are_not(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        compat.quiet_warnings()
        HARMLESS[name]()
        assert caught == []
        escape('/x/mine.py')
        assert len(caught) == 1


def photograph():
    return np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('factor', [-0.5, -0.1, -0.001, 0.0, 0.1, 0.5])
def test_hue_shifts_either_way(backend, factor):
    """A whole turn of the hue is 256, as numpy 1 wrapped it."""
    image = photograph()
    shifted = mmcv.adjust_hue(image, factor, backend=backend)
    turn = int(factor * 255) % 256
    if backend == 'pillow':
        h, s, v = Image.fromarray(image[..., ::-1]).convert('HSV').split()
        h = Image.fromarray(np.asarray(h) + np.uint8(turn))
        wanted = np.asarray(Image.merge('HSV', (h, s, v)).convert('RGB'))[..., ::-1]
    else:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
        hsv[..., 0] += np.uint8(turn)
        wanted = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)
    np.testing.assert_array_equal(shifted, wanted)
    assert mmcv.image.adjust_hue is mmcv.adjust_hue


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_color_jitter_with_hue(backend):
    jitter = TRANSFORMS.build(dict(type='ColorJitter', hue=0.5, backend=backend))
    different = {jitter(dict(img=photograph()))['img'].tobytes() for _ in range(20)}
    assert len(different) > 10


def test_compiled_code_is_kept_apart_by_cpu(monkeypatch):
    from torch.compiler import config

    assert torch.backends.cpu.get_cpu_capability() in config.cache_key_tag
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'NEON')
    # Not by monkeypatch: newer versions take away what they find in no __dict__.
    with config.patch(cache_key_tag='mine'):
        for _ in range(2):
            compat.keep_compiled_code_apart()
        assert config.cache_key_tag == 'mine NEON'


def test_a_subset_of_data_remembers_no_other():
    """MMEngine's own copies take what has the address of an earlier one for it."""
    first, second = (Digits(split='test', pipeline=[]) for _ in range(2))
    copied = first.get_subset([0])
    second.friend = first
    assert second.get_subset([0]).friend is not copied


def test_a_config_is_formatted_once(monkeypatch):
    """Each checkpoint has its text."""
    formatted = []
    original = reformatter.Reformat

    def reformat(*args, **kwargs):
        formatted.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(reformatter, 'Reformat', reformat)
    cfg = Config(dict(seeds=[tuple(range(9))] * 9, name='first'))
    texts = [cfg.pretty_text for _ in range(3)]
    assert len(formatted) == 1 and len(set(texts)) == 1
    cfg.name = 'second'
    assert cfg.pretty_text == texts[0].replace('first', 'second')
    assert len(formatted) == 2
