import subprocess
import sys

import cv2
import mmcv
import numpy as np
import pytest
from image_kinds import (
    BAD,
    GOOD,
    HEIGHT,
    OPENCV_ONLY,
    OPENCV_ONLY_GREY,
    RGB,
    SOMETIMES,
    WIDTH,
    encoded,
    oriented,
)
from mmpretrain.registry import TRANSFORMS

from mmirnet import images
from mmirnet.images import decode, read

READABLE = {**GOOD, **OPENCV_ONLY, **OPENCV_ONLY_GREY, **SOMETIMES}
WEBP = {f'WebP, orientation {n}': oriented('WEBP', n) for n in range(1, 9)}


@pytest.fixture
def no_opencv(monkeypatch):
    monkeypatch.setattr(images, 'opencv', lambda: None)


def trained_on(path, **arguments):
    """What the transform of a config reads, as RGB or grey."""
    loader = TRANSFORMS.build(dict(type='LoadImageFromFile', **arguments))
    image = loader(dict(img_path=str(path)))['img']
    return image[..., None] if image.ndim == 2 else image[..., ::-1]


def by_mmcv(data, flag, backend):
    """What MMCV's own transform makes of it; None if nothing."""
    try:
        image = mmcv.imfrombytes(data, flag, backend=backend)
    except Exception:
        return None
    if image is None:
        return None
    return image[..., None] if image.ndim == 2 else image[..., ::-1]


@pytest.mark.parametrize('upright', [True, False])
@pytest.mark.parametrize('grey', [False, True])
@pytest.mark.parametrize('library', ['cv2', 'pillow'])
@pytest.mark.parametrize('kind', {**READABLE, **WEBP})
def test_training_and_reader_see_the_pixels_of_mmcv(
    kind, library, grey, upright, tmp_path
):
    path = tmp_path / 'image'
    path.write_bytes({**READABLE, **WEBP}[kind])
    flag = 'grayscale' if grey else 'color'
    flag += '' if upright else '_ignore_orientation'
    wanted = by_mmcv(path.read_bytes(), flag, library)
    how = dict(color_type=flag, imdecode_backend=library)
    if wanted is None:  # an OpenCV that is older than the format
        assert kind in SOMETIMES or 'GIF' in kind
        for reading in (lambda: trained_on(path, **how), lambda: read(path)):
            with pytest.raises(OSError, match=f'cannot read image {path}'):
                reading()
        return
    np.testing.assert_array_equal(trained_on(path, **how), wanted)
    got = read(path, grey=grey, library=library, upright=upright)
    np.testing.assert_array_equal(got, wanted)
    assert got.dtype == np.uint8


@pytest.mark.parametrize('grey', [False, True])
@pytest.mark.parametrize('kind', {**GOOD, **SOMETIMES})
def test_pillow_stands_in_for_opencv(kind, grey, monkeypatch):
    data = {**GOOD, **SOMETIMES}[kind]
    if kind in SOMETIMES and by_mmcv(data, 'color', 'cv2') is None:
        pytest.skip(f'OpenCV {cv2.__version__} does not read it')
    wanted = decode(data, 'image', grey=grey)
    monkeypatch.setattr(images, 'opencv', lambda: None)
    np.testing.assert_array_equal(decode(data, 'image', grey=grey), wanted)


