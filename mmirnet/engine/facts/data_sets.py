"""Builds the data sets of configs and inspects them."""

import inspect
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmpretrain.datasets import CIFAR10, MNIST, PackInputs
from torch import Tensor
from torch.utils.data import Dataset

from ...datasets import Digits, FashionMNIST32, InMemory
from ...errors import ConfigError, DataError, MissingPackageError, first_line
from ...registry import find_class
from ..config_checks import dataset_problems
from ..problems import report

_log = logging.getLogger('mmirnet')
# Image shapes of data sets that hold their images, for when the files are missing.
HELD_SHAPES = {
    CIFAR10: (32, 32, 3),
    FashionMNIST32: (32, 32, 3),
    Digits: (32, 32, 3),
    MNIST: (28, 28),
}
# Files with images of different sizes. A pipeline that gives these the same size gives
# all images this size.
FILE_SIZES = ((97, 161), (400, 300), (640, 641))
_SAMPLES = 16


def evaluation_set(cfg: Config) -> Dataset | None:
    """Builds the test set of a config, or else its validation set.

    Args:
        cfg (Config): The config.

    Returns:
        Dataset | None: The data set. If its files are missing, it has pipeline and
        classes, but no images. None if the config has no such data set.

    Raises:
        ConfigError: If there are several loaders.
        DataError: If data set and files contradict each other.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    for key in ('test_dataloader', 'val_dataloader'):
        loader = cfg.get(key)
        if isinstance(loader, Sequence):
            raise ConfigError(f'{key} is a list of {len(loader)}: only one is taken')
        if loader is not None:
            return build_dataset(loader['dataset'], f'{key}.dataset')
    return None


def training_set(cfg: Config) -> Dataset | None:
    """Builds the training set of a config, in the pipeline of its test set.

    Args:
        cfg (Config): The config.

    Returns:
        Dataset | None: The data set, as :func:`evaluation_set` builds it. None if the
        config has no such loader.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    loaders = [cfg.get(f'{name}_dataloader') for name in ('train', 'test', 'val')]
    specs = [loader['dataset'] for loader in loaders if isinstance(loader, dict)]
    if not isinstance(loaders[0], dict) or len(specs) < 2:
        return None
    spec = _with(specs[0], pipeline=_pipeline(specs[1]))
    return build_dataset(spec, 'train_dataloader.dataset')


def _pipeline(spec: dict) -> list:
    """The pipeline of a data set, or of the first one inside it."""
    while 'pipeline' not in spec and ('dataset' in spec or 'datasets' in spec):
        spec = spec['dataset'] if 'dataset' in spec else spec['datasets'][0]
    return spec.get('pipeline', [])


def build_dataset(spec: dict | Dataset, key: str) -> Dataset | None:
    """Builds a data set without downloads, with its images if they are available.

    Args:
        spec (dict | Dataset): Config of the data set. A data set is returned as it is.
        key (str): Its key in the config, for messages.

    Returns:
        Dataset | None: The data set, or None if it cannot be built without its files.

    Raises:
        ConfigError: If it has an unknown type or keyword.
        DataError: If data set and files contradict each other.
    """
    if not isinstance(spec, dict):
        return spec
    report(dataset_problems(key, spec))
    try:
        return DATASETS.build(_with(spec, download=False))
    except AssertionError as error:
        raise DataError(f'{key} cannot be built: {first_line(error)}') from error
    except (OSError, RuntimeError, MissingPackageError) as error:
        absent = error
    if find_class(DATASETS, spec['type']) is InMemory:
        spec = spec['dataset']  # whose images InMemory would read
    try:
        return DATASETS.build(_with(spec, download=False, lazy_init=True))
    except Exception:  # data sets without their files may raise anything
        _log.warning('%s is left out: %s', key, absent)
        return None


def _with(spec: dict, **arguments: Any) -> dict:
    """Adds arguments to the config of a data set and of all data sets inside it."""
    spec = dict(spec)
    kind = find_class(DATASETS, spec['type'])
    known = {
        name
        for base in getattr(kind, '__mro__', ())
        if '__init__' in vars(base)
        for name in inspect.signature(base.__init__).parameters
    }
    spec |= {name: value for name, value in arguments.items() if name in known}
    if isinstance(inner := spec.get('dataset'), dict):
        spec['dataset'] = _with(inner, **arguments)
    if isinstance(inner := spec.get('datasets'), list | tuple):
        spec['datasets'] = [
            _with(part, **arguments) if isinstance(part, dict) else part
            for part in inner
        ]
    return spec


def keyed_parts(dataset: Dataset, key: str) -> Iterator[tuple[str, Dataset]]:
    """Iterates over the data sets inside all wrappers, with their keys in the config.

    :func:`mmirnet.datasets.wrapped.leaves` does this for configs.

    Args:
        dataset (Dataset): The outermost data set.
        key (str): Key of the outermost data set.

    Yields:
        tuple[str, Dataset]: Key and data set.

    Example:
        >>> from torch.utils.data import ConcatDataset
        >>> [key for key, _ in keyed_parts(ConcatDataset([[1], [2]]), 'data')]
        ['data.datasets[0]', 'data.datasets[1]']
    """
    inner = getattr(dataset, '__dict__', {})  # SeededDataset forwards attributes
    if 'datasets' in inner:
        for i, part in enumerate(inner['datasets']):
            yield from keyed_parts(part, f'{key}.datasets[{i}]')
    elif 'dataset' in inner:
        seeded = type(dataset).__module__.startswith('mmirnet.')
        name = key if seeded else f'{key}.dataset'
        yield from keyed_parts(inner['dataset'], name)
    else:
        yield key, dataset


