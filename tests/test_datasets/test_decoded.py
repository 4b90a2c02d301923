"""The file with decoded images: made once, kept while it fits, replaced otherwise."""

import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS
from PIL import Image

from mmirnet.datasets import InMemory, decoded

init_default_scope('mmpretrain')
LOAD = dict(type='LoadImageFromFile')
PIPELINE = [LOAD, dict(type='PackInputs')]


def draw(path, seed, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for i in range(6):
        draw(tmp_path / 'data' / 'ab'[i % 2] / f'{i}.png', i)
    return tmp_path / 'data'


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(decoded, '_log', lines.append)
    return lines


@pytest.fixture
def reads(monkeypatch):
    """Paths in the order in which they were read."""
    paths, read = [], decoded._Reader.__getitem__

    def noted(self, index):
        paths.append(self.infos[index]['img_path'])
        return read(self, index)

    monkeypatch.setattr(decoded._Reader, '__getitem__', noted)
    return paths


def config(folder, pipeline=PIPELINE, **kwargs):
    pipeline = [dict(t) for t in pipeline]
    spec = dict(type='CustomDataset', data_root=str(folder), pipeline=pipeline)
    return spec | kwargs


def caches(folder):
    return sorted(folder.rglob('.mmirnet-*'))


def check(folder, **kwargs):
    data = InMemory(config(folder, **kwargs), device='cpu')
    plain = DATASETS.build(config(folder, **kwargs))
    assert len(data) == len(plain)
    for i in range(len(plain)):
        assert np.array_equal(data[i]['inputs'], plain[i]['inputs'])
        assert data[i]['data_samples'].gt_label == plain[i]['data_samples'].gt_label


def test_reads_once(folder, reads, said):
    check(folder)
    (cache,) = caches(folder)
    assert len(reads) == 6 and str(cache) in said[-1]
    check(folder)
    assert len(reads) == 6 and said[-1].startswith('6 images of 5x6')
    assert caches(folder) == [cache]


def test_a_list_of_files(folder, reads, tmp_path):
    names = tmp_path / 'list.txt'
    names.write_text('b/1.png 4\na/2.png 0\n')
    for _ in range(2):
        check(folder, ann_file=str(names))
    assert [Path(path).name for path in reads] == ['1.png', '2.png']


def test_images_that_the_data_set_holds_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    InMemory(dict(type='Digits', split='test', pipeline=[dict(type='PackInputs')]))
    assert not list(tmp_path.iterdir())


def rewrite(folder):
    draw(folder / 'a' / '0.png', 77)


def touch(folder):
    os.utime(folder / 'a' / '0.png', ns=(1, 1))


def grow(folder):
    draw(folder / 'a' / '8.png', 8)


def damage(folder):
    (cache,) = caches(folder)
    content = cache.read_bytes()
    cache.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def shorten(folder):
    (cache,) = caches(folder)
    cache.write_bytes(cache.read_bytes()[:-9])


def empty(folder):
    caches(folder)[0].write_bytes(b'')


@pytest.mark.parametrize('change', [rewrite, touch, grow, damage, shorten, empty])
def test_one_that_does_not_fit_is_replaced(folder, reads, change):
    check(folder)
    change(folder)
    check(folder)
    assert len(reads) == 12 + (change is grow)
    check(folder)
    assert len(reads) == 12 + (change is grow)
    assert len(caches(folder)) == 1 + (change is grow)


def test_other_transforms_have_their_own(folder, reads):
    resize = dict(type='Resize', scale=(4, 4))
    for pipeline in (PIPELINE, [LOAD, resize, PIPELINE[-1]]) * 2:
        check(folder, pipeline=pipeline)
    assert len(reads) == 12 and len(caches(folder)) == 2


def test_another_decoder_has_its_own(folder, reads):
    pillow = dict(LOAD, imdecode_backend='pillow')
    for load in (LOAD, pillow):
        check(folder, pipeline=[load, PIPELINE[-1]])
    assert len(reads) == 12


def test_a_folder_that_was_moved_keeps_it(folder, reads):
    check(folder)
    check(folder.rename(folder.with_name('moved')))
    assert len(reads) == 6


class TestReadOnly:
    @pytest.fixture
    def locked(self, folder, monkeypatch):
        writable = decoded._is_writable
        monkeypatch.setattr(
            decoded, '_is_writable', lambda path: path != folder and writable(path)
        )
        return folder

    def test_takes_the_cache_folder(self, locked, reads, tmp_path):
        for _ in range(2):
            check(locked)
        assert len(reads) == 6
        assert not caches(locked) and len(caches(tmp_path / 'cache')) == 1

    def test_reads_each_time_where_there_is_none(
        self, locked, reads, said, monkeypatch, tmp_path
    ):
        (tmp_path / 'file').touch()
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
        for _ in range(2):
            check(locked)
        assert len(reads) == 12
        assert sum('is writable: nothing is kept' in line for line in said) == 2
        assert not caches(tmp_path)


def test_a_full_disk_costs_the_cache_alone(folder, said, monkeypatch):
    def full(path, *data):
        raise OSError(28, f'could not write {path}: No space left on device')

    monkeypatch.setattr(decoded, 'write_atomic', full)
    check(folder)
    assert 'No space left on device; the images are read again' in said[-1]


@pytest.mark.skipif(os.name == 'nt', reason='no locks')
def test_two_runs_read_once(folder, reads):
    """The second waits for the first."""
    (spec,) = [config(folder)]
    threads = [threading.Thread(target=InMemory, args=(spec, 'cpu')) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 6 and len(caches(folder)) == 1


@pytest.mark.skipif(
    'fork' not in multiprocessing.get_all_start_methods(), reason='needs fork'
)
def test_several_processes_keep_order_and_random_numbers(folder, monkeypatch):
    import torch

    images = DATASETS.build(config(folder))
    infos = [images.get_data_info(i % 6) for i in range(3 * 32 + 1)]
    read = Compose([LOAD])
    wanted = decoded._read_all(infos, read, 'a')
    monkeypatch.setattr(decoded, '_FEW', 1)
    monkeypatch.setattr(decoded, '_processes', lambda: 2)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert np.array_equal(decoded._read_all(infos, read, 'a'), wanted)
    assert torch.equal(torch.get_rng_state(), state)
    (folder / 'b' / '3.png').write_bytes(b'none')
    with pytest.raises(OSError, match=r'cannot read image .*3\.png') as caught:
        decoded._read_all(infos, read, 'a')
    assert '\n' not in str(caught.value)


def test_names_the_file_of_another_size(folder):
    draw(folder / 'b' / '3.png', 3, (6, 7))
    with pytest.raises(ValueError, match=r'got 5x6 of 3 .*0\.png.* 7x6 of 3 .*3\.png'):
        InMemory(config(folder))
    assert not caches(folder)


def test_names_a_file_that_the_loader_would_skip(folder):
    (folder / 'b' / '3.png').write_bytes(b'none')
    pipeline = [dict(LOAD, ignore_empty=True), PIPELINE[-1]]
    with pytest.raises(ValueError, match=r'cannot leave out .*3\.png.* remove it'):
        InMemory(config(folder, pipeline))
