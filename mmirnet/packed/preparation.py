"""Reads and prepares image files for packed networks, by steps that are data.

``input`` of a packed file defines how an image file is read and prepared::

    {"order": "rgb",
     "read": {"library": "cv2", "upright": true, "float": false},
     "steps": [{"op": "resize_edge", "edge": "short", "size": 256,
                "interpolation": "bilinear", "library": "pillow"},
               {"op": "center_crop", "width": 224, "height": 224}]}

``order`` is that of the network's channels: ``rgb``, ``bgr``, ``grey``, or null for
a network that takes no image files. The images between the steps are RGB or grey.
:data:`STEPS` lists the steps. Each is a transform of MMCV or MMPretrain, with the same
calls, so that the pixels are the same. :func:`mmirnet.packed.pipelines.preparation`
derives the fields from a test pipeline.

Needs numpy, and OpenCV or Pillow if a step names them.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import DataError, MissingPackageError
from ..images import opencv, pillow, read

ORDERS = {'rgb': 3, 'bgr': 3, 'grey': 1, None: None}
LIBRARIES = ('cv2', 'pillow')
_MAX_SIDE = 1 << 15
_MAX_FACTOR = 64.0
_INTERPOLATIONS = {
    'cv2': ('nearest', 'bilinear', 'bicubic', 'area', 'lanczos'),
    'pillow': ('nearest', 'bilinear', 'bicubic', 'box', 'lanczos', 'hamming'),
}
_MODES = ('constant', 'edge', 'reflect', 'symmetric')


def _integer(low: int, high: int) -> tuple[Callable[[Any], bool], str]:
    def fits(value: Any) -> bool:
        return type(value) is int and low <= value <= high

    return fits, f'an integer in [{low}, {high}]'


def _optional(rule: tuple[Callable[[Any], bool], str]):
    return lambda value: value is None or rule[0](value), f'{rule[1]} or null'


def _one_of(*choices: str) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda value: isinstance(value, str) and value in choices,
        f'one of {", ".join(choices)}',
    )


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (1, 3)
        and all(type(v) in (int, float) and 0 <= v <= 255 for v in value)
    )


_SIDE = _integer(1, _MAX_SIDE)
_BOOL = (lambda value: type(value) is bool), 'a bool'
_FACTOR = (
    (lambda value: type(value) is float and 0 < value <= _MAX_FACTOR),
    f'a number in (0, {_MAX_FACTOR:g}]',
)
_COVER = (
    (lambda value: type(value) is float and 1 <= value <= 2),
    'a number in [1, 2]',
)
_RESIZING = {
    'interpolation': _one_of(*{n for names in _INTERPOLATIONS.values() for n in names}),
    'library': _one_of(*LIBRARIES),
}
#: The steps, with a check of each of their fields.
STEPS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    # To a size, or with keep_ratio to the largest size within it or its transpose.
    'resize': dict(width=_SIDE, height=_SIDE, keep_ratio=_BOOL, **_RESIZING),
    # By a factor for each side.
    'rescale': dict(x=_FACTOR, y=_FACTOR, keep_ratio=_BOOL, **_RESIZING),
    # One edge to a size, the other in proportion.
    'resize_edge': dict(
        edge=_one_of('short', 'long', 'width', 'height'), size=_SIDE, **_RESIZING
    ),
    # The centre; a smaller side stays as it is.
    'center_crop': dict(width=_SIDE, height=_SIDE),
    # The centre's share size / (size + padding) of the short edge, resized to size.
    'efficientnet_crop': dict(size=_SIDE, padding=_integer(0, _MAX_SIDE), **_RESIZING),
    # On the right and below, to a size, a multiple, or a square.
    'pad': dict(
        width=_optional(_SIDE),
        height=_optional(_SIDE),
        divisor=_optional(_SIDE),
        square=_BOOL,
        value=(_is_colour, 'a list of 1 or 3 numbers in [0, 255]'),
        mode=_one_of(*_MODES),
    ),
    # To a size, if no pipeline is known: pads an image that lacks at most `pad` pixels,
    # or else resizes it to cover `cover` times the size, and crops.
    'fit': dict(width=_SIDE, height=_SIDE, pad=_integer(0, 64), cover=_COVER),
}
MAX_STEPS = 64
#: Largest number of pixels between two steps.
MAX_PIXELS = 1 << 28


def default(channels: int, height: int, width: int) -> dict[str, Any]:
    """Returns the preparation for a network without a known pipeline.

    Images are read as RGB or grey, and the step ``fit`` brings them to size.

    Args:
        channels (int): Channels of the network. Image files need 1 or 3.
        height (int): Height of its images.
        width (int): Width of its images.

    Returns:
        dict[str, Any]: ``order``, ``read`` and ``steps``.

    Example:
        >>> default(3, 24, 32)['steps']
        [{'op': 'fit', 'width': 32, 'height': 24, 'pad': 4, 'cover': 1.0}]
        >>> [default(channels, 24, 32)['order'] for channels in (3, 1, 7)]
        ['rgb', 'grey', None]
    """
    order = {3: 'rgb', 1: 'grey'}.get(channels)
    pad, cover = (4, 1.0) if max(height, width) <= 64 else (0, 8 / 7)
    fit = {'op': 'fit', 'width': width, 'height': height, 'pad': pad, 'cover': cover}
    return {
        'order': order,
        'read': {'library': 'cv2', 'upright': True, 'float': False},
        'steps': [fit] if order else [],
    }


def check(spec: dict[str, Any], channels: int) -> str | None:
    """Checks ``order``, ``read`` and ``steps`` of a packed file.

    Args:
        spec (dict[str, Any]): A dict with these three fields, of any content.
        channels (int): Channels of the network.

    Returns:
        str | None: What is wrong, or None.

    Example:
        >>> spec = default(3, 24, 32)
        >>> check(spec, 3)
        >>> check(dict(spec, order='bgr'), 1)
        "order 'bgr' does not fit 1 channels"
    """
    order, reading, steps = spec['order'], spec['read'], spec['steps']
    if not (order is None or isinstance(order, str)) or order not in ORDERS:
        return f'order must be one of rgb, bgr, grey or null, not {order!r}'
    if ORDERS[order] not in (None, channels):
        return f'order {order!r} does not fit {channels} channels'
    wanted = {'library': _RESIZING['library'], 'upright': _BOOL, 'float': _BOOL}
    if why := _unfit(reading, wanted):
        return f'read: {why}'
    if not isinstance(steps, list) or len(steps) > MAX_STEPS:
        return f'steps must be a list of at most {MAX_STEPS}'
    for index, step in enumerate(steps):
        if why := _unfit_step(step):
            return f'steps[{index}]: {why}'
    return None


def _unfit(values: Any, wanted: dict) -> str | None:
    if not isinstance(values, dict) or set(values) != set(wanted):
        return f'fields must be {sorted(wanted)}'
    for name, (fits, what) in wanted.items():
        if not fits(values[name]):
            return f'{name} must be {what}, not {values[name]!r}'
    return None


def _unfit_step(step: Any) -> str | None:
    if not isinstance(step, dict):
        return 'not an object'
    op = step.get('op')
    if not isinstance(op, str) or op not in STEPS:
        return f'unknown step {op!r}'
    if why := _unfit(step, {'op': _one_of(op), **STEPS[op]}):
        return why
    names = _INTERPOLATIONS.get(step.get('library'), ())
    if names and step['interpolation'] not in names:
        return f'{step["library"]} has no interpolation {step["interpolation"]!r}'
    if op == 'pad' and (step['width'] is None) != (step['height'] is None):
        return 'width and height go together'
    return None


# --------------------------------------------------------------------------
# Doing it.


def load_image(path: str | os.PathLike, spec: dict[str, Any]) -> np.ndarray:
    """Reads an image file and prepares it for a packed network.

    Args:
        path (str | os.PathLike): The file.
        spec (dict[str, Any]): ``input`` of the packed network, ``session.input``.

    Returns:
        np.ndarray: uint8 of shape (height, width, channels), RGB or grey, for a batch
        of :meth:`mmirnet.runtime.Session.predict`. float32 if the network was trained
        on images that were resized in floating point.

    Raises:
        OSError: If the file is not an image; names the file and the reason.
        DataError: If the prepared image does not have the network's size, or if the
            network takes no image files.
        MissingPackageError: If a library that prepared the training images is missing.
    """
    if spec['order'] is None:
        raise DataError(
            f'cannot take {path}: the network has {spec["channels"]} channels, and its '
            'file does not say how they come from an image'
        )
    how = dict(spec['read'])
    floats = how.pop('float')
    pixels = read(path, grey=spec['order'] == 'grey', **how)
    try:
        pixels = prepare(pixels.astype(np.float32) if floats else pixels, spec['steps'])
    except DataError as error:
        raise DataError(f'cannot prepare image {path}: {error}') from None
    height, width = pixels.shape[:2]
    if (height, width) != (spec['height'], spec['width']):
        raise DataError(
            f'image {path} is {height}x{width} when it is prepared, the network takes '
            f'{spec["height"]}x{spec["width"]} (height x width)'
        )
    return pixels


def read_image(
    path: str | os.PathLike, size: tuple[int, int], channels: int = 3
) -> np.ndarray:
    """Reads an image file for a network without a known pipeline.

    An image of the requested size does not change. If it lacks at most 4 pixels in
    height and width, and the size is at most 64, it is padded with zeros, as
    Fashion-MNIST's 28x28 for 32x32. Other images are resized and cropped at the centre.
    They cover 8/7 of the size, the common evaluation protocol of ImageNet (256 for
    224), or the size itself up to 64 pixels.

    :func:`load_image` prepares a file as its packed network requires.

    Args:
        path (str | os.PathLike): The file.
        size (tuple[int, int]): Height and width of the result.
        channels (int): 3 for RGB, 1 for grey.

    Returns:
        np.ndarray: uint8 of shape (height, width, channels).

    Raises:
        OSError: If the file is not an image; names the file and the reason.
    """
    spec = default(channels, *size)
    return prepare(read(path, grey=channels == 1), spec['steps'])


def normalise(pixels: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    """Normalises the pixels of :func:`load_image`, as the data preprocessor does.

    ``Session.predict`` normalises uint8 itself, but not float32 pixels.

    Args:
        pixels (np.ndarray): (height, width, channels), RGB or grey.
        spec (dict[str, Any]): ``input`` of the packed network.

    Returns:
        np.ndarray: float32 of shape (channels, height, width), in the network's order.
    """
    if spec['order'] == 'bgr':
        pixels = pixels[..., ::-1]
    mean, std = (np.array(spec[name], np.float32) for name in ('mean', 'std'))
    return np.ascontiguousarray(
        ((pixels.astype(np.float32) - mean) / std).transpose(2, 0, 1)
    )


def prepare(pixels: np.ndarray, steps: Sequence[dict[str, Any]]) -> np.ndarray:
    """Applies steps to an image.

    Args:
        pixels (np.ndarray): uint8 or float32 of shape (height, width, channels), RGB or
            grey.
        steps (Sequence[dict]): Checked steps, see :data:`STEPS`.

    Returns:
        np.ndarray: The result, with the same type and number of channels.

    Raises:
        DataError: If a step would result in no pixels or in too many.
        MissingPackageError: If the library of a step is missing.

    Example:
        >>> crop = {'op': 'center_crop', 'width': 2, 'height': 1}
        >>> prepare(np.arange(12, dtype=np.uint8).reshape(3, 4, 1), [crop])[..., 0]
        array([[5, 6]], dtype=uint8)
    """
    channels = pixels.shape[2]
    # Grey images have two axes in OpenCV and Pillow.
    pixels = pixels[..., 0] if channels == 1 else pixels
    for step in steps:
        pixels = _DO[step['op']](pixels, step)
    return np.ascontiguousarray(pixels).reshape(*pixels.shape[:2], channels)


def _resized(pixels: np.ndarray, width: int, height: int, step: dict) -> np.ndarray:
    """Resizes like MMCV's ``imresize``."""
    _check_size(width, height)
    name = step['interpolation']
    if step['library'] == 'pillow':
        Image = pillow()
        resample = getattr(Image.Resampling, name.upper())
        if pixels.dtype != np.uint8:
            raise DataError('Pillow resizes no floats')
        return np.array(Image.fromarray(pixels).resize((width, height), resample))
    cv2 = opencv()
    if cv2 is None:
        raise MissingPackageError(
            'the images of this network were resized by OpenCV: '
            'pip install opencv-python-headless'
        )
    code = {'bilinear': 'LINEAR', 'bicubic': 'CUBIC', 'lanczos': 'LANCZOS4'}
    code = getattr(cv2, f'INTER_{code.get(name, name.upper())}')
    if pixels.ndim == 2 or pixels.dtype == np.uint8:
        return cv2.resize(pixels, (width, height), interpolation=code)
    # Rounding of floats depends on a channel's place, and training had BGR.
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    return cv2.resize(bgr, (width, height), interpolation=code)[..., ::-1]


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 1 or width * height > MAX_PIXELS:
        raise DataError(f'one step would make it {height}x{width}')


