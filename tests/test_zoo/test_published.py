"""The models in zoo/: whole, small, and as accurate as the index says."""

import hashlib
import json
import re

import pytest

from mmirnet import apis
from mmirnet.runtime import instruction_sets
from mmirnet.zoo import fetch, metafile

ZOO = metafile.ROOT / 'zoo'
MODELS = metafile.published()
DATA = metafile.ROOT / 'data'


def test_which():
    digits = {'resnet20_bireal_digits', 'resnet20_w1a32_digits', 'vgg-small_digits'}
    fashion = {name.replace('digits', 'fashionmnist') for name in digits}
    assert MODELS.keys() == digits | fashion


def test_small_enough_to_be_kept_here():
    listed = {m.file for m in MODELS.values()} | {m.log for m in MODELS.values()}
    assert {path.name for path in ZOO.iterdir()} == listed | {'index.json'}
    assert sum(path.stat().st_size for path in ZOO.iterdir()) < 5_000_000


@pytest.mark.parametrize('name', MODELS)
def test_whole(name):
    model = MODELS[name]
    data = (ZOO / model.file).read_bytes()
    assert len(data) == model.bytes
    assert hashlib.sha256(data).hexdigest() == model.sha256
    lines = [json.loads(line) for line in (ZOO / model.log).read_text().splitlines()]
    assert len(lines) == model.epochs
    assert lines[-1]['accuracy/top1'] == pytest.approx(
        model.metrics['accuracy/top1'], abs=0.3
    )


@pytest.mark.parametrize('name', MODELS)
def test_accuracy_of_the_packed_file(name, tmp_path, monkeypatch):
    if 'fashionmnist' in name and not (DATA / 'fashion_mnist').is_dir():
        pytest.skip('tools/prepare_fashion_mnist.py was not run')
    monkeypatch.setenv('MMIRNET_ZOO', str(ZOO))
    monkeypatch.chdir(metafile.ROOT)
    path = str(fetch(name))
    # The runtime is the faster one, and exact where activations are bits.
    engine = bool(instruction_sets()) and 'w1a32' not in name
    metrics = apis.evaluate(
        f'configs/irnet/{name}.py', path, work_dir=str(tmp_path), runtime=engine
    )
    assert metrics == pytest.approx(MODELS[name].metrics, abs=1e-3)


def test_the_tables_say_the_same():
    """The rows of configs/irnet/README.md and the index."""
    readme = (metafile.ROOT / 'configs' / 'irnet' / 'README.md').read_text()
    for name, model in MODELS.items():
        (row,) = re.findall(rf'^\| \[{name}\].*$', readme, re.MULTILINE)
        assert f'{model.metrics["accuracy/top1"]:.1f} %' in row
        assert f'{model.epochs} epochs' in row
