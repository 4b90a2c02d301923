"""One image file of each kind, as bytes by name."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 23, 37
_RNG = np.random.default_rng(0)
_RAMP = np.add.outer(3 * np.arange(HEIGHT), 2 * np.arange(WIDTH))
RGB = np.clip(
    _RAMP[..., None] + [0, 60, 90] + _RNG.integers(-20, 20, (HEIGHT, WIDTH, 3)), 0, 255
).astype(np.uint8)
GREY = RGB[..., 0]
RGBA = np.dstack([RGB, _RNG.integers(0, 256, (HEIGHT, WIDTH), np.uint8)])
GREY16 = _RNG.integers(0, 65536, (HEIGHT, WIDTH), np.uint16)
RGB16 = _RNG.integers(0, 65536, (HEIGHT, WIDTH, 3), np.uint16)
_FLOAT = (RGB / 255).astype(np.float32)
_IMAGE = Image.fromarray(RGB)
_PALETTE = _IMAGE.quantize(16)
_OTHER = Image.fromarray(255 - RGB)


def encoded(image, kind, **options):
    """A Pillow image, or an array, as a file of Pillow's."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_opencv(suffix, array):
    plain = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if suffix == '.tiff' else []
    return cv2.imencode(suffix, array, plain)[1].tobytes()


def oriented(kind, orientation):
    if kind == 'TIFF':
        return encoded(RGB, kind, tiffinfo={0x112: orientation})
    exif = Image.Exif()
    exif[0x112] = orientation
    options = dict(lossless=True) if kind == 'WEBP' else {}
    return encoded(RGB, kind, exif=exif, **options)


def ycck_jpeg():
    """Photoshop's kind: Adobe's marker says YCCK, the inks are inverted."""
    data = bytearray(encoded(_IMAGE.convert('CMYK'), 'JPEG'))
    at = data.index(b'Adobe')
    data[at + 11] = 2
    return bytes(data)


def empty_png(width, height):
    """A PNG's head, with one grey bit a pixel and no pixels."""

    def chunk(kind, body):
        crc = struct.pack('>I', zlib.crc32(kind + body))
        return struct.pack('>I', len(body)) + kind + body + crc

    head = struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)
    body = chunk(b'IDAT', zlib.compress(b''))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + body + chunk(b'IEND', b'')


def _supported(kind):
    Image.init()
    return kind in Image.SAVE


