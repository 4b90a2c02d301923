"""The tools for packed files, one after the other, as a user calls them."""

import json
import re
import subprocess

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from networks import warm_up
from PIL import Image
from small_run import PATIENCE, ROOT, TEST_IMAGES, TOOLS, environment, small_config
from warm_python import python

from mmirnet import apis
from mmirnet.apis.packing import pack_checkpoint
from mmirnet.errors import ConfigError
from mmirnet.packed import read


def call(tool, *arguments, **variables):
    result = subprocess.run(
        [python(), str(TOOLS / tool), *map(str, arguments)],
        env=environment(OMP_NUM_THREADS='1', **variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A config, a checkpoint and what pack.py made of them."""
    folder = tmp_path_factory.mktemp('packed')
    config = small_config(folder / 'run')
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(config).model)
    warm_up(model, 3, 32, 32)
    torch.save(dict(state_dict=model.state_dict()), folder / 'model.pth')
    out = folder / 'model.safetensors'
    printed = call('deploy/pack.py', config, folder / 'model.pth', out)
    return config, folder / 'model.pth', out, printed


def test_pack_says_how_much_smaller_the_file_is(made):
    size = made[2].stat().st_size
    assert f'{size:,} bytes' in made[3]
    times = float(re.search(r'([\d.]+) times smaller', made[3]).group(1))
    assert 15 < times < 32


def test_pack_with_8_bit_ends_prints_their_effect(made, tmp_path):
    config, checkpoint, *_ = made
    out = tmp_path / 'int8.safetensors'
    printed = call('deploy/pack.py', config, checkpoint, out, '--ends', 'int8')
    assert '8-bit integers in 2 layers; ranges by images of the training set' in printed
    assert re.search(r'top1 [\d.]+ in fp32, [\d.]+ now, on \d+ test images', printed)
    assert re.search(r'the likeliest class changes on \d+', printed)
    kinds = {op['op'] for op in read(out).graph}
    assert {'pixel_conv2d', 'linear_int8'} <= kinds
    assert not {'conv2d', 'linear'} & kinds


def test_a_folder_calibrates(made, tmp_path):
    config, checkpoint, *_ = map(str, made)
    photos = tmp_path / 'photos'
    out, how = tmp_path / 'int8.safetensors', dict(ends='int8', calibrate=photos)
    with pytest.raises(ConfigError, match=r'photos: there is no such folder'):
        pack_checkpoint(config, checkpoint, out, **how)
    photos.mkdir()
    with pytest.raises(ConfigError, match=r'photos: there are no images in it'):
        pack_checkpoint(config, checkpoint, out, **how)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(image).save(photos / 'photo.png')
    assert f'ranges by images of {photos}' in pack_checkpoint(
        config, checkpoint, out, **how
    )


def test_without_a_training_set_a_folder_is_asked_for(made, tmp_path):
    out = tmp_path / 'int8.safetensors'
    options = dict(train_dataloader=None, train_cfg=None, optim_wrapper=None)
    with pytest.raises(ConfigError, match='name a folder of images with --calibrate'):
        pack_checkpoint(
            str(made[0]), str(made[1]), out, ends='int8', cfg_options=options
        )


def test_bits_are_checked(made, tmp_path):
    out = tmp_path / 'int8.safetensors'
    with pytest.raises(ConfigError, match=r"ends must be one of .*got 'int4'"):
        pack_checkpoint(str(made[0]), str(made[1]), out, ends='int4')


def test_a_folder_without_8_bit_integers_is_refused(made, tmp_path):
    out = tmp_path / 'float.safetensors'
    with pytest.raises(ConfigError, match=r'--calibrate photos .* add --ends int8'):
        pack_checkpoint(str(made[0]), str(made[1]), out, calibrate='photos')


def test_run_prints_the_best_classes(made, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / 'photo.png')
    lines = call(
        'deploy/run.py', made[2], tmp_path / 'photo.png', '--topk', 3
    ).splitlines()
    assert lines[0] == str(tmp_path / 'photo.png')
    shares = [float(line.split('%')[0]) for line in lines[1:]]
    assert len(shares) == 3
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 100.01


def test_run_shows_a_bug_as_one(made, tmp_path):
    code = (
        'import runpy, sys, mmirnet.runtime as d; d.load = lambda *a, **k: int("x"); '
        f'sys.argv = ["run.py", {str(made[2])!r}, "a.png"]; '
        f'runpy.run_path({str(TOOLS / "deploy/run.py")!r}, run_name="__main__")'
    )
    result = subprocess.run(
        [python(), '-c', code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.stderr.startswith('Traceback')
    assert 'ValueError: invalid literal' in result.stderr


def test_pack_wants_the_name_that_the_tools_know(made, tmp_path):
    with pytest.raises(ConfigError, match=r'a\.bin: .*\.safetensors'):
        pack_checkpoint(str(made[0]), str(made[1]), tmp_path / 'a.bin')


def test_engine_and_simulation_have_the_same_accuracy(made, tmp_path):
    accuracies = []
    for flags in ([], ['--runtime']):
        out = tmp_path / f'metrics{len(flags)}.json'
        arguments = [made[0], made[2], '--out', out, '--out-item', 'metrics']
        call('test.py', *arguments, '--work-dir', tmp_path, *flags)
        accuracies.append(out.read_text())
    assert accuracies[0] == accuracies[1]
    share = float(re.search(r'[\d.]+(?=[,}])', accuracies[0]).group()) / 100
    assert abs(share * TEST_IMAGES - round(share * TEST_IMAGES)) < 1e-2


def test_averaged_weights_are_packed_and_tested(tmp_path):
    hooks = "[dict(type='EDEHook'), dict(type='EMAHook', momentum=0.5)]"
    config = small_config(tmp_path / 'ema', f'custom_hooks = {hooks}')
    apis.train(str(config), work_dir=str(tmp_path / 'run'))
    checkpoint = tmp_path / 'run' / 'epoch_2.pth'
    packed = tmp_path / 'ema.safetensors'
    call('deploy/pack.py', config, checkpoint, packed)
    logits = []
    for file, *flags in ([checkpoint], [packed], [packed, '--engine']):
        out = tmp_path / 'out.pkl'
        if flags:
            call('test.py', config, file, '--work-dir', tmp_path, '--out', out, *flags)
        else:
            work_dir = str(tmp_path)
            apis.evaluate(str(config), str(file), work_dir=work_dir, out=str(out))
        logits.append(np.stack([p['pred_score'] for p in load(out)]))
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)
    np.testing.assert_allclose(logits[2], logits[0], atol=1e-5)

    # The last weights themselves, which MMEngine keeps beside the averages, differ.
    saved = torch.load(checkpoint)
    last = {
        name.removeprefix('module.'): weight
        for name, weight in saved['ema_state_dict'].items()
        if name.startswith('module.')
    }
    plain = small_config(tmp_path / 'plain')
    torch.save(dict(state_dict=last), tmp_path / 'last.pth')
    out = tmp_path / 'last.pkl'
    apis.evaluate(
        str(plain), str(tmp_path / 'last.pth'), work_dir=str(tmp_path), out=str(out)
    )
    assert (
        np.abs(np.stack([p['pred_score'] for p in load(out)]) - logits[0]).max() > 0.01
    )


def test_the_engine_runs_a_model_of_the_zoo(tmp_path):
    name = 'resnet20_bireal_digits'
    out = tmp_path / 'metrics.json'
    call(
        'test.py',
        ROOT / f'configs/irnet/{name}.py',
        f'irnet://{name}',
        '--runtime',
        *['--work-dir', tmp_path, '--out', out, '--out-item', 'metrics'],
    )
    index = json.loads((ROOT / 'zoo' / 'index.json').read_text())
    wanted = index['models'][name]['metrics']
    assert json.loads(out.read_text()) == pytest.approx(wanted, abs=1e-3)


def test_export_compares_layer_by_layer(made, tmp_path):
    pytest.importorskip('onnxruntime')
    out = tmp_path / 'model.onnx'
    printed = call('deploy/export_onnx.py', made[0], made[1], out)
    assert f'{out.stat().st_size:,} bytes' in printed
    assert 'every layer within' in printed
