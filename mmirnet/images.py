"""Reads image files in the same way for training, prediction and the runtime.

:func:`decode` takes the bytes of a file, like MMCV's ``imfrombytes``, and decodes them
like OpenCV: it applies the orientation in EXIF, drops alpha, reduces 16 bits to 8,
expands palettes, converts CMYK, and takes the first frame of an animation. Without
OpenCV, Pillow decodes the same formats to the same pixels. Files for which it cannot
are refused. ``library='pillow'`` decodes like MMCV's Pillow backend, for configs that
use it.

A file is refused if it is empty, not an image, truncated, of floats, or larger than
2**30 pixels (with Pillow, than twice its ``MAX_IMAGE_PIXELS``). The error names it.

Needs numpy, and OpenCV or Pillow.
"""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from .errors import MissingPackageError, first_line

#: Suffixes of image files in a folder.
SUFFIXES = frozenset(
    f'.{name}'
    for name in (
        *('avif', 'bmp', 'gif', 'j2k', 'jp2', 'jpe', 'jpeg', 'jpg'),
        *('pbm', 'pgm', 'png', 'pnm', 'ppm', 'tif', 'tiff', 'webp'),
    )
)
_OPENCV = 'pip install opencv-python-headless'
# For each format, the modes of Pillow that can be decoded like OpenCV.
_MODES = {
    'JPEG': ('L', 'RGB', 'CMYK'),
    'PNG': ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'),
    'WEBP': ('RGB', 'RGBA'),
    'TIFF': ('1', 'L', 'P', 'RGB', 'CMYK', 'I;16', 'I;16B'),
    'BMP': ('1', 'L', 'P', 'RGB', 'RGBA'),
    'GIF': ('L', 'P', 'RGB'),
    'JPEG2000': ('L', 'RGB', 'RGBA'),
    'AVIF': ('RGB', 'RGBA'),
    'PPM': ('1', 'L', 'RGB'),
}
# Weights of R, G and B, offset and shift: libpng's, those of the decoders that convert
# while they read, and OpenCV's own for the other formats.
_GREY = {'PNG': ((9797, 19234, 3737), 0, 15)} | dict.fromkeys(
    ('JPEG', 'TIFF', 'BMP', 'PPM'), ((4899, 9617, 1868), 1 << 13, 14)
)
_GREY_BY_OPENCV = (9798, 19235, 3735), 1 << 14, 15


class _Unreadable(Exception):
    """Reason why bytes cannot be decoded; :func:`decode` adds the file."""


def opencv() -> Any | None:
    """Returns OpenCV if it is installed."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def pillow() -> Any:
    """Returns Pillow's module ``Image``."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError(
            f'images need OpenCV or Pillow: {_OPENCV} pillow'
        ) from error
    return Image


def read(
    path: str | os.PathLike,
    *,
    grey: bool = False,
    library: str = 'cv2',
    upright: bool = True,
) -> np.ndarray:
    """Reads an image file.

    Args:
        path (str | os.PathLike): The file.
        grey (bool): Read grey instead of RGB.
        library (str): 'cv2', or 'pillow' to decode like MMCV's Pillow backend.
        upright (bool): Apply the orientation in EXIF.

    Returns:
        np.ndarray: uint8 of shape (height, width, 3), RGB, or (height, width, 1).

    Raises:
        FileNotFoundError: If the file does not exist.
        OSError: If it is not an image; names the file and the reason.
        MissingPackageError: If neither OpenCV nor Pillow is installed.
    """
    path = Path(path)
    if path.is_dir():
        images = any(p.suffix.lower() in SUFFIXES for p in path.rglob('*'))
        what = 'a folder' if images else 'a folder without images'
        raise OSError(f'cannot read image {path}: it is {what}')
    try:
        data = path.read_bytes()
    except ValueError as error:  # a zero byte in the name
        raise OSError(f'cannot read image {path}: {error}') from None
    return decode(data, str(path), grey=grey, library=library, upright=upright)


def decode(
    data: bytes,
    name: str,
    *,
    grey: bool = False,
    library: str = 'cv2',
    upright: bool = True,
    bgr: bool = False,
) -> np.ndarray:
    """Decodes the bytes of an image file.

    Args:
        data (bytes): Content of the file.
        name (str): Name of the file for error messages.
        grey (bool): See :func:`read`.
        library (str): See :func:`read`.
        upright (bool): See :func:`read`.
        bgr (bool): Return BGR instead of RGB.

    Returns:
        np.ndarray: uint8 of shape (height, width, 3), RGB or BGR, or
        (height, width, 1).

    Raises:
        OSError: If the bytes are not an image; names the file and the reason.
        MissingPackageError: If neither OpenCV nor Pillow is installed.
    """
    try:
        if not data:
            raise _Unreadable('it is empty')
        _check_complete(data)
        cv2 = opencv() if library == 'cv2' else None
        if cv2 is not None:
            return _with_opencv(cv2, data, grey, upright, bgr)
        like_opencv = library == 'cv2'
        image = _with_pillow(pillow(), data, grey, upright, like_opencv)
        return image[..., ::-1] if bgr and not grey else image
    except (_Unreadable, MemoryError) as error:
        reason = str(error) or 'not enough memory'
        raise OSError(f'cannot read image {name}: {reason}') from error


