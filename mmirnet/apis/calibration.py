"""Images by which packed networks with 8-bit layers measure ranges."""

import os
from collections.abc import Iterator

import numpy as np
from mmengine.dataset import default_collate

from ..engine.facts import Facts, training_set
from ..errors import ConfigError
from ..packed.format import Packed
from ..packed.preparation import load_image, normalise
from ..runtime.predictions import image_files

#: Maximum number of images, evenly spaced over the available ones.
IMAGES = 128
_BATCH = 16


def calibration_images(
    facts: Facts, packed: Packed, folder: str | os.PathLike | None
) -> tuple[str, Iterator[np.ndarray]]:
    """Chooses images on which ranges are measured.

    Args:
        facts (Facts): Facts about the config and its checkpoint.
        packed (Packed): The network, which defines how files are prepared.
        folder (str | os.PathLike, optional): Images. Defaults to the config's training
            set, in the pipeline of its test set.

    Returns:
        tuple[str, Iterator[np.ndarray]]: A description, and batches of normalised
        images (N, C, H, W), which are read on demand.
    """
    if folder is not None:
        return f'images of {folder}', _of_folder(packed, folder)
    return 'images of the training set', _of_training_set(facts)


def _spaced_batches(count: int) -> list[list[int]]:
    """Returns batches of evenly spaced indices below ``count``."""
    indices = np.linspace(0, count - 1, min(IMAGES, count)).astype(int).tolist()
    return [indices[i : i + _BATCH] for i in range(0, len(indices), _BATCH)]


def _of_folder(packed: Packed, folder: str | os.PathLike) -> Iterator[np.ndarray]:
    if not os.path.isdir(folder):
        raise ConfigError(f'--calibrate {folder}: there is no such folder')
    files = [file for file in image_files([folder]) if file != str(folder)]
    if not files:
        raise ConfigError(f'--calibrate {folder}: there are no images in it')
    for batch in _spaced_batches(len(files)):
        images = (load_image(files[i], packed.input) for i in batch)
        yield np.stack([normalise(image, packed.input) for image in images])


def _of_training_set(facts: Facts) -> Iterator[np.ndarray]:
    dataset = training_set(facts.cfg)
    if dataset is None or not getattr(dataset, '_fully_initialized', True):
        raise ConfigError(
            '8 bits: ranges are measured on the training set, which is missing; name '
            'a folder of images with --calibrate'
        )
    for batch in _spaced_batches(len(dataset)):
        data = default_collate([dataset[i] for i in batch])
        yield facts.model.data_preprocessor(data, False)['inputs'].numpy()