def _resize(pixels: np.ndarray, step: dict) -> np.ndarray:
    width, height = step['width'], step['height']
    if step['keep_ratio']:
        width, height = _within(pixels, width, height)
    return _resized(pixels, width, height, step)


def _within(pixels: np.ndarray, width: int, height: int) -> tuple[int, int]:
    """Returns the largest size in proportion within a size or its transpose."""
    sides = pixels.shape[1], pixels.shape[0]
    factor = min(
        max(width, height) / max(sides),
        min(width, height) / min(sides),
    )
    return _scaled(sides, factor, factor)


def _scaled(sides: tuple[int, int], x: float, y: float) -> tuple[int, int]:
    return int(sides[0] * x + 0.5), int(sides[1] * y + 0.5)


def _rescale(pixels: np.ndarray, step: dict) -> np.ndarray:
    size = _scaled((pixels.shape[1], pixels.shape[0]), step['x'], step['y'])
    if step['keep_ratio']:
        _check_size(*size)
        size = _within(pixels, *size)
    return _resized(pixels, *size, step)


def _resize_edge(pixels: np.ndarray, step: dict) -> np.ndarray:
    height, width = pixels.shape[:2]
    edge, size = step['edge'], step['size']
    if (
        edge == 'width'
        or (edge == 'short' and width < height)
        or (edge == 'long' and width > height)
    ):
        return _resized(pixels, size, int(size * height / width), step)
    return _resized(pixels, int(size * width / height), size, step)