# Markers of a JPEG without a segment.
_ALONE = {b'\xff', b'\x00', b'\x01', *(bytes([n]) for n in range(0xD0, 0xDA))}


def _check_complete(data: bytes) -> None:
    """Refuses a truncated file, as OpenCV 5 does.

    OpenCV 4 fills the rest of a JPEG with grey, and Pillow accepts a truncated PNG.
    """
    if data[:8] == b'\x89PNG\r\n\x1a\n':
        end = data.rfind(b'IEND')
        if end < 0 or len(data) < end + 8:
            raise _Unreadable('it is truncated, a PNG without an end')
    if data[:2] != b'\xff\xd8':
        return
    # Search the end after the start of the scan: previews before it have their own.
    at = 2
    while (at := data.find(b'\xff', at)) >= 0:
        marker = data[at + 1 : at + 2]
        if marker == b'\xda':
            break
        alone = marker in _ALONE
        at += 1 if alone else 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    if at < 0 or data.find(b'\xff\xd9', at) < 0:
        raise _Unreadable('it is truncated, a JPEG without an end')


def _with_opencv(
    cv2: Any, data: bytes, grey: bool, upright: bool, bgr: bool
) -> np.ndarray:
    flag = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
    flag |= 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        reason = first_line(error)
        if 'CV_IO_MAX_IMAGE' in reason:
            reason = 'it has more pixels than OpenCV takes'
        raise _Unreadable(reason) from error
    if image is None:
        raise _Unreadable(
            f'OpenCV {cv2.__version__} cannot decode it '
            '(not an image, damaged, or of floats)'
        )
    if image.dtype != np.uint8 or image.ndim != (2 if grey else 3):
        raise _Unreadable(f'OpenCV decodes {image.dtype} of shape {image.shape}')
    if grey:
        return image[..., None]
    return image if bgr else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)


def _with_pillow(
    Image: Any, data: bytes, grey: bool, upright: bool, like_opencv: bool
) -> np.ndarray:
    from PIL import ImageOps, UnidentifiedImageError

    Image.init()
    formats = [name for name in _MODES if name in Image.OPEN] if like_opencv else None
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if not like_opencv:
                image = ImageOps.exif_transpose(image) if upright else image
                return _like_mmcv(Image, image, grey)
            # Pillow rotates TIFF itself and removes the orientation.
            pixels = _like_opencv(image, grey)
            return _turned(pixels, image.getexif().get(0x112)) if upright else pixels
    except _Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise _Unreadable('Pillow finds no image in it') from error
    except Exception as error:  # damaged files raise all kinds of errors
        raise _Unreadable(first_line(error)) from error


def _like_mmcv(Image: Any, image: Any, grey: bool) -> np.ndarray:
    """Decodes an opened image like MMCV's backend 'pillow'."""
    if image.mode == 'LA':  # MMCV's background colour, on which black is visible
        alpha = image.convert('RGBA')
        image = Image.new('RGB', alpha.size, (124, 117, 104))
        image.paste(alpha, mask=alpha.split()[3])
    image = image.convert('RGB')
    return np.array(image.convert('L'))[..., None] if grey else np.array(image)


def _differs(image: Any, grey: bool) -> bool:
    """Whether Pillow's pixels differ from OpenCV's and cannot be corrected."""
    kind, mode = image.format, image.mode
    if kind == 'TIFF':
        deep = max(image.tag_v2.get(258, (1,))) > 8
        return deep and mode == 'RGB'
    if kind == 'PPM':
        return image.tile[0][0] != 'raw'
    if kind == 'PNG':
        deep = ';16' in str(image.tile[:1]) and mode != 'I;16'
        moving = getattr(image, 'is_animated', False)
        return (grey and (deep or moving)) or bool(image.info.get('default_image'))
    return kind == 'GIF' and 'transparency' in image.info


def _like_opencv(image: Any, grey: bool) -> np.ndarray:
    """Decodes an opened image like OpenCV, without applying the orientation."""
    kind, mode = image.format, image.mode
    if mode not in _MODES[kind] or _differs(image, grey):
        raise _Unreadable(f'a {kind} of this kind ({mode}) needs OpenCV: {_OPENCV}')
    if mode in ('1', 'L', 'LA', 'I;16', 'I;16B'):
        deep = mode.startswith('I')
        pixels = np.asarray(image) >> 8 if deep else np.asarray(image.convert('L'))
        return np.stack([pixels.astype(np.uint8)] * (1 if grey else 3), -1)
    if kind == 'JPEG' and mode == 'CMYK':
        # Adobe stores inverted values, and Pillow inverts them back.
        ink = 255 - np.array(image, np.int32)
        black = ink[..., 3:]
        pixels = (black - ((255 - ink[..., :3]) * black >> 8)).astype(np.uint8)
    elif kind == 'JPEG' and grey:
        image.draft('L', None)  # the brightness channel of the file
        return np.array(image.convert('L'))[..., None]
    else:
        pixels = np.array(image.convert('RGB'))
    if not grey:
        return pixels
    weights, add, shift = _GREY.get(kind, _GREY_BY_OPENCV)
    brightness = pixels.astype(np.int32) @ np.array(weights, np.int32) + add
    return (brightness >> shift).astype(np.uint8)[..., None]


def _turned(pixels: np.ndarray, orientation: int | None) -> np.ndarray:
    """Rotates and mirrors an image according to the orientation in EXIF."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
