import mmcv
import numpy as np
import pytest
from image_kinds import BAD
from mmpretrain.datasets import transforms as pretrain
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from mmirnet.datasets.loading import LoadImageFromFile


def test_takes_the_place_of_mmcvs_in_mmpretrains_configs():
    assert TRANSFORMS.get('LoadImageFromFile') is LoadImageFromFile


def test_reads_an_image(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    results = LoadImageFromFile()(dict(img_path=str(tmp_path / 'a.png')))
    assert np.array_equal(results['img'], pixels[..., ::-1])  # OpenCV's order


@pytest.mark.parametrize(
    'loader',
    [mmcv.transforms.LoadImageFromFile, pretrain.LoadImageFromFile],
)
def test_a_config_that_names_the_class_reads_alike(loader, tmp_path):
    path = tmp_path / 'a.jpg'
    path.write_bytes(BAD['JPEG without its end'])
    with pytest.raises(OSError, match=f'cannot read image {path}: it is truncated'):
        TRANSFORMS.build(dict(type=loader))(dict(img_path=str(path)))
    empty = TRANSFORMS.build(dict(type=loader, ignore_empty=True))
    assert empty(dict(img_path=str(path))) is None


@pytest.mark.parametrize('content', [b'', b'no image', b'\xff\xd8\xff'])
def test_names_the_file_it_cannot_read(tmp_path, content):
    path = tmp_path / 'a.jpg'
    path.write_bytes(content)
    with pytest.raises(OSError, match=f'cannot read image {path}: .+'):
        LoadImageFromFile()(dict(img_path=str(path)))


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match='absent'):
        LoadImageFromFile()(dict(img_path=str(tmp_path / 'absent.jpg')))


@pytest.mark.parametrize(
    'arguments',
    [
        dict(file_client_args=dict(backend='disk')),
        dict(backend_args=dict(backend='local')),
        dict(color_type='unchanged'),
        dict(to_float32=True),
    ],
)
def test_takes_mmcvs_arguments(arguments, tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    loader = LoadImageFromFile(**arguments)
    results = loader(dict(img_path=str(tmp_path / 'a.png')))
    wanted = pixels[..., [2, 1, 0, 3]]
    wanted = wanted if 'color_type' in arguments else wanted[..., :3]
    assert np.array_equal(results['img'], wanted)
    floats = arguments.get('to_float32', False)
    assert results['img'].dtype == (np.float32 if floats else np.uint8)
    assert results['img_shape'] == results['ori_shape'] == (4, 4)
