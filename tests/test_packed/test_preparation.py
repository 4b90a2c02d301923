"""The steps of a packed file give the pixels of the test pipeline, bit for bit."""

import mmcv
import numpy as np
import pytest
import torch
from image_kinds import encoded
from mmengine.dataset import Compose
from mmpretrain.datasets import BaseDataset, CustomDataset, PackInputs
from mmpretrain.models import ClsDataPreprocessor

from mmirnet import images
from mmirnet.datasets import Digits, FashionMNIST32
from mmirnet.errors import DataError, UnsupportedModelError
from mmirnet.packed.pipelines import preparation
from mmirnet.packed.preparation import check, default, normalise, prepare
from mmirnet.runtime import load_image, read_image

SIZES = [(64, 48), (48, 64), (50, 50), (61, 97), (33, 32)]
LOAD = dict(type='LoadImageFromFile')
CROP = dict(type='CenterCrop', crop_size=32)
PACK = [dict(type='PackInputs')]


def resized(**how):
    return dict(type='Resize', scale=(40, 32), **how)


def edge(**how):
    return dict(type='ResizeEdge', scale=36, **how)


TRANSFORMS = {
    'nothing': [],
    'resize': [resized()],
    'resize, pillow, bicubic': [resized(backend='pillow', interpolation='bicubic')],
    'resize, nearest': [resized(interpolation='nearest')],
    'resize, area': [resized(interpolation='area')],
    'resize, lanczos': [resized(interpolation='lanczos')],
    'resize, pillow, box': [resized(backend='pillow', interpolation='box')],
    'resize to one number': [dict(type='Resize', scale=33)],
    'resize in proportion': [resized(keep_ratio=True)],
    'resize by a factor': [dict(type='Resize', scale_factor=0.7)],
    'resize by two factors': [dict(type='Resize', scale_factor=(1.3, 0.45))],
    'resize by a factor in proportion': [
        dict(type='Resize', scale_factor=(1.3, 0.45), keep_ratio=True)
    ],
    'short edge': [edge()],
    'short edge, pillow': [edge(backend='pillow')],
    'short edge, pillow, bicubic': [edge(backend='pillow', interpolation='bicubic')],
    'long edge': [edge(edge='long', interpolation='bicubic')],
    'width': [edge(edge='width')],
    'height': [edge(edge='height')],
    'crop': [CROP],
    'crop of two sides': [dict(type='CenterCrop', crop_size=(31, 20))],
    'crop of too small an image': [dict(type='CenterCrop', crop_size=60)],
    'crop, padded': [dict(type='CenterCrop', crop_size=60, auto_pad=True)],
    'crop, padded in colour': [
        dict(
            type='CenterCrop',
            crop_size=(60, 70),
            auto_pad=True,
            pad_cfg=dict(type='Pad', pad_val=dict(img=(1, 20, 200))),
        )
    ],
    'ImageNet': [edge(backend='pillow'), CROP],
    'EfficientNet': [dict(type='EfficientNetCenterCrop', crop_size=32)],
    'EfficientNet, pillow': [
        dict(
            type='EfficientNetCenterCrop',
            crop_size=31,
            crop_padding=5,
            backend='pillow',
            interpolation='bilinear',
        )
    ],
    'pad': [dict(type='Pad', size=(99, 70))],
    'pad in colour': [dict(type='Pad', size=(99, 70), pad_val=dict(img=(9, 8, 7)))],
    'pad with a broken number': [
        dict(type='Pad', size=(99, 70), pad_val=dict(img=(9.5, 8.5, 7.2)))
    ],
    'pad with one broken number': [
        dict(type='Pad', size=(99, 70), pad_val=dict(img=7.5))
    ],
    'pad to a multiple': [dict(type='Pad', size_divisor=32, pad_val=7)],
    'pad to a square': [dict(type='Pad', pad_to_square=True, pad_val=7)],
    'pad to a square multiple': [
        dict(type='Pad', pad_to_square=True, size_divisor=32, pad_val=7)
    ],
    'pad by the edge': [dict(type='Pad', size=(99, 70), padding_mode='edge')],
    'pad by reflection': [dict(type='Pad', size=(99, 70), padding_mode='reflect')],
    'pad by symmetry': [dict(type='Pad', size=(200, 170), padding_mode='symmetric')],
    'nested': [
        dict(
            type='Compose',
            transforms=[dict(edge(), type='mmpretrain.ResizeEdge'), CROP],
        )
    ],
    'not flipped': [dict(type='RandomFlip', prob=0.0), CROP],
    'PIL and back': [
        edge(),
        dict(type='NumpyToPIL', to_rgb=True),
        dict(type='PILToNumpy', to_bgr=True),
        CROP,
    ],
    'left as RGB': [
        dict(type='NumpyToPIL', to_rgb=True),
        dict(type='PILToNumpy'),
        dict(type='Pad', size=(99, 70), pad_val=dict(img=(9, 8, 7))),
    ],
}
READING = {
    'colour': {},
    'grey': dict(color_type='grayscale'),
    'not turned': dict(color_type='color_ignore_orientation'),
    'grey, not turned': dict(color_type='grayscale_ignore_orientation'),
    'pillow': dict(imdecode_backend='pillow'),
    'floats': dict(to_float32=True),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Photographs of several sizes and one turned by EXIF, in one class."""
    from PIL import Image

    folder = tmp_path_factory.mktemp('photographs')
    (folder / 'only').mkdir()
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x112] = 6
    for height, width in SIZES:
        noise = rng.integers(0, 256, (height, width, 3), np.uint8)
        for name, options in {'plain': {}, 'turned': dict(exif=exif)}.items():
            path = folder / 'only' / f'{name}{height}x{width}.jpg'
            path.write_bytes(encoded(noise, 'JPEG', **options))
    return folder


def dataset(folder, transforms, **loading):
    pipeline = [dict(LOAD, **loading), *transforms, dict(type='PackInputs')]
    return CustomDataset(data_root=str(folder), pipeline=pipeline)


def whole_spec(data, to_rgb, shape, mean=None, std=None):
    """`input` of a packed file; it takes whatever size the pipeline gives."""
    channels, height, width = shape
    spec = preparation(data, to_rgb)
    assert check(spec, channels) is None
    mean = mean or [0.0] * channels
    std = std or [1.0] * channels
    size = dict(channels=channels, height=height, width=width, mean=mean, std=std)
    return size | spec


def check_equal(data, to_rgb):
    """Every image of a data set, after its pipeline and the preprocessor."""
    for number in range(len(data)):
        sample = data[number]
        inputs = sample['inputs']
        channels = len(inputs)
        mean, std = [120.5, 110.1, 99.7][:channels], [58.395, 57.12, 57.375][:channels]
        preprocess = ClsDataPreprocessor(mean=mean, std=std, to_rgb=to_rgb)
        wanted = preprocess(dict(inputs=inputs[None]))['inputs'][0]
        spec = whole_spec(data, to_rgb, inputs.shape, mean, std)
        pixels = load_image(sample['data_samples'].img_path, spec)
        torch.testing.assert_close(
            torch.from_numpy(normalise(pixels, spec)), wanted, rtol=0, atol=0
        )


@pytest.mark.parametrize('to_rgb', [True, False])
@pytest.mark.parametrize('name', TRANSFORMS)
def test_a_pipeline_as_steps(folder, name, to_rgb):
    check_equal(dataset(folder, TRANSFORMS[name]), to_rgb)


@pytest.mark.parametrize('transforms', ['ImageNet', 'resize', 'pad to a multiple'])
@pytest.mark.parametrize('name', READING)
def test_what_the_loader_is_told(folder, name, transforms):
    steps = TRANSFORMS[transforms]
    if name == 'floats':  # which Pillow does not resize
        steps = [
            {**step, 'backend': 'cv2'} if 'scale' in step else step for step in steps
        ]
    data = dataset(folder, steps, **READING[name])
    check_equal(data, to_rgb=name != 'not turned')
    order = preparation(data, True)['order']
    assert order == ('grey' if 'grey' in name else 'rgb')


def test_backends_chosen_for_all_of_mmcv(folder):
    data = dataset(folder, [edge()], imdecode_backend=None)
    mmcv.use_backend('pillow')
    try:
        check_equal(data, True)
        assert preparation(data, True)['read']['library'] == 'pillow'
    finally:
        mmcv.use_backend('cv2')
    assert preparation(data, True)['read']['library'] == 'cv2'


def test_without_opencv_the_pixels_are_the_same(folder, monkeypatch):
    data = dataset(folder, TRANSFORMS['ImageNet'])
    monkeypatch.setattr(images, 'opencv', lambda: None)
    spec = whole_spec(data, True, (3, 32, 32))
    got = [load_image(data.get_data_info(i)['img_path'], spec) for i in range(10)]
    monkeypatch.undo()
    for number, pixels in enumerate(got):
        wanted = data[number]['inputs'].flip(0).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(pixels, wanted)


def test_a_step_of_opencv_needs_it(folder, monkeypatch):
    data = dataset(folder, TRANSFORMS['resize'])
    spec = whole_spec(data, True, (3, 32, 40))
    monkeypatch.setattr('mmirnet.packed.preparation.opencv', lambda: None)
    with pytest.raises(ImportError, match='resized by OpenCV: pip install opencv'):
        load_image(data.get_data_info(0)['img_path'], spec)


class Mine:
    def __call__(self, results):
        return results


NORMALISE = dict(type='Normalize', mean=[1, 2, 3], std=[4, 5, 6])


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('to_rgb', [False, True])
def test_normalised_in_the_pipeline(turned, to_rgb):
    class Data:
        pipeline = Compose(
            [registered(t) for t in (LOAD, dict(NORMALISE, to_rgb=to_rgb))]
        )

    spec = preparation(Data, turned)
    assert spec['order'] == ('bgr' if turned == to_rgb else 'rgb')
    wanted = [1, 2, 3], [4, 5, 6]
    assert (spec['mean'], spec['std']) == tuple(
        v[:: -1 if turned else 1] for v in wanted
    )


def registered(transform):
    from mmpretrain.registry import TRANSFORMS as registry

    return registry.build(transform)


@pytest.mark.parametrize(
    ('pipeline', 'name', 'why'),
    [
        ([LOAD, dict(type='RandomFlip', prob=0.5)], 'RandomFlip', 'is random'),
        ([LOAD, dict(type='ColorJitter')], 'ColorJitter', 'has no counterpart'),
        ([LOAD, dict(type='torchvision/Resize', size=9)], 'torchvision/Resize', 'has'),
        ([LOAD, Mine()], 'Mine', 'has no counterpart'),
        ([Mine(), LOAD], 'Mine', 'stands before or in place of LoadImageFromFile'),
        ([dict(LOAD, color_type='unchanged')], 'LoadImageFromFile', "'unchanged'"),
        ([dict(LOAD, imdecode_backend='tifffile')], 'LoadImageFromFile', "'tifffile'"),
        ([LOAD, dict(type='Normalize', mean=[0], std=[1])], 'Normalize', 'for each'),
        ([LOAD, NORMALISE, NORMALISE], 'Normalize', 'a second time'),
        ([LOAD, NORMALISE, dict(type='Pad', size=(9, 9))], 'Pad', 'comes after'),
        ([LOAD, dict(type='PackInputs', input_key='x')], 'PackInputs', "packs 'x'"),
    ],
)
def test_what_has_no_words_is_refused_by_name(pipeline, name, why):
    class Data:
        pass

    Data.pipeline = Compose(
        [registered(t) if isinstance(t, dict) else t for t in pipeline]
    )
    match = f'test pipeline: .* as {name} does, which .*{why}.*; it knows .* ResizeEdge'
    with pytest.raises(UnsupportedModelError, match=match):
        preparation(Data, True)


# --------------------------------------------------------------------------
# Images that a data set holds.


def test_a_file_for_the_digits():
    spec = preparation(Digits(split='test', pipeline=PACK), False)
    assert spec['order'] == 'rgb'
    exact = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(prepare(exact, spec['steps']), exact)
    for size in ((28, 28), (20, 64), (300, 200)):
        image = prepare(np.full((*size, 3), 255, np.uint8), spec['steps'])
        assert image.shape == (32, 32, 3)
        assert image.min() == 255  # nothing black is added


def test_what_follows_in_the_pipeline_of_held_images():
    pipeline = [dict(type='Resize', scale=64), dict(type='PackInputs')]
    data = Digits(split='test', pipeline=pipeline)
    spec = preparation(data, False)
    for number in range(3):
        held = data.get_data_info(number)['img']
        wanted = data[number]['inputs'].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(prepare(held, spec['steps']), wanted)


class Own(BaseDataset):
    """A data set of one's own that holds its images."""

    def __init__(self, shape, **arguments):
        self.shape = shape
        super().__init__(ann_file='', pipeline=PACK, **arguments)

    def load_data_list(self):
        rng = np.random.default_rng(0)
        return [dict(img=rng.integers(0, 256, self.shape, np.uint8), gt_label=0)] * 2


@pytest.mark.parametrize('shape', [(20, 30), (20, 30, 1)])
def test_grey_images_that_are_held(shape):
    spec = preparation(Own(shape), False)
    assert spec['order'] == 'grey'
    assert spec['steps'] == [dict(op='fit', width=30, height=20, pad=0, cover=1.0)]


@pytest.mark.parametrize('to_rgb', [False, True])
def test_the_order_of_images_that_are_held(to_rgb):
    """Digits and CIFAR-10 are RGB; of others the preprocessor knows."""
    spec = preparation(Digits(split='test', pipeline=PACK), to_rgb)
    assert spec['order'] == ('bgr' if to_rgb else 'rgb')
    assert preparation(Own((20, 30, 3)), to_rgb)['order'] == 'rgb'


class Boots(FashionMNIST32):
    """Without its files."""

    pipeline = Compose([PackInputs()])
    _fully_initialized = True

    def __init__(self):
        pass

    def __len__(self):
        return 1

    def get_data_info(self, idx):
        return dict(img=np.zeros((32, 32, 3), np.uint8))


def test_small_images_are_padded_as_in_fashion_mnist(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    (tmp_path / 'boot.png').write_bytes(encoded(pixels, 'PNG'))
    spec = preparation(Boots(), False)
    image = prepare(images.read(tmp_path / 'boot.png'), spec['steps'])
    np.testing.assert_array_equal(image, np.dstack([np.pad(pixels, 2)] * 3))


# --------------------------------------------------------------------------
# Files without a pipeline.


def test_read_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    (tmp_path / 'boot.png').write_bytes(encoded(pixels, 'PNG'))
    got = read_image(tmp_path / 'boot.png', (32, 32))
    np.testing.assert_array_equal(got, np.dstack([np.pad(pixels, 2)] * 3))
    assert read_image(tmp_path / 'boot.png', (32, 32), 1).shape == (32, 32, 1)
    # Others are resized: nothing black is added.
    (tmp_path / 'white.png').write_bytes(
        encoded(np.full((20, 20), 255, np.uint8), 'PNG')
    )
    for size in ((32, 32), (16, 16), (224, 224)):
        image = read_image(tmp_path / 'white.png', size)
        assert image.shape == (*size, 3)
        assert image.min() == 255


def test_read_image_covers_more_than_a_large_size(tmp_path):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    (tmp_path / 'a.png').write_bytes(encoded(noise, 'PNG'))
    whole = Image.fromarray(noise).resize((341, 256), Image.Resampling.BILINEAR)
    wanted = np.asarray(whole)[16:240, 58:282]
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png', (224, 224)), wanted)


# --------------------------------------------------------------------------
# Files that do not fit.


def test_an_image_of_another_size_is_named(folder):
    data = dataset(folder, [dict(type='CenterCrop', crop_size=60)])
    spec = whole_spec(data, True, (3, 60, 60))
    path = folder / 'only' / 'plain64x48.jpg'
    with pytest.raises(DataError, match=f'image {path} is 60x48 .* takes 60x60'):
        load_image(path, spec)


@pytest.mark.parametrize('shape', [(1, 4000), (4000, 1)])
def test_an_image_that_would_have_no_pixels_or_too_many(folder, shape, tmp_path):
    (tmp_path / 'line.png').write_bytes(encoded(np.zeros(shape, np.uint8), 'PNG'))
    for scale, where in ((32, 'long'), (3000, 'short')):
        data = dataset(folder, [dict(type='ResizeEdge', scale=scale, edge=where)])
        spec = whole_spec(data, True, (3, 9, 9))
        match = 'cannot prepare image .*line.png: one step would make it'
        with pytest.raises(DataError, match=match):
            load_image(tmp_path / 'line.png', spec)


def test_a_network_without_images(folder):
    spec = dict(channels=7, height=9, width=9, mean=[0.0] * 7, std=[1.0] * 7)
    spec |= default(7, 9, 9)
    with pytest.raises(DataError, match='the network has 7 channels'):
        load_image(folder / 'only' / 'plain64x48.jpg', spec)
