import gzip
import struct
import subprocess
import sys

import pytest
from small_run import TOOLS

HEADERS = {
    'train-images-idx3-ubyte': (0x803, 60000, 28, 28),
    'train-labels-idx1-ubyte': (0x801, 60000),
    't10k-images-idx3-ubyte': (0x803, 10000, 28, 28),
    't10k-labels-idx1-ubyte': (0x801, 10000),
}


def idx(magic, number, *size):
    length = number * (size[0] * size[1] if size else 1)
    return struct.pack(f'>{2 + len(size)}I', magic, number, *size) + bytes(length)


@pytest.fixture(scope='module')
def packed():
    return {
        name: gzip.compress(idx(*header), compresslevel=1)
        for name, header in HEADERS.items()
    }


@pytest.fixture
def source(tmp_path, packed):
    folder = tmp_path / 'source'
    folder.mkdir()
    for name, data in packed.items():
        (folder / f'{name}.gz').write_bytes(data)
    return folder


def prepare(source, out):
    command = [sys.executable, TOOLS / 'prepare_fashion_mnist.py', source, '--out', out]
    return subprocess.run(command, capture_output=True, text=True)


def test_unpacks_once_and_mends(source, tmp_path):
    out = tmp_path / 'out'
    assert prepare(source, out).stdout.count(': unpacked') == 4
    for name, header in HEADERS.items():
        assert (out / name).read_bytes() == idx(*header)
    damaged = out / 't10k-labels-idx1-ubyte'
    damaged.write_bytes(damaged.read_bytes()[:-1])
    result = prepare(source, out)
    assert result.stdout.count(': already there') == 3
    assert f'{damaged}: unpacked' in result.stdout
    assert damaged.read_bytes() == idx(*HEADERS[damaged.name])


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda data: data[:-20], 'cannot be unpacked'),
        (lambda data: b'no gzip', 'cannot be unpacked'),
        (lambda data: data[:10] + bytes(20) + data[30:], 'cannot be unpacked'),
        (lambda data: gzip.compress(idx(0x801, 9999)), 'not the expected IDX file'),
        (lambda data: gzip.compress(bytes(10008)), 'not the expected IDX file'),
    ],
)
def test_refuses_a_damaged_file(source, tmp_path, damage, message):
    file = source / 't10k-labels-idx1-ubyte.gz'
    file.write_bytes(damage(file.read_bytes()))
    result = prepare(source, tmp_path / 'out')
    assert result.returncode == 2
    assert result.stderr.startswith(f'error: {file} ')
    assert message in result.stderr
    assert not (tmp_path / 'out' / 't10k-labels-idx1-ubyte').exists()


def test_names_the_package_that_is_missing(tmp_path):
    result = prepare(tmp_path, tmp_path / 'out')
    assert result.returncode == 2
    assert result.stderr.startswith(f'error: {tmp_path} has no train-images')
    assert 'apt install dataset-fashion-mnist' in result.stderr
