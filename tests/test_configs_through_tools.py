"""Configs of all kinds through every tool: one network, one answer.

Each row of the table is a config as users write them, with a checkpoint. Predictions
of the checkpoint and of the packed file, simulated and on the runtime, by test.py and
by infer.py, are the same numbers; summary, report, ONNX and release have the same
size, classes and kind of scores.
"""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import config_table as table
import numpy as np
import pytest
import torch
from config_table import CLASSES, MEAN, PACK, READ, STD, WHOLE, folder_set, table_config
from mmengine.config import Config
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from PIL import Image

from mmirnet.analysis.cost.count import summarize_config
from mmirnet.apis import reports as report
from mmirnet.apis.evaluation import evaluate
from mmirnet.apis.inference import infer
from mmirnet.apis.packing import export_checkpoint, pack_checkpoint
from mmirnet.apis.publishing import publish
from mmirnet.datasets import Digits
from mmirnet.engine.config import load_config
from mmirnet.engine.facts import gather
from mmirnet.errors import ConfigError, UnsupportedModelError
from mmirnet.packed import read
from mmirnet.runtime import load

ROWS = {}


def row(size=(32, 32), channels=3, names=CLASSES, kind='softmax', **kwargs):
    """Registers a config: a function from an empty folder to its settings."""

    def register(make):
        ROWS[make.__name__] = SimpleNamespace(
            make=make,
            size=size,
            channels=channels,
            names=list(names),
            kind=kind,
            dataset=kwargs.get('dataset', 'CustomDataset'),
            saved=kwargs.get('saved', names),
            ema=kwargs.get('ema', False),
        )
        return make

    return register


@row()
def own_folder(root):
    return table_config(root, folder_set(root))


@row()
def bgr(root):
    normalisation = dict(mean=MEAN, std=STD, to_rgb=False)
    return table_config(root, folder_set(root), data_preprocessor=normalisation)


@row(channels=1)
def grey(root):
    data = folder_set(root, read=dict(READ, color_type='grayscale'))
    normalisation = dict(mean=[128.0], std=[64.0])
    return table_config(root, data, channels=1, data_preprocessor=normalisation)


@row()
def normalised_in_the_pipeline(root):
    step = dict(type='Normalize', mean=MEAN, std=STD, to_rgb=True)
    data = folder_set(root, WHOLE, step)
    return table_config(root, data, data_preprocessor=dict(type='ClsDataPreprocessor'))


@row()
def preprocessor_inside_the_model(root):
    cfg = table_config(root, folder_set(root))
    inside = dict(mean=[64.0] * 3, std=[128.0] * 3, to_rgb=True)
    cfg['model']['data_preprocessor'] = inside
    return cfg  # the one at the top level does not count


@row()
def no_preprocessor(root):
    return table_config(root, folder_set(root), data_preprocessor=None)


@row()
def mixup(root):
    augments = dict(augments=[dict(type='Mixup', alpha=0.8)], probs=[1.0])
    normalisation = dict(mean=MEAN, std=STD, num_classes=3, batch_augments=augments)
    return table_config(root, folder_set(root), data_preprocessor=normalisation)


@row(size=(32, 64))
def wide(root):
    return table_config(root, folder_set(root, dict(type='Resize', scale=(64, 32))))


@row()
def resized_and_cropped(root):
    steps = [
        dict(type='ResizeEdge', scale=40, edge='short', backend='pillow'),
        dict(type='CenterCrop', crop_size=32),
    ]
    return table_config(root, folder_set(root, *steps))


@row(size=(32, 64))
def one_edge_of_images_of_one_shape(root):
    step = dict(type='ResizeEdge', scale=32)
    return table_config(root, folder_set(root, step, size=(40, 80)))


@row()
def as_the_files_are(root):
    return table_config(
        root, folder_set(root, dict(type='Pad', size=(32, 32)), size=(32, 32))
    )


@row()
def by_torchvision_and_back(root):
    steps = [
        WHOLE,
        dict(type='NumpyToPIL', to_rgb=True),
        dict(type='PILToNumpy', to_bgr=False),
    ]
    normalisation = dict(mean=MEAN, std=STD, to_rgb=False)
    return table_config(root, folder_set(root, *steps), data_preprocessor=normalisation)


