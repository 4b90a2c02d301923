"""Reading image files for the engine."""

import os

import numpy as np


def read_image(
    path: str | os.PathLike, size: tuple[int, int], channels: int = 3
) -> np.ndarray:
    """An image file as the engine takes it.

    Resizes the image to cover 8/7 of the size, the common evaluation protocol
    of ImageNet (256 for 224), and cuts out the centre; images up to 64 pixels
    wide are resized to cover the size itself.

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
        raise ImportError('reading images needs Pillow: pip install pillow') from error
    height, width = size
    with Image.open(path) as file:
        image = file.convert('L' if channels == 1 else 'RGB')
    border = 8 / 7 if max(size) > 64 else 1.0
    scale = border * max(height / image.height, width / image.width)
    resized = (
        max(width, round(image.width * scale)),
        max(height, round(image.height * scale)),
    )
    image = image.resize(resized, Image.Resampling.BILINEAR)
    left, top = (resized[0] - width) // 2, (resized[1] - height) // 2
    image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, np.uint8).reshape(height, width, -1)
