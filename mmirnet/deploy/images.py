"""Reading image files for the engine."""

import os

import numpy as np

from ..errors import MissingPackageError

_PADDED = 4


def read_image(
    path: str | os.PathLike, size: tuple[int, int], channels: int = 3
) -> np.ndarray:
    """An image file as the engine takes it.

    Resizes the image to cover 8/7 of the size, the common evaluation protocol
    of ImageNet (256 for 224), and cuts out the centre. For sizes up to 64 pixels it
    covers the size itself; an image that lacks at most 4 pixels in height and width
    is padded with zeros, as Fashion-MNIST's 28x28 are for 32x32.

    Args:
        path: Any file that Pillow reads.
        size: Height and width wanted.
        channels: 3 for RGB, 1 for grey.

    Returns:
        uint8 of shape (height, width, channels).

    Raises:
        ImportError: If Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError(
            'reading images needs Pillow: pip install pillow'
        ) from error
    height, width = size
    with Image.open(path) as file:
        image = file.convert('L' if channels == 1 else 'RGB')
    small = max(size) <= 64
    lack = height - image.height, width - image.width
    if small and all(0 <= pixels <= _PADDED for pixels in lack):
        before = lack[0] // 2, lack[1] // 2
        pads = [(b, n - b) for b, n in zip(before, lack, strict=True)]
        pixels = np.asarray(image, np.uint8).reshape(image.height, image.width, -1)
        return np.pad(pixels, [*pads, (0, 0)])
    border = 1.0 if small else 8 / 7
    scale = border * max(height / image.height, width / image.width)
    resized = (
        max(width, round(image.width * scale)),
        max(height, round(image.height * scale)),
    )
    image = image.resize(resized, Image.Resampling.BILINEAR)
    left, top = (resized[0] - width) // 2, (resized[1] - height) // 2
    image = image.crop((left, top, left + width, top + height))
    return np.array(image, np.uint8).reshape(height, width, -1)
