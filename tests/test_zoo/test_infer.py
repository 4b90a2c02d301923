import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import TOOLS, environment

import mmirnet.zoo
from mmirnet.analysis.report import write_report
from mmirnet.analysis.summary import summarize_config
from mmirnet.datasets import Digits
from mmirnet.deploy import read_image
from mmirnet.deploy.checkpoint import export_checkpoint, pack_checkpoint
from mmirnet.engine.facts import build_model
from mmirnet.engine.run import load_config
from mmirnet.zoo.infer import infer

CONFIG = 'mmirnet::irnet/resnet20_bireal_digits.py'


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A checkpoint with the statistics of digits, the same packed, and digits."""
    folder = tmp_path_factory.mktemp('model')
    digits = Digits(split='test', indices=64)
    pixels = np.stack([digits.get_data_info(i)['img'] for i in range(64)])
    torch.manual_seed(0)
    classifier = build_model(load_config(CONFIG, None, 'none'), None).train()
    classifier.init_weights()
    data = dict(inputs=list(torch.from_numpy(pixels).permute(0, 3, 1, 2)))
    inputs = classifier.data_preprocessor(data)['inputs']
    for module in classifier.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the statistics of all batches, here of one
    with torch.no_grad():
        classifier(inputs)
    checkpoint = folder / 'model.pth'
    torch.save({'state_dict': classifier.state_dict()}, checkpoint)
    packed = folder / 'model.safetensors'
    pack_checkpoint(CONFIG, str(checkpoint), packed)
    for i in range(3):
        Image.fromarray(pixels[i]).save(folder / f'digit{i}.png')
    images = [str(folder / f'digit{i}.png') for i in range(3)]
    with torch.no_grad():
        logits = classifier.eval()(inputs[:3])
    return dict(
        checkpoint=str(checkpoint),
        packed=str(packed),
        images=images,
        wanted=logits.softmax(1).numpy(),
    )


def ways(model):
    packed = model['packed']
    return {
        'torch': dict(model=packed),
        'engine': dict(model=packed, engine=True),
        'name': dict(model='some_name'),
        'name on the engine': dict(model='some_name', engine=True),
        'checkpoint': dict(model=CONFIG, checkpoint=model['checkpoint']),
        'packed checkpoint': dict(model=CONFIG, checkpoint=packed),
    }


@pytest.mark.parametrize('way', ways(dict(packed='', checkpoint='')))
def test_all_ways_give_the_same_answers(model, way, monkeypatch):
    def fetch(name):
        assert name == 'some_name'
        return model['packed']

    monkeypatch.setattr(mmirnet.zoo, 'fetch', fetch, raising=False)
    results = infer(model['images'], topk=10, **ways(model)[way])
    assert [result['image'] for result in results] == model['images']
    for result, wanted in zip(results, model['wanted'], strict=True):
        top = result['top']
        assert [e['label'] for e in top] == np.argsort(-wanted).tolist()
        assert [e['class'] for e in top] == [str(e['label']) for e in top]
        scores = [wanted[e['label']] for e in top]
        np.testing.assert_allclose([e['score'] for e in top], scores, atol=1e-4)


def test_the_images_differ(model):
    """Else the test above could not fail."""
    assert len({tuple(np.argsort(-row)) for row in model['wanted']}) == 3


@pytest.mark.parametrize('to_rgb', [False, True])
def test_channels_come_in_the_order_of_the_config(model, tmp_path, to_rgb):
    colours = np.zeros((32, 32, 3), np.uint8)
    colours[..., 0], colours[8:20, 8:20, 2] = 200, 255
    Image.fromarray(colours).save(tmp_path / 'red.png')
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = '{CONFIG}'\n"
        f'data_preprocessor = dict(to_rgb={to_rgb}, mean=[1, 50, 99], std=[9, 40, 99])'
    )
    packed = str(tmp_path / 'colours.safetensors')
    pack_checkpoint(str(config), model['checkpoint'], packed)
    image = [str(tmp_path / 'red.png')]
    (wanted,) = infer(image, packed, engine=True)
    (got,) = infer(image, str(config), checkpoint=model['checkpoint'])
    assert got['top'][0]['label'] == wanted['top'][0]['label']
    assert got['top'][0]['score'] == pytest.approx(wanted['top'][0]['score'], abs=1e-4)


def test_a_pipeline_that_resizes_gets_the_whole_image(model, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = '{CONFIG}'\n"
        'pipeline = [dict(type="LoadImageFromFile"), '
        'dict(type="Resize", scale=(32, 32)), dict(type="PackInputs")]\n'
        'test_dataloader = dict(dataset=dict(pipeline=pipeline))\n'
    )
    rng = np.random.default_rng(0)
    wide = np.repeat(rng.integers(0, 256, (32, 32, 1), np.uint8), 3, 2).repeat(3, 1)
    Image.fromarray(wide).save(tmp_path / 'wide.png')
    Image.fromarray(wide[:, 1::3]).save(tmp_path / 'narrow.png')
    images = [str(tmp_path / 'wide.png'), str(tmp_path / 'narrow.png')]
    wide, narrow = infer(images, str(config), checkpoint=model['checkpoint'])
    assert wide['top'] == narrow['top']
    (cut, _) = infer(images, model['packed'])
    assert cut['top'] != wide['top']


def test_small_images_are_padded_as_in_fashion_mnist(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'boot.png')
    got = read_image(tmp_path / 'boot.png', (32, 32))
    np.testing.assert_array_equal(got, np.dstack([np.pad(pixels, 2)] * 3))
    assert read_image(tmp_path / 'boot.png', (32, 32), 1).shape == (32, 32, 1)
    # Others are resized: nothing black is added.
    Image.fromarray(np.full((20, 20), 255, np.uint8)).save(tmp_path / 'white.png')
    for size in ((32, 32), (16, 16), (224, 224)):
        image = read_image(tmp_path / 'white.png', size)
        assert image.shape == (*size, 3)
        assert image.min() == 255


def test_tool_prints_writes_and_draws(model, tmp_path):
    out, pictures = tmp_path / 'results.json', tmp_path / 'pictures'
    command = [sys.executable, TOOLS / 'infer.py', *model['images'], '--engine']
    command += ['--model', model['packed'], '--topk', '2']
    result = subprocess.run(
        [*command, '--out', out, '--show-dir', pictures],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    results = json.loads(out.read_text())
    assert results == infer(model['images'], model['packed'], engine=True, topk=2)
    lines = result.stdout.splitlines()
    assert len(lines) == 9
    best = results[1]['top'][0]
    assert lines[3] == model['images'][1]
    assert lines[4] == f'  {100 * best["score"]:6.2f} %  {best["class"]}'

    drawn = sorted(pictures.iterdir())
    assert [p.name for p in drawn] == [f'000{i}_digit{i}.png' for i in range(3)]
    with Image.open(drawn[0]) as picture, Image.open(model['images'][0]) as digit:
        plain = digit.resize(picture.size, Image.Resampling.BILINEAR)
        assert min(picture.size) == 224
        difference = np.abs(np.asarray(picture, int) - np.asarray(plain, int))
    rows = difference.mean((1, 2))
    assert rows[:30].max() > 10  # the text, and below it the digit
    assert rows[150:].max() < 5


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (dict(engine=True), ValueError, '--engine needs a packed file'),
        (dict(checkpoint=None), ValueError, 'a config needs --checkpoint'),
        (dict(checkpoint='absent.safetensors'), OSError, 'absent'),
        (dict(checkpoint='absent.pth'), FileNotFoundError, 'absent.pth'),
        (dict(images=['absent.png']), OSError, 'absent.png'),
    ],
)
def test_mistakes_are_named(model, arguments, error, message):
    given = dict(images=model['images'], model=CONFIG, checkpoint=model['checkpoint'])
    with pytest.raises(error, match=message):
        infer(**{**given, **arguments})


def test_every_tool_says_first_where_its_results_cannot_go(tmp_path):
    (tmp_path / 'file').write_text('')
    out = tmp_path / 'file' / 'a.json'
    for tool in (
        lambda: infer(['absent.png'], 'absent.py', checkpoint='absent.pth', out=out),
        lambda: pack_checkpoint('absent.py', 'absent.pth', out),
        lambda: export_checkpoint('absent.py', 'absent.pth', out),
        lambda: summarize_config('absent.py', json_file=out),
        lambda: summarize_config('absent.py', csv_file=out),
        lambda: write_report(['absent'], out),
    ):
        with pytest.raises(OSError, match=f'cannot write {out}'):
            tool()
