"""The in-memory data sets against MMPretrain's pipeline of one sample at a time."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import ConfigDict
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import TRANSFORMS

from mmirnet.datasets import ExactSampler, InMemory, keep_in_memory
from mmirnet.datasets.in_memory import crop_and_flip

init_default_scope('mmpretrain')
CROP = dict(type='RandomCrop', crop_size=32, padding=4)
FLIP = dict(type='RandomFlip', prob=0.5, direction='horizontal')
PACK = dict(type='PackInputs')


def digits(pipeline=(CROP, FLIP, PACK), split='test'):
    return dict(type='Digits', split=split, pipeline=[dict(t) for t in pipeline])


def loader(pipeline=(CROP, FLIP, PACK), batch_size=64, **kwargs):
    cfg = ConfigDict(
        batch_size=batch_size,
        num_workers=2,
        dataset=digits(pipeline),
        sampler=dict(type='DefaultSampler', shuffle=True),
        **kwargs,
    )
    keep_in_memory(cfg)
    return Runner.build_dataloader(cfg, seed=3)


def batches(data_loader, epoch=0, start=0):
    data_loader.sampler.set_epoch(epoch)
    data_loader.sampler.start = start
    return list(data_loader)


def images(data_loader, **kwargs):
    return torch.cat([b['inputs'] for b in batches(data_loader, **kwargs)])


def labels(batch):
    return torch.cat([s.gt_label for s in batch['data_samples']])


@given(
    n=st.integers(1, 3),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    padding=st.integers(0, 3),
    data=st.data(),
)
@settings(deadline=None)
def test_crop_and_flip_is_mmpretrains(n, size, padding, data):
    x = torch.randint(256, (n, 3, *size), dtype=torch.uint8)
    offset = st.integers(0, 2 * padding)
    offsets = data.draw(st.lists(st.tuples(offset, offset), min_size=n, max_size=n))
    flips = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    got = crop_and_flip(x, torch.tensor(offsets), torch.tensor(flips), padding)
    for image, place, flip, ours in zip(x, offsets, flips, got, strict=True):
        crop = TRANSFORMS.build(dict(CROP, crop_size=size, padding=padding))
        crop.rand_crop_params = lambda img, place=place: (*place, *size)
        mirror = TRANSFORMS.build(dict(FLIP, prob=float(flip)))
        item = dict(img=np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
        theirs = mirror(crop(item))['img']
        assert np.array_equal(theirs, ours.permute(1, 2, 0).numpy())


def test_without_augmentation_gives_what_the_pipeline_gives():
    plain = DATASETS.build(digits([PACK]))
    [batch, *_] = batches(loader([PACK], batch_size=360))
    assert len(batch['data_samples']) == len(plain) == 360
    for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
        other = plain[sample.sample_idx]
        assert torch.equal(image, other['inputs'])
        assert torch.equal(sample.gt_label, other['data_samples'].gt_label)
        assert sample.gt_label.dtype == other['data_samples'].gt_label.dtype


class TestDraws:
    """Distributions: bounds are five deviations wide, seeds are fixed."""

    n = 1437  # of each of the epochs below
    epochs = 30

    @pytest.fixture(scope='class')
    @classmethod
    def draws(cls):
        data = InMemory(digits(split='train'))
        drawn = [data._draw(3, epoch) for epoch in range(cls.epochs)]
        return torch.stack([o for o, _ in drawn]), torch.stack([f for _, f in drawn])

    def test_offsets_are_uniform_on_the_grid(self, draws):
        offsets, _ = draws
        cells = (offsets[..., 0] * 9 + offsets[..., 1]).flatten().bincount(minlength=81)
        assert len(cells) == 81
        expected = self.n * self.epochs / 81
        assert ((cells - expected).abs() < 5 * expected**0.5).all()

    def test_flips_are_fair(self, draws):
        _, flips = draws
        total = flips.numel()
        assert abs(flips.sum().item() - total / 2) < 5 * (total / 4) ** 0.5

    def test_samples_epochs_and_kinds_are_independent(self, draws):
        offsets, flips = draws
        values = torch.cat([offsets, flips[..., None]], -1).double()
        values -= values.mean((0, 1))
        values /= values.std((0, 1))
        bound = 5 / (self.n * self.epochs) ** 0.5
        # within a sample; between neighbours in an epoch; between epochs of a sample
        within = (values[..., :, None] * values[..., None, :]).mean((0, 1))
        assert (within - torch.diag(within.diag())).abs().max() < bound
        assert (values[:, 1:] * values[:, :-1]).mean((0, 1)).abs().max() < bound
        assert (values[1:] * values[:-1]).mean((0, 1)).abs().max() < bound

    def test_pads_crops_and_mirrors_by_them(self):
        data_loader = loader(batch_size=360)
        [batch] = batches(data_loader)
        data = data_loader.dataset
        index = [s.sample_idx for s in batch['data_samples']]
        offsets, flips = data._draw(3, 0)
        wanted = crop_and_flip(data.images[index], offsets[index], flips[index], 4)
        assert torch.equal(batch['inputs'], wanted)
        assert torch.equal(labels(batch), data.labels[index])
        assert not torch.equal(batch['inputs'], data.images[index])


class TestReproducible:
    def test_epoch_follows_from_its_number(self):
        first = loader()
        epochs = [images(first, epoch=e) for e in (0, 1, 2)]
        torch.rand(7)
        assert torch.equal(images(loader(), epoch=2), epochs[2])
        assert torch.equal(images(first, epoch=0), epochs[0])
        assert not torch.equal(epochs[0], epochs[1])

    def test_starts_within_an_epoch_once(self):
        data_loader = loader()
        whole = images(data_loader, epoch=1)
        rest = images(loader(), epoch=1, start=2 * 64)
        assert torch.equal(rest, whole[2 * 64 :])
        data_loader.sampler.start = 64
        list(data_loader)
        assert torch.equal(images(data_loader, epoch=1), whole)

    def test_processes_share_the_images(self):
        data = InMemory(digits())
        parts = []
        for rank in (0, 1):
            sampler = ExactSampler(data, seed=3)
            sampler.rank, sampler.world_size, sampler.num_samples = rank, 2, 180
            indices = list(sampler)
            parts.append((indices, data.__getitems__(indices)['inputs']))
        alone = list(ExactSampler(data, seed=3))
        together = data.__getitems__(alone)['inputs']
        for rank, (indices, part) in enumerate(parts):
            assert indices == alone[rank::2]
            assert torch.equal(part, together[rank::2])


@pytest.mark.parametrize(
    'pipeline',
    [
        [CROP, FLIP],
        [dict(type='ColorJitter', brightness=0.2), PACK],
        [dict(CROP, crop_size=28), PACK],
        [dict(CROP, pad_val=7), PACK],
        [dict(CROP, padding_mode='reflect'), PACK],
        [dict(CROP, padding=(1, 2)), PACK],
        [dict(FLIP, direction='vertical'), PACK],
        [CROP, CROP, PACK],
    ],
    ids=repr,
)
def test_refuses_what_it_cannot_do(pipeline):
    with pytest.raises(ValueError, match='InMemory does RandomCrop'):
        InMemory(copy.deepcopy(digits(pipeline)))


def test_refuses_indices_without_a_seed():
    with pytest.raises(ValueError, match='ExactSampler'):
        InMemory(digits()).__getitems__([0, 1])


def test_refuses_worker_processes():
    from torch.utils.data import DataLoader

    data = InMemory(digits([PACK]))
    with pytest.raises(ValueError, match='num_workers=0'):
        next(iter(DataLoader(data, 2, num_workers=1, collate_fn=lambda batch: batch)))


class Uneven:
    """What is read of a data set: images of several sizes."""

    metainfo = dict(classes=['a'])

    def __init__(self, pipeline):
        pass

    def __len__(self):
        return 2

    def get_data_info(self, i):
        return dict(img=np.zeros((4, 4 + i, 3), np.uint8), gt_label=0)


class Files(Uneven):
    def get_data_info(self, i):
        return dict(img_path='a.png', gt_label=0)


@pytest.mark.parametrize('kind', [Uneven, Files])
def test_refuses_images_that_make_no_tensor(kind):
    with pytest.raises(
        ValueError, match=rf'images of one size .* from .*{kind.__name__}'
    ):
        InMemory(dict(type=kind, pipeline=[PACK]))
