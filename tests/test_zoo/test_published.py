"""The models in zoo/: whole, small, and as accurate as the index says."""

import hashlib
import json
import re

import pytest

from mmirnet import apis
from mmirnet.packed import read
from mmirnet.runtime import instruction_sets
from mmirnet.zoo import fetch, metafile

ZOO = metafile.ROOT / 'zoo'
MODELS = metafile.published()
DATA = metafile.ROOT / 'data'
#: Folders of data by the end of a model's name.
FOLDERS = {
    'fashionmnist': 'fashion_mnist',
    'cifar10-jpeg': 'cifar10',
    'imagenette': 'imagenette224',
}
LONG = [name for name in MODELS if name.endswith(('cifar10-jpeg', 'imagenette'))]


def test_which():
    digits = {'resnet20_bireal_digits', 'resnet20_w1a32_digits', 'vgg-small_digits'}
    fashion = {name.replace('digits', 'fashionmnist') for name in digits}
    assert MODELS.keys() >= digits | fashion
    others = MODELS.keys() - digits - fashion
    assert {name.rpartition('_')[2] for name in others} <= {
        'cifar10-jpeg',
        'imagenette',
    }


def test_small_enough_to_be_kept_here():
    listed = {m.file for m in MODELS.values()} | {m.log for m in MODELS.values()}
    assert {path.name for path in ZOO.iterdir()} == listed | {'index.json'}
    assert sum(path.stat().st_size for path in ZOO.iterdir()) < 12_000_000


@pytest.mark.parametrize('name', MODELS)
def test_whole(name):
    model = MODELS[name]
    data = (ZOO / model.file).read_bytes()
    assert len(data) == model.bytes
    assert hashlib.sha256(data).hexdigest() == model.sha256
    lines = [json.loads(line) for line in (ZOO / model.log).read_text().splitlines()]
    assert len(lines) == model.epochs
    # The validations of the training ran in its own precision.
    in_floats = (model.fp32_metrics or model.metrics)['accuracy/top1']
    assert lines[-1]['accuracy/top1'] == pytest.approx(in_floats, abs=0.3)


@pytest.mark.parametrize('name', MODELS)
def test_8_bit_ends(name):
    model = MODELS[name]
    ends = any('int8' in op['op'] for op in read(ZOO / model.file).graph)
    assert (model.ends == 'int8', model.fp32_metrics is not None) == (ends, ends)
    if ends:
        lost = model.fp32_metrics['accuracy/top1'] - model.metrics['accuracy/top1']
        assert lost <= 0.2


@pytest.mark.parametrize('name', MODELS)
def test_accuracy_of_the_packed_file(name, tmp_path, monkeypatch):
    folder = FOLDERS.get(name.rpartition('_')[2])
    if folder and not (DATA / folder).is_dir():
        pytest.skip(f'data/{folder} was not prepared')
    monkeypatch.setenv('MMIRNET_ZOO', str(ZOO))
    monkeypatch.chdir(metafile.ROOT)
    path = str(fetch(name))
    model = MODELS[name]
    # The runtime is the faster one, and exact where activations are bits. Float layers
    # of the simulation round as torch does on this machine.
    engine = bool(instruction_sets()) and 'w1a32' not in name
    wanted = (engine and model.runtime_metrics) or model.metrics
    metrics = apis.evaluate(
        f'configs/irnet/{name}.py', path, work_dir=str(tmp_path), runtime=engine
    )
    assert metrics == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize('name', LONG or [pytest.param('', marks=pytest.mark.skip)])
def test_long_runs_name_their_data_and_both_ways_to_run(name):
    model = MODELS[name]
    assert model.runtime_metrics == pytest.approx(model.metrics, abs=0.1)
    if 'cifar10' in name:
        assert 'JPEG copy' in model.copy


def test_the_tables_say_the_same():
    """The rows of configs/irnet/README.md and the index."""
    readme = (metafile.ROOT / 'configs' / 'irnet' / 'README.md').read_text()
    for name, model in MODELS.items():
        if name in LONG:
            continue  # tools/experiments/readme.py writes these
        (row,) = re.findall(rf'^\| \[{name}\].*$', readme, re.MULTILINE)
        assert f'{model.metrics["accuracy/top1"]:.1f} %' in row
        assert f'{model.epochs} epochs' in row