# Read by every OpenCV, and by Pillow to the same pixels.
GOOD = {
    **{f'JPEG, orientation {n}': oriented('JPEG', n) for n in range(1, 9)},
    **{f'PNG, orientation {n}': oriented('PNG', n) for n in range(1, 9)},
    **{f'TIFF, orientation {n}': oriented('TIFF', n) for n in range(1, 9)},
    'JPEG 4:4:4': encoded(RGB, 'JPEG', subsampling=0),
    'JPEG 4:2:2': encoded(RGB, 'JPEG', subsampling=1),
    'JPEG 4:2:0': encoded(RGB, 'JPEG', subsampling=2),
    'JPEG progressive': encoded(RGB, 'JPEG', progressive=True),
    'JPEG grey': encoded(GREY, 'JPEG'),
    'JPEG CMYK': encoded(_IMAGE.convert('CMYK'), 'JPEG'),
    'JPEG YCCK': ycck_jpeg(),
    'JPEG with something behind it': encoded(RGB, 'JPEG') + bytes(100),
    'PNG': encoded(RGB, 'PNG'),
    'PNG grey': encoded(GREY, 'PNG'),
    'PNG of 1 bit': encoded(Image.fromarray(GREY).convert('1'), 'PNG'),
    'PNG RGBA': encoded(RGBA, 'PNG'),
    'PNG LA': encoded(Image.merge('LA', Image.fromarray(RGBA).split()[2:]), 'PNG'),
    'PNG palette': encoded(_PALETTE, 'PNG'),
    'PNG palette, one colour clear': encoded(_PALETTE, 'PNG', transparency=3),
    'PNG palette, alpha': encoded(_PALETTE, 'PNG', transparency=bytes([0, 100, 255])),
    'PNG of 16 bits grey': by_opencv('.png', GREY16),
    'TIFF': encoded(RGB, 'TIFF'),
    'TIFF LZW': encoded(RGB, 'TIFF', compression='tiff_lzw'),
    'TIFF grey': encoded(GREY, 'TIFF'),
    'TIFF of 16 bits grey': by_opencv('.tiff', GREY16),
    'TIFF palette': encoded(_PALETTE, 'TIFF'),
    'TIFF of two pages': encoded(RGB, 'TIFF', save_all=True, append_images=[_OTHER]),
    'WebP lossless': encoded(RGB, 'WEBP', lossless=True),
    'WebP lossless, alpha': encoded(RGBA, 'WEBP', lossless=True, exact=True),
    'WebP': encoded(RGB, 'WEBP'),
    'WebP, alpha': encoded(RGBA, 'WEBP'),
    'BMP': encoded(RGB, 'BMP'),
    'BMP grey': encoded(GREY, 'BMP'),
    'BMP palette': encoded(_PALETTE, 'BMP'),
    'PPM': encoded(RGB, 'PPM'),
    'PGM': encoded(GREY, 'PPM'),
    'PBM': encoded(Image.fromarray(GREY).convert('1'), 'PPM'),
}
# Read by some versions of OpenCV, and then as Pillow does.
SOMETIMES = {
    'GIF': encoded(_PALETTE, 'GIF'),
    'GIF of two frames': encoded(
        _PALETTE, 'GIF', save_all=True, append_images=[_OTHER.quantize(16)]
    ),
    **({'JPEG 2000': encoded(RGB, 'JPEG2000')} if _supported('JPEG2000') else {}),
    **({'AVIF': encoded(RGB, 'AVIF')} if _supported('AVIF') else {}),
    'WebP of two frames': encoded(
        RGB, 'WEBP', save_all=True, append_images=[_OTHER], lossless=True
    ),
}
# Where Pillow says too little: it refuses what it would read to other pixels.
OPENCV_ONLY = {
    'TIFF of 16 bits RGB': by_opencv('.tiff', RGB16),
    'TIFF RGBA': encoded(RGBA, 'TIFF'),
    'PPM of 16 bits': by_opencv('.ppm', RGB16),
    'GIF, one colour clear': encoded(_PALETTE, 'GIF', transparency=2),
}
# Like the ones above only in grey.
OPENCV_ONLY_GREY = {
    'PNG of 16 bits RGB': by_opencv('.png', RGB16),
    'PNG of 16 bits RGBA': by_opencv('.png', np.dstack([RGB16, GREY16])),
    'PNG of two frames': encoded(RGB, 'PNG', save_all=True, append_images=[_OTHER]),
}
_JPEG, _PNG = encoded(RGB, 'JPEG'), GOOD['PNG']
_PROGRESSIVE = GOOD['JPEG progressive']
BAD = {
    'nothing': b'',
    'text': b'no image\n' * 20,
    'start of a JPEG': b'\xff\xd8\xff',
    'JPEG without its last byte': _JPEG[:-1],
    'JPEG without its end': _JPEG[:-2],
    'half a JPEG': _JPEG[: len(_JPEG) * 3 // 4],
    'half a progressive JPEG': _PROGRESSIVE[: len(_PROGRESSIVE) * 3 // 4],
    'half a PNG': _PNG[: len(_PNG) // 2],
    'PNG without its end': _PNG[:-12],
    'PNG without its last byte': _PNG[:-1],
    'half a TIFF': GOOD['TIFF'][: HEIGHT * WIDTH],
    'half a WebP': GOOD['WebP'][: len(GOOD['WebP']) // 2],
    'half a BMP': GOOD['BMP'][: HEIGHT * WIDTH],
    'TIFF of floats': encoded(_FLOAT[..., 0], 'TIFF'),
    'TIFF of three floats': by_opencv('.tiff', _FLOAT),
    'TIFF of 32 bits': encoded(GREY16.astype(np.int32), 'TIFF'),
    'PNG without pixels': empty_png(20, 20),
    'PNG of 1.6 thousand million pixels': empty_png(40000, 40000),
}
