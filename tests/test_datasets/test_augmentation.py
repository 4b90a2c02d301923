"""Augmentation of batches against MMPretrain's transforms, with the same draws."""

import itertools

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from torchvision.transforms import functional

from mmirnet.datasets import DeterministicSampler, InMemory
from mmirnet.datasets.augmentation import (
    Augmentation,
    change_colours,
    draw_boxes,
    draw_colours,
    resize_boxes,
)

init_default_scope('mmpretrain')
JITTER = dict(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)
PACK = dict(type='PackInputs')


def build(kind, **kwargs):
    return TRANSFORMS.build(dict(type=kind, **kwargs))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photographs(n=6, size=(40, 56)):
    """Smooth colours with noise, grey, black and white parts, (N, 3, H, W)."""
    small = torch.rand(n, 3, 4, 5, generator=seeded(1))
    smooth = torch.nn.functional.interpolate(small, size, mode='bicubic') * 300 - 20
    noise = torch.randn(n, 3, *size, generator=seeded(2)) * 8
    images = (smooth + noise).clamp(0, 255).to(torch.uint8)
    images[:, :, :4] = images[:, :1, :4]
    images[:, :, -1] = 255
    return images


def arrays(images):
    return [np.ascontiguousarray(x.permute(1, 2, 0).numpy()) for x in images]


def stacked(images):
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ('size', 'kwargs'),
    [
        ((224, 224), {}),
        ((40, 56), {}),
        ((20, 90), dict(max_attempts=2)),
        ((90, 20), dict(max_attempts=2)),
        ((50, 60), dict(crop_ratio_range=(0.9, 1.0), aspect_ratio_range=(0.2, 5))),
        ((32, 32), dict(max_attempts=0)),
    ],
)
def test_boxes_are_those_of_mmpretrain_for_the_same_random_numbers(
    size, kwargs, monkeypatch
):
    n = 200
    crop = build('RandomResizedCrop', scale=8, **kwargs)
    boxes = draw_boxes(n, size, crop, seeded())
    generator, attempts = seeded(), max(crop.max_attempts, 1)
    u = torch.stack(
        [
            torch.rand(4, n, generator=generator, dtype=torch.float64)
            for _ in range(attempts)
        ]
    ).numpy()
    attempt = place = 0

    def uniform(low, high):
        nonlocal attempt, place
        kind = (counter := next(calls)) % 2
        attempt, place = counter // 2, 2
        return low + (high - low) * u[attempt, kind, sample]

    def randint(low, high):
        nonlocal place
        place += 1
        return low + int(u[attempt, place - 1, sample] * (high - low))

    monkeypatch.setattr(np.random, 'uniform', uniform)
    monkeypatch.setattr(np.random, 'randint', randint)
    image = np.empty((*size, 3), np.uint8)
    for sample in range(n):
        calls = itertools.count()
        assert tuple(boxes[sample].tolist()) == crop.rand_crop_params(image)


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('scale', [(24, 24), (64, 48), (9, 100)])
def test_resized_pixels_are_mmpretrains_within_one_level(backend, scale):
    images = photographs()
    crop = build('RandomResizedCrop', scale=scale, backend=backend)
    boxes = draw_boxes(len(images), (40, 56), crop, seeded())
    boxes[0] = torch.tensor([0, 0, 40, 56])
    boxes[1] = torch.tensor([39, 55, 1, 1])
    got = resize_boxes(images, boxes, scale, antialias=backend == 'pillow')
    for image, box, ours in zip(arrays(images), boxes.tolist(), got, strict=True):
        crop.rand_crop_params = lambda img, box=box: box
        theirs = stacked([crop(dict(img=image))['img']])[0]
        assert (ours.int() - theirs.int()).abs().max() <= 1


FUNCTIONS = [
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
]
FACTORS = [(0.0, 0.8, 1.0, 1.2, 2.5)] * 3 + [(-0.5, -0.1, -0.003, 0.0, 0.07)]


def differences(images, order, factors, kinds=range(4)):
    got = change_colours(images, order, factors, kinds)
    wanted = []
    for image, kinds_now, amounts in zip(arrays(images), order, factors, strict=True):
        picture = Image.fromarray(image)
        for kind in kinds_now.tolist():
            if kind in kinds:
                picture = FUNCTIONS[kind](picture, amounts[kind].item())
        wanted.append(np.array(picture))
    return (got.int() - stacked(wanted).int()).abs()


@pytest.mark.parametrize(
    ('kind', 'factor'), [(k, f) for k in range(4) for f in FACTORS[k]]
)
def test_each_change_of_colour_is_pillows(kind, factor):
    images = photographs()
    order = torch.arange(4).repeat(len(images), 1)
    factors = torch.full((len(images), 4), factor, dtype=torch.float64)
    found = differences(images, order, factors, [kind])
    assert found.max() == 0


