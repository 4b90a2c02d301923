"""The in-memory data sets against MMPretrain's pipeline of one sample at a time."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import ConfigDict
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS, DATASETS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS, TRANSFORMS
from mmpretrain.structures import DataSample
from PIL import Image
from torch.utils.data import Dataset

from mmirnet.datasets import DeterministicSampler, InMemory, keep_in_memory
from mmirnet.datasets.augmentation import crop_and_flip
from mmirnet.datasets.labelled import labelled

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


class TestSamples:
    """The samples of a batch are MMPretrain's, in all that is done with them."""

    @pytest.fixture
    def both(self):
        samples = []
        for index, label in enumerate([3, 1]):
            sample = DataSample(metainfo=dict(sample_idx=index))
            samples.append(sample.set_gt_label(label))
        return labelled(torch.tensor([3, 1]), [0, 1]), samples

    def test_hold_the_same(self, both):
        for ours, theirs in zip(*both, strict=True):
            assert isinstance(ours, DataSample)
            assert ours.to_dict() == theirs.to_dict()
            assert set(ours.metainfo_items()) == set(theirs.metainfo_items())
            assert list(ours.keys()) == list(theirs.keys())
            for copied in (
                ours.clone(),
                ours.to('cpu'),
                pickle.loads(pickle.dumps(ours)),
            ):
                assert copied.to_dict() == theirs.to_dict()

    @pytest.mark.parametrize('value', [2, [2, 4], torch.tensor(2), torch.tensor([2])])
    def test_take_the_same_labels(self, both, value):
        ours, theirs = (samples[0].set_gt_label(value) for samples in both)
        assert torch.equal(ours.gt_label, theirs.gt_label)
        assert ours.set_pred_label(4).pred_label == 4

    @pytest.mark.parametrize('onehot', [False, True])
    def test_pass_the_data_preprocessor(self, both, onehot):
        preprocessor = MODELS.build(
            dict(type='ClsDataPreprocessor', num_classes=5, to_onehot=onehot)
        )
        images = torch.zeros(2, 3, 4, 4)
        ours, theirs = (
            preprocessor(dict(inputs=images, data_samples=samples), True)[
                'data_samples'
            ]
            for samples in both
        )
        for a, b in zip(ours, theirs, strict=True):
            assert a.to_dict().keys() == b.to_dict().keys()
            assert torch.equal(a.gt_label, b.gt_label)
            assert not onehot or torch.equal(a.gt_score, b.gt_score)


class TestDraws:
    """Distributions: bounds are five deviations wide, seeds are fixed."""

    n = 1437  # of each of the epochs below
    epochs = 30

    @pytest.fixture(scope='class')
    @classmethod
    def draws(cls):
        data = InMemory(digits(split='train'))
        drawn = [data.draw(3, epoch) for epoch in range(cls.epochs)]
        return tuple(torch.stack(x) for x in zip(*(d[:2] for d in drawn), strict=True))

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
        offsets, flips = data.draw(3, 0)[:2]
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
            sampler = DeterministicSampler(data, seed=3)
            sampler.rank, sampler.world_size, sampler.num_samples = rank, 2, 180
            indices = list(sampler)
            parts.append((indices, data.__getitems__(indices)['inputs']))
        alone = list(DeterministicSampler(data, seed=3))
        together = data.__getitems__(alone)['inputs']
        for rank, (indices, part) in enumerate(parts):
            assert indices == alone[rank::2]
            assert torch.equal(part, together[rank::2])


@pytest.mark.parametrize(
    'pipeline',
    [
        [CROP, FLIP],
        [dict(type='ColorJitter', brightness=0.2, backend='cv2'), PACK],
        [dict(type='ColorJitter', brightness=0.2), CROP, PACK],
        [dict(type='ColorJitter', hue=0.2), dict(type='ColorJitter', hue=0.2), PACK],
        [dict(type='torchvision/ColorJitter', brightness=0.2), PACK],
        [dict(type='NumpyToPIL'), dict(type='PILToNumpy'), PACK],
        [dict(type='RandomResizedCrop', scale=32, interpolation='bicubic'), PACK],
        [CROP, dict(type='RandomResizedCrop', scale=32), PACK],
        [dict(type='RandomErasing'), PACK],
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
    with pytest.raises(ValueError, match='DeterministicSampler'):
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


class Empty(Uneven):
    def __len__(self):
        return 0


class OneHot(Uneven):
    def get_data_info(self, i):
        return dict(img=np.zeros((4, 4, 3), np.uint8), gt_label=[0, 1])


class Plain(Dataset):
    """A data set of torch's kind."""

    def __init__(self, pipeline):
        pass

    def __len__(self):
        return 2


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        (Uneven, r'images of one size, .* from Uneven: .*Resize.* leave InMemory out'),
        (Files, 'no images in Files, .*LoadImageFromFile.* or leave InMemory out'),
        (Empty, 'nothing to keep: Empty is empty'),
        (OneHot, r'one class number per image, got the label \[0, 1\] from OneHot'),
        (Plain, 'Plain has not: build it on that, or leave InMemory out'),
    ],
)
def test_refuses_what_makes_no_tensor(kind, message):
    with pytest.raises(ValueError, match=message):
        InMemory(dict(type=kind, pipeline=[PACK]))


def repeated(part, times=2):
    return dict(type='RepeatDataset', times=times, dataset=part)


def joined(*parts):
    return dict(type='ConcatDataset', datasets=list(parts))