@row()
def read_as_floats(root):
    return table_config(root, folder_set(root, read=dict(READ, to_float32=True)))


@row()
def concatenated(root):
    data = folder_set(root)
    both = dict(type='ConcatDataset', datasets=[data, data])
    return table_config(root, both)


@row()
def repeated_and_folded(root):
    folds = dict(type='KFoldDataset', num_splits=3, fold=1, dataset=folder_set(root))
    data = dict(type='RepeatDataset', times=2, dataset=folds | dict(test_mode=True))
    return table_config(root, data)


@row()
def no_test_set(root):
    empty = dict.fromkeys(('test_dataloader', 'test_cfg', 'test_evaluator'))
    return table_config(root, folder_set(root), **empty)


@row(ema=True)
def averaged_weights(root):
    hook = dict(type='EMAHook')
    return table_config(root, folder_set(root), custom_hooks=[hook])


@row(ema=True)
def weights_before_averaging(root):
    hook = dict(type='EMAHook', evaluate_on_ema=False)
    return table_config(root, folder_set(root), custom_hooks=[hook])


@row(names=[*CLASSES, 'class 3'], saved=CLASSES)
def one_class_fewer(root):
    return table_config(root, folder_set(root), head=dict(num_classes=4))


@row(names=CLASSES, saved=None, dataset='ImageNet')
def imagenet_with_own_classes(root):
    data = folder_set(root, type='ImageNet', split='', classes=list(CLASSES))
    return table_config(root, data)


@row(names=['one', 'two', 'three'], saved=None)
def list_of_files_and_of_names(root):
    data = folder_set(root)
    (root / 'names.txt').write_text('one\ntwo\nthree\n')
    files = sorted((root / 'images').glob('*/*.png'))
    lines = [f'{f.parent.name}/{f.name} {i % 3}' for i, f in enumerate(files)]
    (root / 'test.txt').write_text('\n'.join(lines))
    data |= dict(
        data_prefix=str(root / 'images'),
        data_root='',
        ann_file=str(root / 'test.txt'),
        classes=str(root / 'names.txt'),
    )
    return table_config(root, data)


@row(kind='sigmoid', dataset='MultiLabelDataset')
def several_labels(root):
    data = folder_set(root)
    files = sorted((root / 'images').glob('*/*.png'))
    items = [
        dict(img_path=f'{f.parent.name}/{f.name}', gt_label=[i % 3, (i + 1) % 3])
        for i, f in enumerate(files)
    ]
    annotations = dict(metainfo=dict(classes=CLASSES), data_list=items)
    (root / 'test.json').write_text(json.dumps(annotations))
    data |= dict(
        type='MultiLabelDataset',
        data_root=str(root / 'images'),
        ann_file=str(root / 'test.json'),
    )
    head = dict(type='MultiLabelLinearClsHead', thr=0.4)
    metric = dict(type='MultiLabelMetric', thr=0.4)
    return table_config(root, data, head=head, test_evaluator=metric)


@row()
def dicts_among_the_names(root):
    palette = dict(cat=(1, 2, 3), dog=None)
    data = folder_set(root, metainfo=dict(classes=CLASSES, palette=palette))
    metrics = [dict(type='Accuracy', topk=(1, 3)), dict(type='ConfusionMatrix')]
    return table_config(root, data, test_evaluator=metrics)


@row(names=list('0123456789'), dataset='Digits')
def held_in_memory(root):
    digits = Digits(split='test', indices=6)
    for i in range(6):
        path = root / 'images' / f'{i}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(digits.get_data_info(i)['img']).save(path)
    data = dict(type='Digits', split='test', indices=6, pipeline=[PACK])
    data['serialize_data'] = False
    data = dict(type='InMemory', dataset=data)
    return table_config(root, data, head=dict(num_classes=10))


