import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from mmpretrain.models import ClsDataPreprocessor
from PIL import Image
from small_run import PATIENCE, ROOT, TOOLS, environment
from warm_python import python
from zoo_fixtures import alone  # noqa: F401

import mmirnet.zoo
from mmirnet.analysis.cost.count import summarize_config
from mmirnet.apis.conversion import convert
from mmirnet.apis.inference import infer
from mmirnet.apis.packing import export_checkpoint, pack_checkpoint
from mmirnet.apis.reports import write_report
from mmirnet.datasets import Digits
from mmirnet.engine.config import load_config
from mmirnet.engine.facts import build_model
from mmirnet.errors import ConfigError

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
        'engine': dict(model=packed, runtime=True),
        'name': dict(model='some_name'),
        'name on the runtime': dict(model='some_name', runtime=True),
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
    (wanted,) = infer(image, packed, runtime=True)
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


PIPELINES = {
    'ImageNet': [
        dict(type='ResizeEdge', scale=40, edge='short', backend='pillow'),
        dict(type='CenterCrop', crop_size=32),
    ],
    'wide': [dict(type='Resize', scale=(64, 32), interpolation='bicubic')],
    'short edge': [
        dict(type='ResizeEdge', scale=64),
        dict(type='CenterCrop', crop_size=64),
    ],
    'padded': [dict(type='Pad', size=(70, 70), pad_val=dict(img=(9, 99, 200)))],
}


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    """Colourful files of several sizes, most of them turned by EXIF, in two classes."""
    folder = tmp_path_factory.mktemp('photographs')
    rng = np.random.default_rng(0)
    for number in range(6):
        ramp = np.add.outer(np.arange(50 + number), 2 * np.arange(60 - 2 * number))
        pixels = ramp[..., None] + rng.integers(0, 90, 3) + rng.integers(0, 40, (1, 3))
        exif = Image.Exif()
        exif[0x112] = number + 1
        path = folder / f'class {number % 2}' / f'{number}.jpg'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path, exif=exif)
    return folder


def own_data(folder, pipeline, to_rgb, more=''):
    pipeline = [dict(type='LoadImageFromFile'), *pipeline, dict(type='PackInputs')]
    return (
        f"_base_ = '{CONFIG}'\n"
        'data_preprocessor = dict(\n'
        f'    to_rgb={to_rgb}, mean=[99, 50, 9], std=[99, 40, 60], num_classes=10)\n'
        'test_dataloader = dict(\n'
        '    num_workers=0, persistent_workers=False, dataset=dict(\n'
        "    _delete_=True, type='CustomDataset', "
        f'data_root={str(folder)!r}, pipeline={pipeline}))\n{more}'
    )


def evaluated(config, checkpoint):
    """Scores by file, as the test loop gets them."""
    cfg = load_config(str(config), None, 'none')
    classifier = build_model(cfg, checkpoint)
    scores = {}
    for batch in Runner.build_dataloader(dict(cfg.test_dataloader, batch_size=1)):
        with torch.no_grad():
            for sample in classifier.test_step(batch):
                scores[sample.img_path] = sample.pred_score.numpy()
    return scores


@pytest.mark.parametrize('to_rgb', [True, False])
@pytest.mark.parametrize('pipeline', PIPELINES)
def test_every_way_sees_the_pixels_of_the_test_set(
    model, photographs, pipeline, to_rgb, tmp_path
):
    config, packed = tmp_path / 'config.py', tmp_path / 'model.safetensors'
    config.write_text(own_data(photographs, PIPELINES[pipeline], to_rgb))
    pack_checkpoint(str(config), model['checkpoint'], packed)
    wanted = evaluated(config, model['checkpoint'])
    assert len({tuple(row) for row in wanted.values()}) == 6
    for way in (
        dict(model=str(config), checkpoint=model['checkpoint']),
        dict(model=str(packed)),
        dict(model=str(packed), runtime=True),
    ):
        results = infer([photographs], topk=10, **way)
        assert [result['image'] for result in results] == sorted(wanted)
        for result in results:
            row = wanted[result['image']]
            scores = [row[entry['label']] for entry in result['top']]
            got = [entry['score'] for entry in result['top']]
            np.testing.assert_allclose(got, scores, atol=1e-4)


