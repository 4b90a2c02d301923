import os
import pickle
import random
import shutil
import subprocess
import zipfile

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import CheckpointLoader
from tiny import tiny_runner
from torch import nn

from mmirnet.engine import checkpoint as ckpt


def save(path, **content):
    """A checkpoint as the hook writes it."""
    torch.save(content, path)
    ckpt.AtomicFileBackend().put(path.read_bytes(), path)
    return path


@pytest.fixture
def small(tmp_path):
    gen = torch.Generator().manual_seed(0)
    weights = {f'w{i}': torch.randn(5, 7, generator=gen) for i in range(4)}
    return save(tmp_path / 'small.pth', state_dict=weights, meta=dict(epoch=3))


def same(a, b):
    return a['meta'] == b['meta'] and all(
        torch.equal(a['state_dict'][k], b['state_dict'][k]) for k in b['state_dict']
    )


class TestWriting:
    def test_torch_and_zip_tools_read_a_sealed_file(self, small):
        assert torch.load(small)['meta'] == dict(epoch=3)
        with zipfile.ZipFile(small) as archive:
            assert archive.testzip() is None
            assert archive.comment.startswith(b'mmirnet-sha256:')
        ckpt.check_intact(small)

    def test_replaces_at_once_and_leaves_nothing_beside(self, tmp_path, monkeypatch):
        path = tmp_path / 'x'
        ckpt.write_atomic(path, b'old')
        seen = []
        replace = os.replace
        monkeypatch.setattr(
            os, 'replace', lambda a, b: seen.append(path.read_bytes()) or replace(a, b)
        )
        ckpt.write_atomic(path, b'new')
        assert seen == [b'old']  # until the rename, the old one stands
        assert [p.name for p in tmp_path.iterdir()] == ['x']
        assert path.read_bytes() == b'new'

    def test_is_flushed_before_it_is_renamed(self, tmp_path, monkeypatch):
        calls = []
        fsync, replace = os.fsync, os.replace
        monkeypatch.setattr(os, 'fsync', lambda f: calls.append('sync') or fsync(f))
        monkeypatch.setattr(
            os, 'replace', lambda a, b: calls.append('rename') or replace(a, b)
        )
        ckpt.write_atomic(tmp_path / 'x', b'data')
        assert calls == ['sync', 'rename', 'sync']

    def test_full_disk(self, tmp_path):
        disk = tmp_path / 'disk'
        disk.mkdir()
        mount = ['mount', '-t', 'tmpfs', '-o', 'size=300k', 'tmpfs', str(disk)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip('mounting a small tmpfs needs root')
        try:
            runner = tiny_runner(
                disk,
                [dict(type='EDEHook')],
                train_cfg=dict(type='DeterministicEpochLoop', max_epochs=200),
                default_hooks=dict(
                    checkpoint=dict(type='AtomicCheckpointHook', interval=1)
                ),
            )
            with pytest.raises(
                OSError,
                match=r'could not write .*No space left on device; earlier files',
            ):
                runner.train()
            saved = sorted(disk.glob('epoch_*.pth'))
            assert saved
            for path in saved:
                ckpt.load_checkpoint_file(str(path))
            assert not list(disk.glob('.*'))
        finally:
            subprocess.run(['umount', '--lazy', str(disk)], check=True)


class TestDamage:
    def mutated(self, data, rng):
        data = bytearray(data)
        kind = rng.choice(['flip', 'flip', 'cut', 'swap', 'overwrite', 'grow'])
        i = rng.randrange(len(data))
        if kind == 'flip':
            data[i] ^= 1 << rng.randrange(8)
        elif kind == 'cut':
            del data[i:]
        elif kind == 'swap':
            n = rng.randrange(1, 200)
            j = rng.randrange(len(data))
            a, b = data[i : i + n], data[j : j + n]
            data[i : i + n], data[j : j + n] = b, a
        elif kind == 'overwrite':
            data[i : i + 16] = rng.randbytes(16)
        else:
            data[i:i] = rng.randbytes(8)
        return bytes(data)

    def test_two_thousand_mutations(self, small, tmp_path):
        original, data = ckpt.load_checkpoint_file(str(small)), small.read_bytes()
        rng, path = random.Random(0), tmp_path / 'damaged.pth'
        refused = 0
        for _ in range(2000):
            path.write_bytes(self.mutated(data, rng))
            try:
                loaded = ckpt.load_checkpoint_file(str(path))
            except ValueError as e:
                assert str(path) in str(e)
                refused += 1
            else:
                assert same(loaded, original)
        assert refused > 1800

    def test_swapped_records(self, small, tmp_path):
        """Two tensors under each other's names: all checksums of the zip hold."""
        path = tmp_path / 'swapped.pth'
        data = small.read_bytes()
        names = [b'data/0', b'data/1']
        swapped = data.replace(names[0], b'\x07\x13swap').replace(names[1], names[0])
        swapped = swapped.replace(b'\x07\x13swap', names[1])
        assert len(swapped) == len(data) and swapped != data
        path.write_bytes(swapped)
        with pytest.raises(ValueError, match=r'swapped\.pth is damaged'):
            ckpt.load_checkpoint_file(str(path))

    @pytest.mark.parametrize('damage', ['flip', 'cut'])
    def test_files_of_others(self, tmp_path, damage):
        path = tmp_path / 'other.pth'
        torch.save(dict(state_dict=dict(w=torch.ones(1000))), path)
        assert ckpt.load_checkpoint_file(str(path))['state_dict']['w'].sum() == 1000
        data = bytearray(path.read_bytes())
        if damage == 'flip':
            data[data.index(b'\x00\x00\x80?' * 4)] ^= 1  # within the numbers
        else:
            del data[len(data) // 2 :]
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r'other\.pth is damaged'):
            ckpt.load_checkpoint_file(str(path))

    def test_old_format_loads(self, tmp_path):
        path = tmp_path / 'old.pth'
        torch.save(dict(w=torch.ones(3)), path, _use_new_zipfile_serialization=False)
        assert ckpt.load_checkpoint_file(str(path))['w'].sum() == 3
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(ValueError, match=r'old\.pth'):
            ckpt.load_checkpoint_file(str(path))

    def test_missing_file(self):
        with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
            ckpt.load_checkpoint_file('nowhere.pth')

    def test_folder(self, tmp_path):
        with pytest.raises(ValueError, match='is a folder: name a checkpoint in it'):
            ckpt.load_checkpoint_file(str(tmp_path))

    def test_empty_file(self, tmp_path):
        path = tmp_path / 'empty.pth'
        path.touch()
        with pytest.raises(ValueError, match=r'empty\.pth is empty or cut short$'):
            ckpt.load_checkpoint_file(str(path))


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


class TestTrust:
    """A payload runs in none of the ways that a file gets loaded."""

    @pytest.fixture
    def bad(self, tmp_path):
        state = tiny_runner(tmp_path / 'a').model.state_dict()
        content = dict(
            state_dict=state,
            meta=dict(epoch=1, iter=4),
            extra=Payload(tmp_path / 'trace'),
        )
        path = tmp_path / 'bad.pth'
        torch.save(content, path)
        return path

    def ways(self, tmp_path, bad):
        class Pretrained(BaseModule):
            def __init__(self):
                super().__init__(dict(type='Pretrained', checkpoint=str(bad)))
                self.net = nn.Linear(1, 1)

        kwargs = dict(load_from=str(bad))
        return dict(
            resume=lambda: tiny_runner(tmp_path / 'r', resume=True, **kwargs).train(),
            load_from=lambda: tiny_runner(tmp_path / 'l', **kwargs).train(),
            loader=lambda: CheckpointLoader.load_checkpoint(str(bad)),
            pretrained=lambda: Pretrained().init_weights(),
        )

    @pytest.mark.parametrize('way', ['resume', 'load_from', 'loader', 'pretrained'])
    def test_payload_is_refused(self, tmp_path, bad, way):
        with pytest.raises(ValueError, match=r'bad\.pth is refused: .* of \S+$'):
            self.ways(tmp_path, bad)[way]()
        assert not (tmp_path / 'trace').exists()
        with pytest.raises(pickle.UnpicklingError):
            torch.load(bad)
        torch.load(bad, weights_only=False)  # the trap was real
        assert (tmp_path / 'trace').exists()


@pytest.mark.parametrize('content', [b'\x89PNG\r\n', b'{"a": 1}', b'import torch\n'])
def test_what_is_no_checkpoint_is_called_so(tmp_path, content):
    path = tmp_path / 'image.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'image\.pth is refused: .*no checkpoint$'):
        CheckpointLoader.load_checkpoint(str(path))


class TestFindWhole:
    @pytest.fixture
    def run(self, tmp_path):
        for i in (1, 2, 10):
            path = save(tmp_path / f'epoch_{i}.pth', meta=dict(epoch=i))
            os.utime(path, (i, i))
        shutil.copy(tmp_path / 'epoch_10.pth', tmp_path / 'best_top1_epoch_10.pth')
        (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_10.pth')
        return tmp_path

    def test_takes_the_last(self, run):
        assert ckpt.find_intact_checkpoint(run).endswith('/epoch_10.pth')

    @pytest.mark.parametrize('pointer', ['', '/elsewhere/epoch_99.pth', None])
    def test_without_a_good_pointer_takes_the_newest(self, run, pointer):
        path = run / 'last_checkpoint'
        path.unlink() if pointer is None else path.write_text(pointer)
        assert ckpt.find_intact_checkpoint(run).endswith('/epoch_10.pth')

    def test_falls_back_and_says_so(self, run, monkeypatch):
        said = []
        monkeypatch.setattr(ckpt, 'print_log', lambda *a, **k: said.append(a[0]))
        for name in ('epoch_10', 'epoch_2'):
            path = run / f'{name}.pth'
            path.write_bytes(path.read_bytes()[:-100])
        assert ckpt.find_intact_checkpoint(run).endswith('/epoch_1.pth')
        assert 'epoch_10.pth' in said[0] and 'resuming from an earlier' in said[0]
        assert 'epoch_2.pth' in said[1]

    def test_all_damaged(self, run):
        for path in run.glob('*.pth'):
            path.write_bytes(b'PK nothing')
        with pytest.raises(ValueError, match=r'all 3 checkpoints in .* are damaged'):
            ckpt.find_intact_checkpoint(run)

    def test_empty_folder(self, tmp_path):
        assert ckpt.find_intact_checkpoint(tmp_path) is None