NEW_STYLE = """
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmpretrain.datasets import CustomDataset, LoadImageFromFile, PackInputs
from mmpretrain.datasets import ResizeEdge
from mmcv.transforms import Resize
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ClsDataPreprocessor, GlobalAveragePooling
from mmpretrain.models import ImageClassifier, LinearClsHead
from config_table import TableNet

with read_base():
    from .base import *

data_preprocessor = dict(type=ClsDataPreprocessor, mean={mean}, std={std}, to_rgb=True)
model = dict(
    type=ImageClassifier,
    backbone=dict(type=TableNet),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, in_channels=32, num_classes=3),
)
data = dict(
    type=CustomDataset,
    data_root={folder!r},
    pipeline=[
        dict(type=LoadImageFromFile),
        dict(type=Resize, scale=(32, 32)),
        dict(type=PackInputs),
    ],
)
train_dataloader.merge(dict(dataset=data, sampler=dict(type=DefaultSampler)))
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=data,
    sampler=dict(type=DefaultSampler, shuffle=False),
)
test_evaluator = dict(type=Accuracy)
"""


@row()
def new_style(root):
    data = folder_set(root)
    kept = table_config(root, data)
    for key in ('model', 'data_preprocessor', 'test_dataloader', 'test_evaluator'):
        del kept[key]
    lines = [f'{key} = {value!r}' for key, value in kept.items()]
    (root / 'base.py').write_text('\n'.join(lines))
    return NEW_STYLE.format(mean=MEAN, std=STD, folder=data['data_root'])


@pytest.fixture(scope='module', autouse=True)
def quick():
    """Configs are written as they are: laying them out takes a second each time."""
    with pytest.MonkeyPatch.context() as patch:
        layout = 'mmengine.config.config.FormatCode'
        patch.setattr(layout, lambda text, **kwargs: (text, True))
        yield


@pytest.fixture(scope='module', params=ROWS)
def case(request, tmp_path_factory):
    """A row with its files: config, checkpoint, packed file, images."""
    spec = ROWS[request.param]
    root = tmp_path_factory.mktemp(request.param)
    made = spec.make(root)
    config = root / f'{request.param}.py'
    if isinstance(made, str):
        config.write_text(made)
    else:
        Config(made).dump(config)
    checkpoint = root / 'epoch_1.pth'
    table.save_checkpoint(config, checkpoint, spec.saved, ema=spec.ema)
    packed = root / 'model.safetensors'
    said = pack_checkpoint(str(config), str(checkpoint), packed)
    files = sorted(map(str, (root / 'images').rglob('*.png')))
    return SimpleNamespace(
        **vars(spec),
        root=root,
        config=str(config),
        checkpoint=str(checkpoint),
        packed=str(packed),
        said=said,
        files=files,
    )


@pytest.fixture(scope='module')
def tested(case):
    """What test.py says of the checkpoint: metrics, and predictions in order."""
    return by_test(case, case.checkpoint)


def by_test(case, model, **options):
    out = case.root / 'predictions.pkl'
    metrics = evaluate(case.config, model, out=str(out), **options)
    return metrics, pickle.loads(out.read_bytes())


def by_file(case, predictions):
    """Scores of each image file, of predictions in the order of the test set."""
    paths = [p.get('img_path') for p in predictions]
    if None in paths:  # images in memory have no path
        paths = case.files
    return {
        str(Path(path).resolve()): p['pred_score'].numpy()
        for path, p in zip(paths, predictions, strict=True)
    }


def test_test_py_says_the_same_of_the_packed_file(case, tested):
    metrics, predictions = tested
    for engine in (False, True):
        got, others = by_test(case, case.packed, runtime=engine)
        for name, value in metrics.items():
            assert np.array_equal(got[name], value, equal_nan=True), name
        for one, other in zip(predictions, others, strict=True):
            assert torch.equal(one['pred_score'], other['pred_score'])
            assert torch.equal(one['pred_label'], other['pred_label'])


