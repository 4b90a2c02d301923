"""What a packed network costs: bytes of its file, seconds of an image."""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from .. import deploy


def packed_bytes(packed: deploy.Packed) -> int:
    """Size of the file that a packed network makes.

    Args:
        packed (Packed): The network.

    Returns:
        int: Bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.safetensors'
        deploy.write(packed, path)
        return path.stat().st_size


def engine_seconds(engine: deploy.Engine) -> tuple[float, float, float]:
    """Quartiles of the time that the 1-bit engine takes for one image.

    Of at least ten calls and half a second, after three that warm it up.

    Args:
        engine (Engine): The engine, with its number of threads.

    Returns:
        tuple[float, float, float]: Seconds: first quartile, median, third quartile.
    """
    spec = engine.input
    shape = 1, spec['height'], spec['width'], spec['channels']
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for _ in range(3):
        engine.predict(image)
    times: list[float] = []
    while len(times) < 10 or sum(times) < 0.5:
        start = time.perf_counter()
        engine.predict(image)
        times.append(time.perf_counter() - start)
    return tuple(statistics.quantiles(times, n=4))