@pytest.mark.parametrize('size', [(64, 64), (101, 83)])
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'PPM'])
@pytest.mark.parametrize('grey', [False, True])
def test_pillow_stands_in_for_opencv_on_noise(kind, size, grey, monkeypatch):
    """Every colour, where conversion to grey rounds either way."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    data = encoded(noise, kind)
    wanted = decode(data, 'image', grey=grey)
    monkeypatch.setattr(images, 'opencv', lambda: None)
    np.testing.assert_array_equal(decode(data, 'image', grey=grey), wanted)


@pytest.mark.parametrize('kind', OPENCV_ONLY)
def test_pillow_refuses_what_it_would_read_otherwise(kind, no_opencv):
    with pytest.raises(OSError, match=r'image a\.b: a .* needs OpenCV: pip'):
        decode(OPENCV_ONLY[kind], 'a.b')


@pytest.mark.parametrize('kind', OPENCV_ONLY_GREY)
def test_pillow_refuses_in_grey_what_it_reads_in_colour(kind, monkeypatch):
    wanted = by_mmcv(OPENCV_ONLY_GREY[kind], 'color', 'cv2')
    monkeypatch.setattr(images, 'opencv', lambda: None)
    if wanted is not None:
        np.testing.assert_array_equal(decode(OPENCV_ONLY_GREY[kind], 'a'), wanted)
    with pytest.raises(OSError, match='needs OpenCV'):
        decode(OPENCV_ONLY_GREY[kind], 'a', grey=True)


@pytest.mark.parametrize('with_opencv', [True, False])
@pytest.mark.parametrize('kind', BAD)
def test_what_is_no_whole_image_is_refused_by_name(
    kind, with_opencv, tmp_path, monkeypatch
):
    if not with_opencv:
        monkeypatch.setattr(images, 'opencv', lambda: None)
    path = tmp_path / 'bad [1] ü.jpg'
    path.write_bytes(BAD[kind])
    for reading in (read, trained_on):
        with pytest.raises(OSError, match=r'cannot read image .*bad \[1\] ü.jpg: \w'):
            reading(path)


@pytest.mark.parametrize('library', ['cv2', 'pillow'])
def test_the_reason_says_what_is_wrong(library):
    for kind, why in {
        'nothing': 'it is empty',
        'JPEG without its end': 'it is truncated, a JPEG without an end',
        'PNG without its end': 'it is truncated, a PNG without an end',
        'text': '(cannot decode it|finds no)',
    }.items():
        with pytest.raises(OSError, match=f'cannot read image a.jpg: .*{why}'):
            decode(BAD[kind], 'a.jpg', library=library)


def test_too_many_pixels():
    with pytest.raises(OSError, match='image a: it has more pixels than OpenCV takes'):
        decode(BAD['PNG of 1.6 thousand million pixels'], 'a')


def test_an_end_of_the_preview_does_not_count():
    """A truncated JPEG with an intact one in its EXIF."""
    exif = b'Exif\0\0' + encoded(RGB, 'JPEG')
    segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
    data = encoded(RGB, 'JPEG')
    data = data[:2] + segment + data[2:]
    np.testing.assert_array_equal(decode(data, 'a'), decode(encoded(RGB, 'JPEG'), 'a'))
    with pytest.raises(OSError, match='truncated'):
        decode(data[:-50], 'a')


@pytest.mark.parametrize('name', ['a b.png', 'ü.png', 'a[0].png', '%d.png', "it's.png"])
def test_any_name_is_read(name, tmp_path):
    (tmp_path / name).write_bytes(GOOD['PNG'])
    np.testing.assert_array_equal(read(tmp_path / name), RGB)
    np.testing.assert_array_equal(trained_on(tmp_path / name), RGB)


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(
        OSError, match=f'cannot read image {tmp_path}: it is a folder w'
    ):
        read(tmp_path)
    (tmp_path / 'deep').mkdir()
    (tmp_path / 'deep' / 'a.PNG').write_bytes(GOOD['PNG'])
    with pytest.raises(OSError, match=f'cannot read image {tmp_path}: it is a folder$'):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match='absent'):
        read(tmp_path / 'absent.png')
    with pytest.raises(OSError, match='cannot read image'):
        read('a\0b.png')


def test_a_bomb_is_refused_in_one_line(monkeypatch, no_opencv):
    from PIL import Image

    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', HEIGHT * WIDTH // 3)
    with pytest.raises(OSError, match=r'cannot read image a: .*exceeds limit'):
        decode(GOOD['PNG'], 'a')


def test_reading_needs_no_torch(tmp_path):
    (tmp_path / 'a.png').write_bytes(GOOD['PNG'])
    code = (
        'import sys\n'
        "sys.modules['mmengine'] = sys.modules['torch'] = None\n"
        'from importlib import util\n'
        'find = util.find_spec\n'
        "util.find_spec = lambda name: None if name == 'mmengine' else find(name)\n"
        'from mmirnet.images import read\n'
        f'print(read({str(tmp_path / "a.png")!r}).shape)\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True
    )
    assert result.stdout.strip() == str(RGB.shape), result.stderr


def test_without_a_library_it_is_named(monkeypatch, no_opencv):
    monkeypatch.setitem(sys.modules, 'PIL', None)
    with pytest.raises(ImportError, match='images need OpenCV or Pillow: pip install'):
        decode(GOOD['PNG'], 'a')