SEVERAL = (
    "model = dict(head=dict(_delete_=True, type='MultiLabelLinearClsHead', "
    'num_classes=10, in_channels=64, thr=0.4))\n'
    "test_evaluator = dict(_delete_=True, type='AveragePrecision')\n"
)


def test_several_classes_an_image(model, photographs, tmp_path):
    config, packed = tmp_path / 'config.py', tmp_path / 'model.safetensors'
    config.write_text(own_data(photographs, PIPELINES['wide'], True, SEVERAL))
    classifier = build_model(load_config(str(config), None, 'none'), None)
    checkpoint = str(tmp_path / 'several.pth')
    torch.save({'state_dict': classifier.state_dict()}, checkpoint)
    pack_checkpoint(str(config), checkpoint, packed)
    wanted = evaluated(config, checkpoint)
    for way in (
        dict(model=str(config), checkpoint=checkpoint),
        dict(model=str(packed)),
        dict(model=str(packed), runtime=True),
    ):
        results = infer([photographs], topk=10, **way)
        for result in results:
            row = wanted[result['image']]
            assert row.sum() != pytest.approx(1)
            for entry in result['top']:
                assert entry['score'] == pytest.approx(row[entry['label']], abs=1e-4)
            assert result['predicted'] == np.flatnonzero(row >= 0.4).tolist()


def test_a_size_of_ones_own(model, photographs, tmp_path):
    config, packed = tmp_path / 'config.py', tmp_path / 'model.safetensors'
    config.write_text(own_data(photographs, PIPELINES['wide'], True))
    pack_checkpoint(str(config), model['checkpoint'], packed, size=(48, 48))
    assert len(infer([photographs], str(packed), runtime=True)) == 6


class Halves(ClsDataPreprocessor):
    """Does more than its mean and std say."""

    def forward(self, data, training=False):
        data = super().forward(data, training)
        return dict(data, inputs=data['inputs'] / 2)


@pytest.mark.parametrize(
    ('preprocessor', 'why'),
    [
        (dict(type=Halves), 'cannot pack Halves: it does more to an image'),
        (dict(pad_size_divisor=48), r'it pads images of \(32, 64\) to \(48, 96\)'),
    ],
)
def test_a_preprocessor_that_a_packed_file_does_not_know(
    model, photographs, preprocessor, why, tmp_path
):
    config = tmp_path / 'config.py'
    config.write_text(own_data(photographs, PIPELINES['wide'], True))
    with pytest.raises(ValueError, match=why):
        pack_checkpoint(
            str(config),
            model['checkpoint'],
            tmp_path / 'a.safetensors',
            cfg_options=dict(data_preprocessor=preprocessor),
        )


def test_a_transform_that_a_packed_file_does_not_know(model, photographs, tmp_path):
    config = tmp_path / 'config.py'
    jitter = dict(type='ColorJitter', brightness=0.5)
    config.write_text(own_data(photographs, [*PIPELINES['wide'], jitter], True))
    with pytest.raises(ValueError, match='as ColorJitter does'):
        pack_checkpoint(str(config), model['checkpoint'], tmp_path / 'a.safetensors')


@pytest.mark.parametrize('way', ['checkpoint', 'torch', 'engine'])
def test_bad_files_are_left_out(model, way, tmp_path):
    for name, data in {'b.png': b'', 'd.png': b'no image'}.items():
        (tmp_path / name).write_bytes(data)
    files = [*model['images'], str(tmp_path / 'absent.png')]
    files[1:1] = [str(tmp_path / 'b.png'), str(tmp_path / 'd.png')]
    bad = []
    results = infer(
        files,
        **ways(model)[way],
        out=tmp_path / 'out.json',
        show_dir=tmp_path / 'pictures',
        failed=lambda path, error: bad.append((path, str(error))),
    )
    assert [result['image'] for result in results] == model['images']
    assert results == infer(model['images'], **ways(model)[way])
    assert json.loads((tmp_path / 'out.json').read_text()) == results
    assert len(list((tmp_path / 'pictures').iterdir())) == 3
    assert [path for path, _ in bad] == [files[1], files[2], files[-1]]
    assert all(path in reason for path, reason in bad)


