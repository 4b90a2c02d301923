import numpy as np
import pytest
import torch
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import init_default_scope
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from PIL import Image
from small_run import ROOT
from torch import nn
from torch.utils.data import Subset

from mmirnet.datasets.seeding import SeededDataset
from mmirnet.engine import facts
from mmirnet.engine.config import load_config
from mmirnet.engine.facts import (
    build_dataset,
    build_model,
    channel_order,
    class_difference,
    class_names,
    dataset_classes,
    gather,
    given_classes,
    head_kind,
    image_shape,
    reverses_channels,
    transforms,
)
from mmirnet.errors import ConfigError, DataError

READ = dict(type='LoadImageFromFile')
PACK = dict(type='PackInputs')


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def read(name):
    return load_config(str(ROOT / f'configs/irnet/{name}.py'), None, 'none')


def classifier(classes=4, head='LinearClsHead', **kwargs):
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='IRResNet_CIFAR', depth=20),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type=head, in_channels=64, num_classes=classes),
            **kwargs,
        )
    ).eval()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Six images of 40x60, the last one of 50x60, of two classes."""
    folder = tmp_path_factory.mktemp('images')
    for i in range(6):
        path = folder / ('cat' if i < 3 else 'dog') / f'{i}.png'
        path.parent.mkdir(exist_ok=True)
        height = 50 if i == 5 else 40
        Image.fromarray(np.full((height, 60, 3), i, np.uint8)).save(path)
    return folder


def custom(folder, *steps, **kwargs):
    pipeline = [READ, *steps, PACK]
    return dict(
        type='CustomDataset', data_root=str(folder), pipeline=pipeline, **kwargs
    )


def shape(spec, size=None, **preprocessor):
    spec = build_dataset(spec, 'test_dataloader.dataset')
    model = classifier(data_preprocessor=dict(**preprocessor))
    return image_shape(model, spec, size)


WHOLE = dict(type='Resize', scale=(64, 32))  # width first
CROPPED = [dict(type='ResizeEdge', scale=36), dict(type='CenterCrop', crop_size=32)]


@pytest.mark.parametrize('here', [True, False])
@pytest.mark.parametrize(
    ('steps', 'preprocessor', 'wanted'),
    [
        ([WHOLE], {}, (3, (32, 64))),
        (CROPPED, {}, (3, (32, 32))),
        ([*CROPPED, dict(type='Pad', size=(40, 48))], {}, (3, (48, 40))),
        ([WHOLE], dict(pad_size_divisor=48), (3, (48, 96))),
        (
            [
                WHOLE,
                dict(type='NumpyToPIL'),
                dict(type='torchvision/CenterCrop', size=(20, 24)),
                dict(type='PILToNumpy'),
            ],
            {},
            (3, (20, 24)),
        ),
    ],
    ids=str,
)
def test_the_size_is_what_comes_out_of_the_pipeline(
    folder, tmp_path, here, steps, preprocessor, wanted
):
    root = folder if here else tmp_path / 'absent'
    assert shape(custom(root, *steps), **preprocessor) == wanted


@pytest.mark.parametrize('here', [True, False])
@pytest.mark.parametrize(
    'step',
    [
        dict(type='ResizeEdge', scale=32),
        dict(type='Resize', scale=(32, 32), keep_ratio=True),
        dict(type='RandomFlip', prob=0.0),
    ],
    ids=str,
)
def test_a_size_that_depends_on_the_image_is_refused(folder, tmp_path, here, step):
    spec = custom(folder if here else tmp_path / 'absent', step)
    with pytest.raises(ConfigError, match=r'depends on the file: .*--size H W'):
        shape(spec)
    assert shape(spec, (64, 48)) == (3, (64, 48))


def test_grey_images_have_one_channel(folder):
    spec = custom(folder, WHOLE)
    spec['pipeline'][0] = dict(READ, color_type='grayscale')
    assert shape(spec) == (1, (32, 64))


@pytest.mark.parametrize(
    ('name', 'wanted'),
    [
        ('resnet18_bireal_in1k', (3, (224, 224))),
        ('resnet20_bireal_cifar10', (3, (32, 32))),
        ('resnet20_bireal_fashionmnist', (3, (32, 32))),
        ('resnet20_bireal_digits', (3, (32, 32))),
    ],
)
def test_the_images_need_not_be_here(name, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = read(name)
    dataset = facts.evaluation_set(cfg)
    assert image_shape(classifier(), dataset) == wanted
    classes = type(facts.parts(dataset)[0]).METAINFO['classes']
    assert dataset_classes(dataset) == list(classes)


def test_no_test_set_asks_for_the_size():
    cfg = read('resnet20_bireal_digits')
    cfg.test_dataloader = cfg.val_dataloader = None
    with pytest.raises(ConfigError, match='--size H W'):
        gather(cfg, None)
    found = gather(cfg, None, size=(24, 32))
    assert (found.channels, found.size) == (3, (24, 32))
    assert found.classes is None


def test_the_validation_set_stands_in_for_a_test_set():
    cfg = read('resnet20_bireal_digits')
    cfg.test_dataloader = None
    assert gather(cfg, None).size == (32, 32)


def test_several_loaders_are_refused():
    cfg = read('resnet20_bireal_digits')
    cfg.test_dataloader = [cfg.test_dataloader, cfg.test_dataloader]
    with pytest.raises(ConfigError, match='test_dataloader is a list of 2'):
        gather(cfg, None)


def test_a_size_that_the_network_does_not_take_is_refused(folder):
    model = classifier()
    with pytest.raises(ConfigError, match=r'not take .* 1x32x32 .*--size'):
        head_kind(model, (1, 32, 32))


WRAPPERS = {
    'concatenated': lambda d: dict(type='ConcatDataset', datasets=[d, d]),
    'repeated': lambda d: dict(type='RepeatDataset', times=2, dataset=d),
    'balanced': lambda d: dict(
        type='ClassBalancedDataset', oversample_thr=0.1, dataset=d
    ),
    'folded': lambda d: dict(type='KFoldDataset', num_splits=2, dataset=d),
    'in memory': lambda d: dict(type='InMemory', device='cpu', dataset=d),
    'nested': lambda d: WRAPPERS['repeated'](WRAPPERS['concatenated'](d)),
}


@pytest.mark.parametrize('here', [True, False])
@pytest.mark.parametrize('wrap', WRAPPERS)
def test_wrapped_data_sets_are_asked_inside(folder, tmp_path, wrap, here):
    inner = custom(folder if here else tmp_path / 'absent', WHOLE)
    inner['metainfo'] = dict(classes=['cat', 'dog'])
    dataset = build_dataset(WRAPPERS[wrap](inner), 'test_dataloader.dataset')
    assert image_shape(classifier(), dataset) == (3, (32, 64))
    assert dataset_classes(dataset) == ['cat', 'dog']
    names = [type(t).__name__ for t in transforms(dataset)]
    assert names == ['LoadImageFromFile', 'Resize', 'PackInputs']


@pytest.mark.parametrize('wrap', [SeededDataset, lambda d: Subset(d, [0, 1])])
def test_wrappers_of_others_are_asked_inside(folder, wrap):
    dataset = wrap(build_dataset(custom(folder, WHOLE), 'data'))
    assert image_shape(classifier(), dataset) == (3, (32, 64))
    assert dataset_classes(dataset) == ['cat', 'dog']


def test_a_pipeline_that_gives_no_single_image_is_refused(folder):
    flips = [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)]
    views = dict(type='TestTimeAug', transforms=[flips, [PACK]])
    spec = custom(folder, WHOLE)
    for last in (views, dict(type='Collect', keys=['img'])):
        spec['pipeline'][-1] = last
        with pytest.raises(ConfigError, match=r'not give one image .* PackInputs'):
            shape(spec)


def test_parts_that_prepare_images_differently_are_refused(folder):
    parts = [custom(folder, WHOLE), custom(folder, *CROPPED)]
    dataset = build_dataset(dict(type='ConcatDataset', datasets=parts), 'data')
    with pytest.raises(ConfigError, match='2 parts of ConcatDataset'):
        transforms(dataset)


def test_images_in_memory_are_asked():
    cfg = read('resnet20_bireal_digits')
    cfg.test_dataloader.dataset = dict(
        type='InMemory', dataset=cfg.test_dataloader.dataset
    )
    assert gather(cfg, None).size == (32, 32)


def test_files_in_memory_are_as_they_were_read(folder):
    spec = custom(folder, dict(type='Resize', scale=(64, 32)))
    dataset = build_dataset(dict(type='InMemory', dataset=spec), 'data')
    assert channel_order(dataset) == 'bgr'
    assert image_shape(classifier(), dataset) == (3, (32, 64))


def test_a_data_set_at_odds_with_its_files_is_named(folder):
    spec = custom(folder, WHOLE, classes=['one', 'two', 'three'])
    with pytest.raises(DataError, match=r'^test_dataloader\.dataset .*subfolders \(2'):
        build_dataset(spec, 'test_dataloader.dataset')


@pytest.mark.parametrize('in_memory', [False, True])
@pytest.mark.parametrize(
    ('step', 'message'),
    [
        (dict(WHOLE, scal=3), "Resize has no argument 'scal'; did you mean 'scale'"),
        (
            dict(type='Rezise'),
            r"no transform is called 'Rezise'; did you mean 'Resize'",
        ),
    ],
)
def test_a_wrong_name_in_a_pipeline_is_one_line(folder, step, message, in_memory):
    spec = custom(folder, step)
    if in_memory:
        spec = dict(type='InMemory', dataset=spec)
    with pytest.raises(ConfigError, match=message) as caught:
        build_dataset(spec, 'test_dataloader.dataset')
    assert str(caught.value).startswith('test_dataloader.dataset.')
    assert '\n' not in str(caught.value)


def test_nothing_is_downloaded(tmp_path, monkeypatch):
    def download(*args, **kwargs):
        raise AssertionError('downloads')

    for module in ('cifar', 'mnist'):
        name = f'mmpretrain.datasets.{module}.download_and_extract_archive'
        monkeypatch.setattr(name, download)
    for kind in ('CIFAR100', 'MNIST'):
        spec = dict(type=kind, data_root=str(tmp_path), pipeline=[PACK])
        wanted = (3, (32, 32)) if kind == 'CIFAR100' else (1, (28, 28))
        assert shape(spec) == wanted


@pytest.mark.parametrize(
    ('steps', 'wanted'),
    [
        ([], 'bgr'),
        ([dict(type='NumpyToPIL', to_rgb=True), dict(type='PILToNumpy')], 'rgb'),
        ([dict(type='Normalize', mean=[1, 2, 3], std=[4, 5, 6])], 'rgb'),
        ([dict(type='Normalize', mean=[1] * 3, std=[4] * 3, to_rgb=False)], 'bgr'),
    ],
    ids=str,
)
def test_the_order_of_the_channels_is_seen(folder, steps, wanted):
    dataset = build_dataset(custom(folder, WHOLE, *steps), 'data')
    assert channel_order(dataset) == wanted


# --------------------------------------------------------------------------
# The head.


@pytest.mark.parametrize(
    ('head', 'kind'),
    [('LinearClsHead', 'softmax'), ('MultiLabelLinearClsHead', 'sigmoid')],
)
def test_the_head_is_asked_how_it_scores(head, kind):
    assert head_kind(classifier(head=head), (3, 32, 32)) == (4, kind)


class TwiceAsSure(torch.nn.Module):
    """A head that scores by softmax of twice its logits."""

    def forward(self, feats):
        return feats[-1]

    def predict(self, feats, data_samples=None):
        from mmpretrain.structures import DataSample

        return [DataSample().set_pred_score(s) for s in (2 * feats[-1]).softmax(1)]


def test_other_ways_to_score_are_refused():
    model = classifier()
    model.head = TwiceAsSure()
    with pytest.raises(ConfigError, match=r'TwiceAsSure .*neither by softmax'):
        head_kind(model, (3, 32, 32))


def test_models_without_classes_are_refused():
    model = classifier()
    model.head = None
    with pytest.raises(ConfigError, match='ImageClassifier gives features'):
        head_kind(model, (3, 32, 32))


def test_heads_of_several_tasks_are_refused():
    tasks = {
        name: dict(type='LinearClsHead', num_classes=2) for name in ('kind', 'sex')
    }
    model = classifier()
    model.head = MODELS.build(
        dict(type='MultiTaskHead', in_channels=64, task_heads=tasks)
    )
    with pytest.raises(ConfigError, match=r'MultiTaskHead .*2 questions.*kind, sex'):
        head_kind(model, (3, 32, 32))


# --------------------------------------------------------------------------
# The classes.


def with_names(names):
    model = classifier()
    model._dataset_meta = {'classes': names}
    return model


def test_names_are_the_checkpoints_then_the_data_sets(folder):
    dataset = build_dataset(custom(folder, WHOLE), 'data')
    assert class_names(with_names(None), dataset, 2) == ['cat', 'dog']
    assert class_names(with_names(['a', 'b']), None, 2) == ['a', 'b']
    assert class_names(with_names(None), None, 2) is None
    given = class_names(with_names(['a', 'b']), dataset, 2, ['c', 'd'])
    assert given == ['c', 'd']


def test_names_from_a_command_line(tmp_path):
    file = tmp_path / 'names.txt'
    file.write_text('\ufeffKatze\n\nHühnchen\n', encoding='utf-8')
    assert given_classes([str(file)], 2) == ['Katze', 'Hühnchen']
    file.write_text('Hühnchen', encoding='latin-1')
    with pytest.raises(ConfigError, match=r'names\.txt is no text in UTF-8: .* byte 1'):
        given_classes([str(file)], 2)
    with pytest.raises(ConfigError, match=r'absent\.txt: there is no such file.* 2 cl'):
        given_classes(['absent.txt'], 2)
    with pytest.raises(ConfigError, match='names 3 classes, the network has 2'):
        given_classes(['a', 'b', 'c'], 2)
    assert given_classes(['a'], 1) == ['a']


def test_names_come_from_arguments_before_the_class(folder, tmp_path):
    names = [f'mine {i}' for i in range(3)]
    spec = custom(tmp_path / 'absent', WHOLE, classes=names)
    dataset = build_dataset(dict(spec, type='ImageNet'), 'data')
    assert dataset_classes(dataset) == names
    (tmp_path / 'names.txt').write_text('\n'.join(names))
    spec['classes'] = str(tmp_path / 'names.txt')
    dataset = build_dataset(dict(spec, type='ImageNet'), 'data')
    assert dataset_classes(dataset) == names


def test_a_difference_is_named(folder, caplog):
    dataset = build_dataset(custom(folder, WHOLE), 'data')
    assert class_names(with_names(['cat', 'cow']), dataset, 2) == ['cat', 'cow']
    assert "'cow' is missing, 'dog' is new" in caplog.text


@pytest.mark.parametrize(
    ('one', 'other', 'words'),
    [
        (['a', 'b'], ['a', 'b'], ''),
        (('a', 'b'), ['b', 'a'], "number 0 is 'b', not 'a'"),
        (['a', 'b', 'c'], ['a', 'c'], "'b' is missing"),
        (
            [str(i) for i in range(9)],
            ['0'],
            "'1', '2', '3' and 5 more are missing",
        ),
    ],
)
def test_differences_in_words(one, other, words):
    assert class_difference(one, other) == words


def test_outputs_without_a_class_have_a_number():
    assert class_names(with_names(['a', 'b']), None, 3) == ['a', 'b', 'class 2']


def test_more_names_than_outputs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r'has 3 classes, .* 2: .*--classes'):
        class_names(with_names(['a', 'b', 'c']), None, 2)
    with pytest.raises(ConfigError, match=r'--classes names 3 classes, .* 2'):
        class_names(with_names(None), None, 2, ['a', 'b', 'c'])
    (tmp_path / 'names.txt').write_text('a\nb c\n\n')
    names = class_names(with_names(None), None, 2, [str(tmp_path / 'names.txt')])
    assert names == ['a', 'b c']


@pytest.mark.parametrize(
    'meta',
    [
        dict(dataset_meta=dict(classes=('a', 'b'))),
        dict(dataset_meta=dict(CLASSES=['a', 'b'])),
        dict(CLASSES=('a', 'b')),
    ],
)
def test_checkpoints_of_all_times_tell_their_classes(meta):
    assert facts.checkpoint_classes(dict(meta=meta)) == ['a', 'b']
    assert facts.checkpoint_classes({}) is None


# --------------------------------------------------------------------------
# The model.


@pytest.mark.parametrize('where', ['top level', 'in the model', 'nowhere'])
def test_the_preprocessor_is_found_wherever_it_stands(where):
    cfg = read('resnet20_bireal_digits')
    preprocessor = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True)
    if where == 'top level':
        cfg.data_preprocessor = preprocessor
    else:
        cfg.data_preprocessor = None
        if where == 'in the model':
            cfg.model.data_preprocessor = preprocessor
    model = build_model(cfg, None)
    assert not model.training
    mean = getattr(model.data_preprocessor, 'mean', None)
    assert (
        (mean is None) if where == 'nowhere' else mean.flatten().tolist() == [1, 2, 3]
    )


def test_a_config_builds_twice():
    cfg = read('resnet20_bireal_digits')
    text = cfg.pretty_text
    build_model(cfg, None)
    gather(cfg, None)
    assert cfg.pretty_text == text


@pytest.mark.parametrize('mean', [None, [1.0, 2.0, 3.0]])
def test_images_that_are_normalised_twice_are_noticed(folder, mean):
    step = dict(type='Normalize', mean=[1] * 3, std=[4] * 3)
    normalisation = dict(mean=mean, std=mean)
    model = classifier(data_preprocessor=normalisation)
    for steps, twice in (([WHOLE], False), ([WHOLE, step], mean is not None)):
        data = WRAPPERS['nested'](custom(folder, *steps))
        dataset = build_dataset(data, 'data')
        assert facts.normalised_twice(dataset, model) == twice


def test_models_that_predict_nothing():
    model = classifier()
    assert facts.predicts(model)
    model.head = None
    assert not facts.predicts(model)
    contrastive = dict(
        type='SimCLR',
        backbone=dict(type='IRResNet_CIFAR', depth=20),
        head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss')),
    )
    assert not facts.predicts(MODELS.build(contrastive))


@pytest.mark.parametrize('to_rgb', [False, True])
@pytest.mark.parametrize('normalised', [False, True])
def test_whether_a_preprocessor_turns_is_asked_of_it(to_rgb, normalised):
    numbers = dict(mean=[1, 2, 3], std=[4, 5, 6]) if normalised else {}
    model = nn.Module()
    model.data_preprocessor = ClsDataPreprocessor(to_rgb=to_rgb, **numbers)
    assert reverses_channels(model) == to_rgb
    if not normalised:
        model.data_preprocessor = ImgDataPreprocessor(bgr_to_rgb=to_rgb)
        assert reverses_channels(model) == to_rgb