def test_infer_py_says_what_test_py_says(case, tested):
    wanted = by_file(case, tested[1])
    files = [file for file in case.files if str(Path(file).resolve()) in wanted]
    assert files
    ways = {
        'checkpoint': dict(model=case.config, checkpoint=case.checkpoint),
        'packed': dict(model=case.packed),
        'engine': dict(model=case.packed, runtime=True),
    }
    for way, arguments in ways.items():
        for result in infer(files, topk=99, **arguments):
            scores = wanted[str(Path(result['image']).resolve())]
            got = {top['label']: top['score'] for top in result['top']}
            np.testing.assert_allclose(
                [got[i] for i in range(len(scores))], scores, rtol=1e-5, err_msg=way
            )
            order = np.argsort(-scores, kind='stable').tolist()
            assert [top['label'] for top in result['top']] == order, way
            assert all(t['class'] == case.names[t['label']] for t in result['top'])


def test_the_predictions_differ(case, tested):
    """Else the tests above could not fail."""
    scores = np.stack([p['pred_score'].numpy() for p in tested[1]])
    assert len(np.unique(scores, axis=0)) > 1
    assert scores.std() > 0.01


def test_every_tool_knows_the_same(case):
    cfg = load_config(case.config, None, 'none')
    facts = gather(cfg, case.checkpoint)
    assert (facts.channels, facts.size) == (case.channels, case.size)
    assert (facts.classes, facts.kind) == (case.names, case.kind)
    shape = summarize_config(case.config, case.checkpoint).input_shape
    assert shape == (case.channels, *case.size)
    spec = read(case.packed)
    assert spec.classes == case.names
    size = tuple(spec.input[name] for name in ('channels', 'height', 'width'))
    assert size == (case.channels, *case.size)