def test_an_image_that_the_network_does_not_take_is_left_out(
    model, photographs, tmp_path
):
    """Most fit VGG's linear layer when they are cropped; the small one does not."""
    config = tmp_path / 'config.py'
    crop = [dict(type='CenterCrop', crop_size=32)]
    text = own_data(photographs, crop, True)
    config.write_text(text.replace('resnet20_bireal_digits', 'vgg-small_digits'))
    classifier = build_model(load_config(str(config), None, 'none'), None)
    torch.save({'state_dict': classifier.state_dict()}, tmp_path / 'vgg.pth')
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / 'small.png')
    bad = []
    results = infer(
        [tmp_path / 'small.png', photographs / 'class 0'],
        str(config),
        checkpoint=str(tmp_path / 'vgg.pth'),
        failed=lambda path, error: bad.append(str(error)),
    )
    assert len(results) == 3
    (reason,) = bad
    assert f'image {tmp_path / "small.png"} is 3x20x20 when it is prepared' in reason


def test_the_tool_goes_on_behind_a_bad_file(model, tmp_path):
    for i, path in enumerate(model['images'][:2]):
        (tmp_path / f'folder {i}').mkdir()
        (tmp_path / f'folder {i}' / 'same.png').write_bytes(Path(path).read_bytes())
    (tmp_path / 'bad.png').write_bytes(b'no image')
    out, pictures = tmp_path / 'results.json', tmp_path / 'pictures'
    command = [python(), TOOLS / 'infer.py', tmp_path, '--runtime']
    command += ['--model', model['packed'], '--out', out, '--show-dir', pictures]
    result = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    assert f'error: cannot read image {tmp_path / "bad.png"}: ' in result.stderr
    assert '1 of 3 images could not be classified' in result.stderr.splitlines()[-1]
    files = [str(tmp_path / f'folder {i}' / 'same.png') for i in range(2)]
    assert [entry['image'] for entry in json.loads(out.read_text())] == files
    assert [line for line in result.stdout.splitlines() if line[0] != ' '] == files
    assert len(list(pictures.iterdir())) == 2


def test_tool_prints_writes_and_draws(model, tmp_path):
    out, pictures = tmp_path / 'results.json', tmp_path / 'pictures'
    command = [python(), TOOLS / 'infer.py', *model['images'], '--runtime']
    command += ['--model', model['packed'], '--topk', '2']
    result = subprocess.run(
        [*command, '--out', out, '--show-dir', pictures],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    results = json.loads(out.read_text())
    assert results == infer(model['images'], model['packed'], runtime=True, topk=2)
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
        (dict(runtime=True), ValueError, '--runtime needs a packed file'),
        (dict(checkpoint=None), ValueError, 'a config needs --checkpoint'),
        (dict(checkpoint='absent.safetensors'), OSError, 'absent'),
        (dict(checkpoint='absent.pth'), FileNotFoundError, 'absent.pth'),
        (dict(images=['absent.png']), OSError, 'absent.png'),
        (dict(topk=0), ValueError, '--topk 0'),
        (dict(topk=-1), ValueError, '--topk -1'),
        (dict(show_dir=__file__), OSError, 'File exists'),
        (dict(model='a.safetensors'), ValueError, 'a.safetensors is a packed file'),
        (dict(model='a.pth', checkpoint=None), ValueError, '--model CONFIG --check'),
        (dict(model=str(ROOT), checkpoint=None), ValueError, 'is no packed file'),
    ],
)
def test_mistakes_are_named(model, arguments, error, message):
    given = dict(images=model['images'], model=CONFIG, checkpoint=model['checkpoint'])
    with pytest.raises(error, match=message):
        infer(**{**given, **arguments})


def test_no_tool_writes_over_what_it_reads(model, tmp_path):
    image, config, weights = (tmp_path / name for name in ('a.png', 'b.py', 'c.pth'))
    image.write_text('an image')
    config.write_text('a config')
    weights.write_text('weights')
    packed = tmp_path / 'd.safetensors'
    packed.write_text('a packed file')
    for tool in (
        lambda: infer([image], str(config), checkpoint=str(weights), out=image),
        lambda: infer([image], str(packed), out=packed),
        lambda: pack_checkpoint(str(config), str(packed), packed),
        lambda: export_checkpoint(str(config), str(weights), weights),
        lambda: summarize_config(config, json_file=config),
        lambda: summarize_config(config, str(weights), csv_file=weights),
        lambda: convert(weights, tmp_path / 'sub' / '..' / 'c.pth', 'resnet20'),
    ):
        (tmp_path / 'sub').mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match='is read here, and the result would'):
            tool()
    assert weights.read_text() == 'weights'


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