class TestWrapped:
    """Data sets inside of MMEngine's wrappers are as those wrappers show them."""

    @pytest.mark.parametrize(
        'wrap',
        [
            lambda part: repeated(part(indices=7), 3),
            lambda part: joined(part(indices=7), part(split='train', indices=5)),
            lambda part: repeated(joined(part(indices=3), repeated(part(indices=2)))),
            lambda part: dict(
                type='ClassBalancedDataset', oversample_thr=0.2, dataset=part(indices=9)
            ),
            lambda part: dict(
                type='KFoldDataset', num_splits=3, dataset=part(indices=9)
            ),
        ],
        ids=['repeat', 'concat', 'both', 'balanced', 'fold'],
    )
    def test_gives_what_the_wrapper_gives(self, wrap):
        def part(split='test', **kwargs):
            return dict(digits([PACK], split), **kwargs)

        whole = DATASETS.build(wrap(part))
        data = InMemory(wrap(part))
        assert len(data) == len(whole)
        batch = data.__getitems__(list(range(len(data))))
        for i, sample in enumerate(batch['data_samples']):
            other = whole[i]
            assert torch.equal(batch['inputs'][i], other['inputs'])
            assert torch.equal(sample.gt_label, other['data_samples'].gt_label)

    def test_keeps_an_image_once_and_draws_for_each_time(self):
        data = InMemory(repeated(dict(digits(), indices=7), 3))
        assert len(data.images) == 7
        rows = list(DeterministicSampler(data, shuffle=False, seed=3))
        images = data.__getitems__(rows)['inputs'].view(3, 7, *data.images.shape[1:])
        assert not torch.equal(images[0], images[1])

    def test_refuses_parts_that_are_prepared_in_different_ways(self):
        parts = joined(digits([PACK]), digits([CROP, PACK]))
        with pytest.raises(ValueError, match='the same pipeline in all parts of Conc'):
            InMemory(parts)


class TestFiles:
    """Images that are read from files, by what does the same to them every time."""

    @pytest.fixture(scope='class')
    @classmethod
    def folder(cls, tmp_path_factory):
        root = tmp_path_factory.mktemp('images')
        numbers = np.random.default_rng(0)
        for i in range(6):
            file = root / 'ab'[i % 2] / f'{i}.png'
            file.parent.mkdir(exist_ok=True)
            pixels = numbers.integers(0, 256, (30 + i, 40 - i, 3), np.uint8)
            Image.fromarray(pixels).save(file)
        return root

    @pytest.mark.parametrize(
        'still',
        [
            [dict(type='Resize', scale=(16, 12))],
            [dict(type='ResizeEdge', scale=20), dict(type='CenterCrop', crop_size=16)],
        ],
        ids=['Resize', 'ResizeEdge'],
    )
    def test_gives_what_the_pipeline_gives(self, folder, still):
        pipeline = [dict(type='LoadImageFromFile'), *still, PACK]
        cfg = dict(type='CustomDataset', data_root=str(folder), pipeline=pipeline)
        data, plain = InMemory(copy.deepcopy(cfg)), DATASETS.build(cfg)
        assert data.metainfo['classes'] == ('a', 'b')
        for i in range(6):
            assert torch.equal(data[i]['inputs'], plain[i]['inputs'])

    def test_crops_and_flips_what_was_read(self, folder):
        resize = dict(type='Resize', scale=(32, 32))
        pipeline = [dict(type='LoadImageFromFile'), resize, CROP, FLIP, PACK]
        cfg = dict(type='CustomDataset', data_root=str(folder), pipeline=pipeline)
        data = InMemory(cfg)
        made = data.augmentation
        assert (made.padding, made.flip_prob) == (4, 0.5)

    def test_names_a_resize_where_sizes_differ(self, folder):
        pipeline = [dict(type='LoadImageFromFile'), PACK]
        with pytest.raises(ValueError, match=r"dict\(type='Resize', scale=\(W, H\)\)"):
            InMemory(
                dict(type='CustomDataset', data_root=str(folder), pipeline=pipeline)
            )


@DATA_SAMPLERS.register_module()
class Backwards(DefaultSampler):
    """A sampler of one's own."""

    def __iter__(self):
        return iter(range(len(self.dataset))[::-1])


class TestKeepInMemory:
    """What keep_in_memory makes of a loader's config."""

    @pytest.mark.parametrize('kind', ['mmengine.DefaultSampler', DefaultSampler])
    def test_samplers_of_mmengine_by_any_name(self, kind):
        cfg = ConfigDict(dataset=digits(), sampler=dict(type=kind, shuffle=False))
        keep_in_memory(cfg)
        assert cfg.sampler == dict(type='DeterministicSampler', shuffle=False)

    def test_a_sampler_of_ones_own_stays_where_nothing_is_drawn(self):
        cfg = ConfigDict(
            batch_size=64, dataset=digits([PACK]), sampler=dict(type='Backwards')
        )
        keep_in_memory(cfg)
        [first, *_] = Runner.build_dataloader(cfg, seed=3)
        assert [s.sample_idx for s in first['data_samples']][:2] == [359, 358]

    @pytest.mark.parametrize(
        ('changes', 'message'),
        [
            (
                dict(sampler=dict(type='Backwards')),
                r"Backwards does not provide: set sampler=dict\(type='DefaultSampler'",
            ),
            (dict(collate_fn=dict(type='mine')), 'does not use collate_fn=mine: leave'),
            (dict(dataset=[1, 2]), 'give its config, or leave InMemory out'),
        ],
        ids=['sampler', 'collate_fn', 'dataset'],
    )
    def test_refuses_what_it_would_have_to_drop(self, changes, message):
        cfg = dict(dataset=digits(), sampler=dict(type='DefaultSampler'))
        with pytest.raises(ValueError, match=message):
            keep_in_memory(ConfigDict(cfg | changes))