def test_all_changes_in_any_order_are_pillows():
    images = photographs(24)
    order, factors = draw_colours(24, build('ColorJitter', **JITTER), seeded())
    found = differences(images, order, factors)
    assert found.max() == 0


@pytest.mark.parametrize('kind', ['ColorJitter', 'torchvision/ColorJitter'])
def test_colours_are_drawn_from_the_ranges_of_the_transform(kind):
    n = 24_000
    jitter = build(kind, brightness=(0.5, 3), contrast=0.4, hue=0.1)
    order, factors = draw_colours(n, getattr(jitter, 't', jitter), seeded())
    for i, (low, high) in enumerate([(0.5, 3), (0.6, 1.4), (0, 0), (-0.1, 0.1)]):
        values = factors[:, i].sort()[0]
        uniform = torch.linspace(low, high, n, dtype=torch.float64)
        # Five deviations of the distance to the distribution function.
        assert (values - uniform).abs().max() <= 5 * (high - low) / (4 * n) ** 0.5
    assert (order.sort(1)[0] == torch.arange(4)).all()
    cells = (order * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_counts=True)[1]
    assert len(cells) == 24
    assert ((cells - n / 24).abs() < 5 * (n / 24) ** 0.5).all()


def imagenet(jitter, backend='pillow'):
    return [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=16, backend=backend),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        *jitter,
        PACK,
    ]


THROUGH_PIL = [
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='torchvision/ColorJitter', **JITTER),
    dict(type='PILToNumpy', to_bgr=True),
]


class TestPipeline:
    """The whole of ImageNet's pipeline."""

    @pytest.fixture
    def data(self, tmp_path):
        def make(jitter=THROUGH_PIL):
            for i, image in enumerate(arrays(photographs())):
                path = tmp_path / 'a' / f'{i}.png'
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(image).save(path)
            pipeline = [dict(t) for t in imagenet(jitter)]
            spec = dict(type='CustomDataset', data_root=str(tmp_path))
            return InMemory(dict(spec, pipeline=pipeline), device='cpu')

        return make

    @pytest.mark.parametrize(
        'jitter', [THROUGH_PIL, [dict(type='ColorJitter', **JITTER)]]
    )
    def test_does_what_the_transforms_do(self, data, jitter):
        data = data(jitter)
        indices = list(DeterministicSampler(data, seed=3))
        batch = data.__getitems__(indices)['inputs']
        draws, kept = data.draw(3, 0), arrays(data.images)
        crop = build('RandomResizedCrop', scale=16, backend='pillow')
        for index, ours in zip(indices, batch, strict=True):
            crop.rand_crop_params = lambda img, i=index: draws.boxes[i].tolist()
            image = crop(dict(img=kept[index]))['img']
            flip = build('RandomFlip', prob=float(draws.flips[index]))
            picture = Image.fromarray(flip(dict(img=image))['img'][..., ::-1])
            for kind in draws.order[index].tolist():
                picture = FUNCTIONS[kind](picture, draws.factors[index, kind].item())
            theirs = stacked([np.array(picture)[..., ::-1]])[0]
            found = (ours.int() - theirs.int()).abs()
            assert (found > 3).float().mean() < 0.01

    def test_follows_from_seed_epoch_and_sample(self, data):
        def batch(data, epoch, start=0):
            sampler = DeterministicSampler(data, seed=3)
            sampler.set_epoch(epoch)
            sampler.start = start
            return data.__getitems__(list(sampler))['inputs']

        first = data()
        epochs = [batch(first, epoch) for epoch in (0, 1, 2)]
        torch.rand(5)
        again = data()
        assert torch.equal(batch(again, 2), epochs[2])
        assert torch.equal(batch(again, 1, start=4), epochs[1][4:])
        assert not torch.equal(epochs[0], epochs[1])

    def test_grey_images_are_refused_in_one_line(self, data):
        made = data()
        made.images = made.images[:, :1]
        with pytest.raises(ValueError, match='RGB or BGR, not of 1 channels'):
            made._check_channels()


def test_channels_that_pil_takes_as_they_are_stay_so():
    """NumpyToPIL without to_rgb hands the first channel to PIL as red."""
    images = photographs()
    for to_rgb in (True, False):
        transforms = [
            build('NumpyToPIL', to_rgb=to_rgb),
            build('torchvision/ColorJitter', saturation=0.9),
            build('PILToNumpy', to_bgr=to_rgb),
            build('PackInputs'),
        ]
        made = Augmentation(transforms, (40, 56))
        assert made.fits
        draws = made.draw(len(images), seeded(), 'cpu')
        rows = torch.arange(len(images))
        rgb = images.flip(1) if to_rgb else images
        wanted = change_colours(rgb, draws.order, draws.factors, [2])
        wanted = wanted.flip(1) if to_rgb else wanted
        assert torch.equal(made(images, draws, rows), wanted)
