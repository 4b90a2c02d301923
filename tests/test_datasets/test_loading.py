import numpy as np
import pytest
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


@pytest.mark.parametrize('content', [b'', b'no image', b'\xff\xd8\xff'])
def test_names_the_file_it_cannot_read(tmp_path, content):
    path = tmp_path / 'a.jpg'
    path.write_bytes(content)
    with pytest.raises(OSError, match=f'cannot read image {path}: .+'):
        LoadImageFromFile()(dict(img_path=str(path)))


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match='absent'):
        LoadImageFromFile()(dict(img_path=str(tmp_path / 'absent.jpg')))