def parts(dataset: Dataset) -> list[Dataset]:
    """Returns the data sets inside wrappers (concatenated, repeated, divided, ...).

    Args:
        dataset (Dataset): The data set.

    Returns:
        list[Dataset]: The data sets, or the data set itself if it is no wrapper.
    """
    return [part for _, part in keyed_parts(dataset, '')]


def transforms(dataset: Dataset) -> list[Any]:
    """Returns the transforms of a data set's pipeline.

    Args:
        dataset (Dataset): The data set.

    Returns:
        list: The transforms in order. The first reads the file, unless the data set
        does.

    Raises:
        ConfigError: If there are none, or if wrapped data sets have different ones.
    """
    found = [own_transforms(part) for part in parts(dataset)]
    if any(repr(other) != repr(found[0]) for other in found[1:]):
        raise ConfigError(
            f'the {len(found)} parts of {type(dataset).__name__} prepare their images '
            f'in different ways; give them the same pipeline'
        )
    if not found[0]:
        raise ConfigError(f'{type(parts(dataset)[0]).__name__} has no pipeline')
    return found[0]


def own_transforms(part: Dataset) -> list[Any]:
    """Returns the transforms of a data set that is not a wrapper."""
    if isinstance(part, InMemory):  # its pipeline is for batches
        return [*part.reading, PackInputs()]
    return list(getattr(getattr(part, 'pipeline', None), 'transforms', []))


def check_single(sample: Any) -> None:
    """Refuses the output of a pipeline that is not one image, such as several views.

    Args:
        sample (Any): Output of the pipeline.

    Raises:
        ConfigError: If it has no image, or several.
    """
    inputs = sample.get('inputs') if isinstance(sample, dict) else None
    if not isinstance(inputs, Tensor) or inputs.ndim != 3:
        raise ConfigError(
            'the test pipeline does not give one image as inputs: it has to end in '
            'PackInputs, and test-time augmentation belongs into tta_pipeline'
        )


def samples(dataset: Dataset) -> Iterator[dict]:
    """Iterates over evenly spaced samples of a data set, or else generated ones.

    Args:
        dataset (Dataset): The data set.

    Yields:
        dict: Output of its pipeline.

    Raises:
        ConfigError: If its pipeline does not accept ordinary images.
    """
    found = 0
    if getattr(dataset, '_fully_initialized', True) and len(dataset):
        numbers = np.linspace(0, len(dataset) - 1, min(_SAMPLES, len(dataset)))
        for number in numbers.astype(int).tolist():
            try:
                sample = dataset[number]
            except Exception:  # errors in the data are reported elsewhere
                continue
            yield sample
            found += 1
    if found:
        return
    chain = mmcv.transforms.Compose(transforms(dataset))
    try:
        yield from (chain(given) for given in _made_up(dataset))
    except ConfigError:
        raise
    except Exception as error:  # transforms with missing inputs may raise anything
        raise ConfigError(
            'the size of the images cannot be determined without the test set '
            f'({type(error).__name__}: {first_line(error)}): name it with --size H W'
        ) from error


def held_shape(dataset: Dataset) -> tuple[int, ...] | None:
    """Returns the shape of the images in a data set; None if it reads files.

    Args:
        dataset (Dataset): The data set.

    Returns:
        tuple[int, ...] | None: Height, width and, if available, channels.
    """
    part = parts(dataset)[0]
    if isinstance(part, InMemory):
        shape = tuple(part.images.permute(0, 2, 3, 1).shape[1:])
        return None if part.reading else shape
    if getattr(part, '_fully_initialized', False) and len(part):
        image = part.get_data_info(0).get('img')
        return None if image is None else np.shape(image)
    return next((s for kind, s in HELD_SHAPES.items() if isinstance(part, kind)), None)


def _made_up(dataset: Dataset) -> Iterator[dict]:
    """Generates inputs for a data set's pipeline: files of three sizes, or an image.

    Args:
        dataset (Dataset): The data set.

    Yields:
        dict: ``img_path``, whose file exists until the next one is generated, or
        ``img``.
    """
    rng = np.random.default_rng(0)
    common = dict(gt_label=0, sample_idx=0)
    if (shape := held_shape(dataset)) is not None:
        yield dict(img=rng.integers(0, 256, shape, np.uint8), **common)
        return
    with tempfile.TemporaryDirectory() as folder:
        for number, shape in enumerate(FILE_SIZES):
            path = os.path.join(folder, f'{number}.png')
            mmcv.imwrite(rng.integers(0, 256, (*shape, 3), np.uint8), path)
            yield dict(img_path=path, **common)