def test_onnx_gives_the_same_logits(case):
    onnxruntime = pytest.importorskip('onnxruntime')
    out = case.root / 'model.onnx'
    export_checkpoint(case.config, case.checkpoint, out)
    session = onnxruntime.InferenceSession(out)
    x = np.round(
        np.random.default_rng(0).uniform(-64, 64, (2, case.channels, *case.size))
    )
    x = np.float32(x / 32)
    (got,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_array_equal(got, load(case.packed).predict(x))


def test_the_report_has_the_predictions(case, tested):
    facts = gather(load_config(case.config, None, 'none'), case.checkpoint)
    predictions = report.predict(case.config, case.checkpoint, facts)
    wanted = np.stack([p['pred_score'].numpy() for p in tested[1]])
    np.testing.assert_array_equal(predictions.scores, wanted)
    assert predictions.classes == case.names
    assert (predictions.labels is None) == (case.kind == 'sigmoid')
    if predictions.labels is not None:
        report.examples(predictions, 'rgb')
    assert report.settings(case.root, facts.cfg, summarize_config(case.config))


def test_the_release_has_the_metrics(case, tested):
    zoo = case.root / 'zoo'
    publish(case.config, case.checkpoint, zoo)
    (entry,) = json.loads((zoo / 'index.json').read_text())['models'].values()
    numbers = {
        name: round(float(value), 4)
        for name, value in tested[0].items()
        if isinstance(value, int | float)
    }
    assert entry['metrics'] == numbers
    assert entry['dataset'] == case.dataset
    assert read(zoo / entry['file']).classes == case.names


# --------------------------------------------------------------------------
# What a tool refuses.


@MODELS.register_module(force=True)
class Brighter(ClsDataPreprocessor):
    """A data preprocessor of someone's own."""

    def forward(self, data, training=False):
        data = super().forward(data, training)
        return dict(data, inputs=1.5 * data['inputs'])


def written(root, settings):
    """Config and checkpoint of some settings."""
    config = root / 'config.py'
    Config(settings).dump(config)
    table.save_checkpoint(config, root / 'epoch_1.pth', CLASSES)
    return str(config), str(root / 'epoch_1.pth')


@pytest.mark.parametrize(
    ('steps', 'preprocessor', 'message'),
    [
        (
            [dict(type='Resize', scale=(30, 30))],
            dict(mean=MEAN, std=STD, pad_size_divisor=16),
            r'cannot pack ClsDataPreprocessor: it pads images of \(30, 30\)',
        ),
        (
            [WHOLE],
            dict(type='Brighter', mean=MEAN, std=STD, to_rgb=True),
            'cannot pack Brighter: it does more to an image',
        ),
        (
            [WHOLE, dict(type='Normalize', mean=MEAN, std=STD)],
            dict(type='Brighter'),
            'cannot pack Brighter: it does more to an image',
        ),
        (
            [WHOLE, dict(type='Normalize', mean=MEAN, std=STD)],
            dict(mean=MEAN, std=STD),
            'normalised twice, by Normalize and by the data preprocessor',
        ),
    ],
    ids=['padded', 'brighter', 'brighter after Normalize', 'twice'],
)
def test_a_file_that_would_prepare_images_otherwise_is_refused(
    tmp_path, steps, preprocessor, message
):
    data = folder_set(tmp_path, *steps)
    settings = table_config(tmp_path, data, data_preprocessor=preprocessor)
    with pytest.raises(UnsupportedModelError, match=message):
        pack_checkpoint(*written(tmp_path, settings), tmp_path / 'model.safetensors')
    assert not (tmp_path / 'model.safetensors').exists()


@pytest.mark.parametrize('missing', ['head', 'classes'])
def test_models_without_classes_are_refused(tmp_path, missing):
    settings = table_config(tmp_path, folder_set(tmp_path))
    settings['model']['head'] = None
    name = 'ImageClassifier'
    if missing == 'classes':
        settings['model'] |= dict(
            head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss')),
            type='SimCLR',
        )
        name = 'SimCLR'
    config, checkpoint = written(tmp_path, settings)
    images = sorted(map(str, (tmp_path / 'images').rglob('*.png')))
    for tool in (
        lambda: pack_checkpoint(config, checkpoint, tmp_path / 'a.safetensors'),
        lambda: export_checkpoint(config, checkpoint, tmp_path / 'a.onnx'),
        lambda: infer(images, config, checkpoint=checkpoint),
        lambda: evaluate(config, checkpoint),
    ):
        with pytest.raises(ConfigError, match=name):
            tool()
    assert summarize_config(config, checkpoint).input_shape == (3, 32, 32)


def test_a_size_that_depends_on_the_file_is_asked_for(tmp_path):
    data = folder_set(tmp_path, dict(type='ResizeEdge', scale=32))
    table.images(tmp_path / 'images', (60, 30), classes=['eel'])
    config, checkpoint = written(tmp_path, table_config(tmp_path, data))
    packed = tmp_path / 'model.safetensors'
    for tool in (
        lambda **size: pack_checkpoint(config, checkpoint, packed, **size),
        lambda **size: export_checkpoint(config, checkpoint, tmp_path / 'a', **size),
        lambda **size: summarize_config(config, checkpoint, **size),
    ):
        with pytest.raises(ConfigError, match='--size H W'):
            tool()
        tool(size=(32, 48))
    assert load(packed).input['width'] == 48


def test_names_of_ones_own(tmp_path):
    config, checkpoint = written(tmp_path, table_config(tmp_path, folder_set(tmp_path)))
    packed = tmp_path / 'model.safetensors'
    pack_checkpoint(config, checkpoint, packed, classes=['a', 'b', 'c'])
    assert read(packed).classes == ['a', 'b', 'c']
    images = sorted(map(str, (tmp_path / 'images').rglob('*.png')))[:1]
    for arguments in (dict(model=config, checkpoint=checkpoint), dict(model=packed)):
        arguments['model'] = str(arguments['model'])
        (found,) = infer(images, classes=['x', 'y', 'z'], **arguments)
        assert {top['class'] for top in found['top']} == {'x', 'y', 'z'}


def test_a_mean_of_more_numbers_than_channels_is_refused(tmp_path):
    data = folder_set(tmp_path, WHOLE, read=dict(READ, color_type='grayscale'))
    preprocessor = dict(mean=MEAN, std=STD)
    settings = table_config(tmp_path, data, data_preprocessor=preprocessor)
    with pytest.raises(UnsupportedModelError, match='it makes 3 channels of 1; train'):
        pack_checkpoint(*written(tmp_path, settings), tmp_path / 'model.safetensors')