def _center_crop(pixels: np.ndarray, step: dict) -> np.ndarray:
    height, width = pixels.shape[:2]
    # Python rounds halves to even, as MMCV does.
    top = max(0, round((height - step['height']) / 2))
    left = max(0, round((width - step['width']) / 2))
    return pixels[top : top + step['height'], left : left + step['width']]


def _efficientnet_crop(pixels: np.ndarray, step: dict) -> np.ndarray:
    height, width = pixels.shape[:2]
    size = step['size']
    side = size / (size + step['padding']) * min(height, width)
    top = max(0, round((height - side) / 2))
    left = max(0, round((width - side) / 2))
    bottom, right = int(top + side - 1), int(left + side - 1)
    return _resized(pixels[top : bottom + 1, left : right + 1], size, size, step)


def _pad(pixels: np.ndarray, step: dict) -> np.ndarray:
    height, width = pixels.shape[:2]
    wanted = step['height'] or height, step['width'] or width
    if step['square']:
        wanted = (max(height, width),) * 2
    if (divisor := step['divisor']) is not None:
        wanted = tuple(-(-side // divisor) * divisor for side in wanted)
    more = max(wanted[0] - height, 0), max(wanted[1] - width, 0)
    _check_size(width + more[1], height + more[0])
    pads = [(0, more[0]), (0, more[1])]
    if step['mode'] != 'constant':
        pads += [(0, 0)] * (pixels.ndim - 2)
        return np.pad(pixels, pads, step['mode'])
    values = np.array(step['value'], np.float64)
    if pixels.dtype == np.uint8:
        values = np.rint(values)
    channels = np.atleast_3d(pixels)
    padded = np.empty(
        (height + more[0], width + more[1], channels.shape[2]), pixels.dtype
    )
    padded[:] = values.astype(pixels.dtype)
    padded[:height, :width] = channels
    return padded.reshape(*padded.shape[:2], *pixels.shape[2:])


def _fit(pixels: np.ndarray, step: dict) -> np.ndarray:
    """See :func:`read_image`."""
    has, size = pixels.shape[:2], (step['height'], step['width'])
    lack = size[0] - has[0], size[1] - has[1]
    if all(0 <= n <= step['pad'] for n in lack):
        pads = [(n // 2, n - n // 2) for n in lack]
        return np.pad(pixels, pads + [(0, 0)] * (pixels.ndim - 2))
    scale = step['cover'] * max(size[0] / has[0], size[1] / has[1])
    height, width = (
        max(size[0], round(has[0] * scale)),
        max(size[1], round(has[1] * scale)),
    )
    if (height, width) != has:
        how = {'interpolation': 'bilinear', 'library': 'pillow'}
        pixels = _resized(pixels, width, height, how)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return pixels[top : top + size[0], left : left + size[1]]


_DO: dict[str, Callable[[np.ndarray, dict], np.ndarray]] = {
    'resize': _resize,
    'rescale': _rescale,
    'resize_edge': _resize_edge,
    'center_crop': _center_crop,
    'efficientnet_crop': _efficientnet_crop,
    'pad': _pad,
    'fit': _fit,
}
