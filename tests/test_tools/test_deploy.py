"""The tools for packed files, one after the other, as a user calls them."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from networks import warm_up
from PIL import Image
from small_run import PATIENCE, ROOT, TEST_IMAGES, TOOLS, environment, small_config


def call(tool, *arguments, **variables):
    result = subprocess.run(
        [sys.executable, str(TOOLS / tool), *map(str, arguments)],
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


def test_engine_and_simulation_have_the_same_accuracy(made, tmp_path):
    accuracies = []
    for flags in ([], ['--engine']):
        out = tmp_path / f'metrics{len(flags)}.json'
        arguments = [made[0], made[2], '--out', out, '--out-item', 'metrics']
        call('test.py', *arguments, '--work-dir', tmp_path, *flags)
        accuracies.append(out.read_text())
    assert accuracies[0] == accuracies[1]
    share = float(re.search(r'[\d.]+(?=[,}])', accuracies[0]).group()) / 100
    assert abs(share * TEST_IMAGES - round(share * TEST_IMAGES)) < 1e-2


def test_the_engine_runs_a_model_of_the_zoo(tmp_path):
    name = 'resnet20_bireal_digits'
    out = tmp_path / 'metrics.json'
    call(
        'test.py',
        ROOT / f'configs/irnet/{name}.py',
        f'irnet://{name}',
        '--engine',
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
