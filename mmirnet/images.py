"""Reading image files: one way for training, prediction and the runtime.

:func:`decode` takes the bytes of a file, as MMCV's ``imfrombytes`` does, and gives what
OpenCV makes of them: upright by the orientation in EXIF, alpha dropped, 16 bits reduced
to 8, palettes expanded, CMYK converted, the first frame of an animation. Without
OpenCV, Pillow reads the same formats to the same pixels; kinds where it cannot are
refused. ``library='pillow'`` is MMCV's own way with Pillow, for networks whose config
asks for it.

A file is refused, and named, if it is empty, no image, of floats, cut off, or has more
than 2**30 pixels (with Pillow, twice its ``MAX_IMAGE_PIXELS``).

Needs numpy, and OpenCV or Pillow.
"""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from .errors import MissingPackageError, first_line

#: What a folder of images is searched for.
SUFFIXES = frozenset(
    f'.{name}'
    for name in (
        *('avif', 'bmp', 'gif', 'j2k', 'jp2', 'jpe', 'jpeg', 'jpg'),
        *('pbm', 'pgm', 'png', 'pnm', 'ppm', 'tif', 'tiff', 'webp'),
    )
)
_OPENCV = 'pip install opencv-python-headless'
# Pillow's modes of each format whose pixels are made OpenCV's.
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
# Weights of R, G and B, what is added, and the shift: OpenCV's own for most, libpng's,
# and those of the decoders that convert while they read.
_GREY = {'PNG': ((9797, 19234, 3737), 0, 15)} | dict.fromkeys(
    ('JPEG', 'TIFF', 'BMP', 'PPM'), ((4899, 9617, 1868), 1 << 13, 14)
)
_GREY_BY_OPENCV = (9798, 19235, 3735), 1 << 14, 15


class _Unreadable(Exception):
    """Why bytes are no image; `read` adds the file."""


def opencv() -> Any | None:
    """OpenCV, if it is installed."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def pillow() -> Any:
    """Pillow's module ``Image``."""
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
    """The pixels of an image file.

    Args:
        path: The file.
        grey: Grey instead of RGB.
        library: 'cv2', or 'pillow' for what MMCV's backend of that name gives.
        upright: Turns and mirrors as the orientation in EXIF says.

    Returns:
        uint8 of shape (height, width, 3), RGB, or (height, width, 1).

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it is no image; the text names file and reason.
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
    """The pixels of an image file's bytes.

    Args:
        data: The bytes.
        name: What to call the file in an error.
        grey: See :func:`read`.
        library: See :func:`read`.
        upright: See :func:`read`.
        bgr: BGR instead of RGB.

    Returns:
        uint8 of shape (height, width, 3), RGB or BGR, or (height, width, 1).

    Raises:
        OSError: If they are no image; the text has the name and the reason.
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


# Markers of a JPEG that no segment follows.
_ALONE = {b'\xff', b'\x00', b'\x01', *(bytes([n]) for n in range(0xD0, 0xDA))}


def _check_complete(data: bytes) -> None:
    """Refuses a file without an end, as OpenCV 5 does.

    OpenCV 4 fills a JPEG up with grey, and Pillow takes a PNG.
    """
    if data[:8] == b'\x89PNG\r\n\x1a\n':
        end = data.rfind(b'IEND')
        if end < 0 or len(data) < end + 8:
            raise _Unreadable('it is cut off, a PNG without an end')
    if data[:2] != b'\xff\xd8':
        return
    # An end counts behind the start of the scan: previews before it have their own.
    at = 2
    while (at := data.find(b'\xff', at)) >= 0:
        marker = data[at + 1 : at + 2]
        if marker == b'\xda':
            break
        alone = marker in _ALONE
        at += 1 if alone else 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    if at < 0 or data.find(b'\xff\xd9', at) < 0:
        raise _Unreadable('it is cut off, a JPEG without an end')


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
            f'OpenCV {cv2.__version__} finds no whole image of whole numbers'
        )
    if image.dtype != np.uint8 or image.ndim != (2 if grey else 3):
        raise _Unreadable(f'OpenCV makes {image.dtype} of shape {image.shape} of it')
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
            # Pillow turns TIFF by itself, and forgets the orientation.
            pixels = _like_opencv(image, grey)
            return _turned(pixels, image.getexif().get(0x112)) if upright else pixels
    except _Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise _Unreadable('Pillow finds no image in it') from error
    except Exception as error:  # whatever a damaged file makes of its parser
        raise _Unreadable(first_line(error)) from error


def _like_mmcv(Image: Any, image: Any, grey: bool) -> np.ndarray:
    """An opened image as MMCV's backend 'pillow' gives it."""
    if image.mode == 'LA':  # on MMCV's colour, so that black things stay visible
        alpha = image.convert('RGBA')
        image = Image.new('RGB', alpha.size, (124, 117, 104))
        image.paste(alpha, mask=alpha.split()[3])
    image = image.convert('RGB')
    return np.array(image.convert('L'))[..., None] if grey else np.array(image)


def _differs(image: Any, grey: bool) -> bool:
    """Whether Pillow gives other pixels than OpenCV, of which it says too little."""
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
    """An opened image as OpenCV gives it, not yet upright."""
    kind, mode = image.format, image.mode
    if mode not in _MODES[kind] or _differs(image, grey):
        raise _Unreadable(f'a {kind} of this kind ({mode}) needs OpenCV: {_OPENCV}')
    if mode in ('1', 'L', 'LA', 'I;16', 'I;16B'):
        deep = mode.startswith('I')
        pixels = np.asarray(image) >> 8 if deep else np.asarray(image.convert('L'))
        return np.stack([pixels.astype(np.uint8)] * (1 if grey else 3), -1)
    if kind == 'JPEG' and mode == 'CMYK':
        # Adobe inverts them, and Pillow inverts them back.
        ink = 255 - np.array(image, np.int32)
        black = ink[..., 3:]
        pixels = (black - ((255 - ink[..., :3]) * black >> 8)).astype(np.uint8)
    elif kind == 'JPEG' and grey:
        image.draft('L', None)  # its own brightness
        return np.array(image.convert('L'))[..., None]
    else:
        pixels = np.array(image.convert('RGB'))
    if not grey:
        return pixels
    weights, add, shift = _GREY.get(kind, _GREY_BY_OPENCV)
    brightness = pixels.astype(np.int32) @ np.array(weights, np.int32) + add
    return (brightness >> shift).astype(np.uint8)[..., None]


def _turned(pixels: np.ndarray, orientation: int | None) -> np.ndarray:
    """An image turned and mirrored as EXIF says it is to be shown."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
