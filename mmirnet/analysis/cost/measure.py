"""What a packed network costs: bytes of its file, seconds of an image."""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from ...packed import Packed, write
from ...runtime import Session


def packed_bytes(packed: Packed) -> int:
    """Size of the file that a packed network makes.

    Args:
        packed (Packed): The network.

    Returns:
        int: Bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.safetensors'
        write(packed, path)
        return path.stat().st_size


def seconds_an_image(session: Session) -> tuple[float, float, float]:
    """Quartiles of the time that the 1-bit runtime takes for one image.

    Of at least ten calls and half a second, after three that warm it up.

    Args:
        session (Session): The runtime, with its number of threads.

    Returns:
        tuple[float, float, float]: Seconds: first quartile, median, third quartile.
    """
    spec = session.input
    shape = 1, spec['height'], spec['width'], spec['channels']
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for _ in range(3):
        session.predict(image)
    times: list[float] = []
    while len(times) < 10 or sum(times) < 0.5:
        start = time.perf_counter()
        session.predict(image)
        times.append(time.perf_counter() - start)
    return tuple(statistics.quantiles(times, n=4))
