import os
import subprocess
import sys
import time

import pytest
from small_run import LIGHT

from mmirnet import files
from mmirnet.files import lock_folder, remove_stale_temporaries, write_atomic


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def ended_process():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return process.pid


def temporary(folder, pid, host=None, age=0, name='epoch_9.pth'):
    path = folder / f'.{name}.0a1b2c3d-{pid}-{host or files._host()}.writing'
    path.write_bytes(b'half')
    os.utime(path, (time.time() - age,) * 2)
    return path.name


class TestStaleTemporaries:
    def test_a_killed_write_is_cleared_away(self, tmp_path):
        code = f"""{LIGHT}
import os, signal
os.fsync = lambda f: os.kill(os.getpid(), signal.SIGKILL)
from mmirnet.files import write_atomic
write_atomic({str(tmp_path / 'epoch_9.pth')!r}, b'data')
"""
        subprocess.run([sys.executable, '-c', code], timeout=60)
        (left,) = names(tmp_path)
        assert left.startswith('.epoch_9.pth.')
        assert remove_stale_temporaries(tmp_path) == [left]
        assert names(tmp_path) == []

    @pytest.mark.parametrize(
        'pid, host, age, stale',
        [
            ('ended', None, 0, True),
            ('running', None, 3600, False),
            ('running', None, 25 * 3600, True),
            ('own', None, 0, True),  # of an earlier process with this number
            ('ended', 'elsewhere', 60, False),
            ('running', 'elsewhere', 3600, True),
        ],
    )
    def test_whose_it_is(self, tmp_path, pid, host, age, stale):
        number = {'ended': ended_process(), 'running': os.getppid(), 'own': os.getpid()}
        name = temporary(tmp_path, number[pid], host, age)
        assert remove_stale_temporaries(tmp_path) == [name] * stale
        assert names(tmp_path) == [name] * (not stale)

    @pytest.mark.parametrize(
        'name', ['.epoch_9.pth.a1_x9z8q', '.last_checkpoint.abcdefgh']
    )
    def test_names_of_earlier_versions(self, tmp_path, name):
        path = tmp_path / name
        path.write_bytes(b'half')
        assert remove_stale_temporaries(tmp_path) == []
        os.utime(path, (time.time() - 3600,) * 2)
        assert remove_stale_temporaries(tmp_path) == [name]

    def test_others_files_stay(self, tmp_path):
        for name in (
            '.epoch_9.pth',
            '.x.writing',
            '.git',
            'epoch_9.pth',
            '.a.b.12345678',
        ):
            (tmp_path / name).write_bytes(b'')
            os.utime(tmp_path / name, (1, 1))
        assert remove_stale_temporaries(tmp_path) == []
        assert len(names(tmp_path)) == 5

    def test_what_this_process_writes_stays(self, tmp_path, monkeypatch):
        seen = []
        fsync = os.fsync
        monkeypatch.setattr(
            os,
            'fsync',
            lambda f: seen.append(remove_stale_temporaries(tmp_path)) or fsync(f),
        )
        write_atomic(tmp_path / 'x', b'data')
        assert seen[0] == []
        assert (tmp_path / 'x').read_bytes() == b'data'


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'fsync', interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / 'x', b'data')
    assert names(tmp_path) == []


@pytest.mark.parametrize('error', [PermissionError(13, 'no'), OSError(30, 'read-only')])
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(files, 'open', refuse, raising=False)
    with pytest.raises(type(error), match=r'could not write .*/x: .*earlier files'):
        write_atomic(tmp_path / 'x', b'data')


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(OSError, match=r'could not write .*/file/x: '):
        write_atomic(tmp_path / 'file' / 'x', b'data')


def test_systems_without_open_folders(tmp_path, monkeypatch):
    """Windows opens no folder; some network file systems cannot flush one."""
    monkeypatch.setattr(os, 'open', lambda *a: pytest.fail('a folder was opened'))
    monkeypatch.setattr(files, '_WINDOWS', True)
    write_atomic(tmp_path / 'x', b'data')
    assert (tmp_path / 'x').read_bytes() == b'data'


def test_file_systems_that_cannot_flush_a_folder(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse_folders(number):
        if os.path.isdir(f'/proc/self/fd/{number}'):
            raise OSError(22, 'Invalid argument')
        fsync(number)

    monkeypatch.setattr(os, 'fsync', refuse_folders)
    write_atomic(tmp_path / 'x', b'data')
    assert (tmp_path / 'x').read_bytes() == b'data'


HOLD = f"""{LIGHT}
import sys
from mmirnet.files import lock_folder
lock = lock_folder(sys.argv[1])
print('held', flush=True)
sys.stdin.read()
"""


class TestLock:
    @pytest.fixture
    def holder(self, tmp_path):
        """Another process that holds the folder."""
        with subprocess.Popen(
            [sys.executable, '-c', HOLD, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout.readline() == b'held\n'
            yield process
            process.kill()

    def test_one_process_holds_a_folder(self, tmp_path, holder):
        message = f'another run, process {holder.pid} on .* is training in {tmp_path}'
        for _ in range(2):  # asking does not take it away
            with pytest.raises(BlockingIOError, match=message):
                lock_folder(tmp_path)

    def test_a_killed_process_holds_nothing(self, tmp_path, holder):
        holder.kill()
        holder.wait()
        with lock_folder(tmp_path) as lock:
            assert f'process {os.getpid()} ' in (tmp_path / 'run.lock').read_text()
            assert not lock.closed

    def test_systems_without_locks(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, 'fcntl', None)  # as on Windows
        assert lock_folder(tmp_path) is None

    def test_disks_without_locks(self, tmp_path, monkeypatch):
        import fcntl

        def refuse(*args):
            raise OSError(37, 'No locks available')

        monkeypatch.setattr(fcntl, 'lockf', refuse)
        assert lock_folder(tmp_path) is None
