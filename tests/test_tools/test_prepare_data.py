"""Archives are unpacked into their folder, and nowhere else."""

import gzip
import io
import lzma
import subprocess
import sys
import tarfile

import pytest
from small_run import TOOLS

FILES = {
    'shapes/train/round/0.jpg': b'one',
    'shapes/train/square/0.jpg': b'two',
    'shapes/val/round/0.jpg': b'three',
}


def write(path, files=FILES, **fields):
    mode = {'.xz': 'w:xz', '.gz': 'w:gz'}.get(path.suffix, 'w')
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def prepare(*archives, out, cwd=None):
    command = [sys.executable, TOOLS / 'prepare_data.py', *archives, '--out', out]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize('ending', ['tar', 'tar.gz', 'tar.xz'])
def test_unpacks_once_and_mends(tmp_path, ending):
    archive, out = write(tmp_path / f'shapes.{ending}'), tmp_path / 'out'
    result = prepare(archive, out=out)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        f'{out / "shapes"}: 2 in train, 1 in val',
        f'{archive}: 3 files unpacked, 0 were there',
    ]
    (out / 'shapes/train/round/0.jpg').write_bytes(b'not')
    (out / 'shapes/val/round/own.jpg').write_bytes(b'own')
    assert '1 files unpacked, 2 were there' in prepare(archive, out=out).stdout
    assert '0 files unpacked, 3 were there' in prepare(archive, out=out).stdout
    found = {p.relative_to(out).as_posix() for p in out.rglob('*') if p.is_file()}
    assert found == {*FILES, 'shapes/val/round/own.jpg'}
    assert all((out / name).read_bytes() == data for name, data in FILES.items())


@pytest.mark.parametrize(
    ('name', 'fields'),
    [
        ('../a/b/c.jpg', {}),
        ('/a/b/c.jpg', {}),
        ('a/b/../c.jpg', {}),
        (r'a/b/..\..\c/d.jpg', {}),
        ('C:/a/b/c.jpg', {}),
        ('a/b.jpg', {}),
        ('a/b/c/d.jpg', dict(type=tarfile.SYMTYPE, linkname='/etc/passwd')),
        ('a/b/c/d.jpg', dict(type=tarfile.LNKTYPE, linkname='../../x')),
        ('a/b/c/d.jpg', dict(type=tarfile.FIFOTYPE)),
    ],
)
def test_refuses_what_may_write_elsewhere(tmp_path, name, fields):
    archive, out = write(tmp_path / 'a.tar', {name: b''}, **fields), tmp_path / 'out'
    result = prepare(archive, out=out)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f'error: {archive} is refused: {name!r} is not a plain file')
    assert not out.exists()


@pytest.mark.parametrize('ending', ['tar', 'tar.gz', 'tar.xz'])
def test_refuses_a_damaged_archive(tmp_path, ending):
    archive = write(tmp_path / f'a.{ending}', {'a/b/c/d.jpg': bytes(range(256)) * 9})
    data = archive.read_bytes()
    for damaged in (data[: min(len(data) // 2, 1500)], b'none', b''):
        archive.write_bytes(damaged)
        result = prepare(archive, out=tmp_path / 'out')
        (line,) = result.stderr.splitlines()
        assert line.startswith(f'error: {archive} ')
        assert result.returncode == 2
        assert not list(tmp_path.rglob('d.jpg'))


@pytest.mark.parametrize('ending', ['tar', 'tar.gz', 'tar.xz'])
@pytest.mark.parametrize(
    ('end', 'reason'),
    [
        (b'', 'it is truncated'),
        (b'shapes/val', 'it is truncated'),
        (bytes(511), 'it is truncated'),
        (b'?' * 512, 'it is damaged: invalid header'),
    ],
)
def test_refuses_an_archive_without_its_end(tmp_path, ending, end, reason):
    whole = write(tmp_path / 'whole.tar')
    archive = tmp_path / f'a.{ending}'
    compress = {'.gz': gzip.compress, '.xz': lzma.compress}.get(archive.suffix, bytes)
    # Each file has a header and one block of content.
    archive.write_bytes(compress(whole.read_bytes()[: 2 * 2 * 512] + end))
    result = prepare(archive, out=tmp_path / 'out')
    assert result.stderr == f'error: {archive} cannot be unpacked: {reason}\n'
    assert result.returncode == 2


def test_says_what_is_no_archive(tmp_path):
    archive = tmp_path / 'a.tar'
    for content in (b'', b'none', b'P' * 2000):
        archive.write_bytes(content)
        line = prepare(archive, out=tmp_path / 'out').stderr
        assert line.endswith(': it is no tar archive, or damaged at its start\n')


def test_counts_the_images_of_known_archives(tmp_path):
    archive = write(tmp_path / 'a.tar', {'cifar10/train/cat/0.jpg': b'one'})
    result = prepare(archive, out=tmp_path / 'out')
    assert result.stderr == (
        f'error: {archive} is incomplete: it holds 1 of 50000 images of cifar10/train\n'
    )
    assert result.returncode == 2


def test_names_each_missing_archive_and_unpacks_the_others(tmp_path):
    archive, gone = write(tmp_path / 'a.tar'), tmp_path / 'gone.tar'
    result = prepare(gone, archive, out=tmp_path / 'out')
    assert result.stderr == (
        f'error: there is no archive {gone}: put it there, or give its path\n'
    )
    assert result.returncode == 2
    assert '3 files unpacked' in result.stdout
    default = prepare(out='out', cwd=tmp_path)
    assert [line.split()[5] for line in default.stderr.splitlines()] == [
        'data/cifar10.tar.xz:',
        'data/imagenette224.tar:',
    ]
