"""Facts about a config and its checkpoint, taken from the objects that they build.

A config defines how objects are built, but not their properties: the image size may
come from any transform of a pipeline, the classes from a folder, and the preprocessor
may be part of the model. This module builds model, data set and pipeline and inspects
them. If a fact cannot be determined, the error names the argument that sets it.
"""

import contextlib
import copy
import inspect
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmcv.transforms import Normalize
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.hooks import EMAHook
from mmengine.registry import DATASETS, HOOKS, init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.datasets import CIFAR10, MNIST, PackInputs
from mmpretrain.models import BaseSelfSupervisor, ImageClassifier
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..datasets import Digits, FashionMNIST32, InMemory
from ..errors import ConfigError, DataError, MissingPackageError, first_line
from ..registry import find_class
from .config_checks import check_config
from .labels import listed
from .weights import load_weights

_log = logging.getLogger('mmirnet')

#: Functions that classifiers use to compute scores from logits, see `head_kind`.
KINDS = {
    'softmax': lambda logits: logits.softmax(1),
    'sigmoid': lambda logits: logits.sigmoid(),
}
# Image shapes of data sets that hold their images, for when the files are missing.
_HELD = {
    CIFAR10: (32, 32, 3),
    FashionMNIST32: (32, 32, 3),
    Digits: (32, 32, 3),
    MNIST: (28, 28),
}
# Files with images of different sizes. A pipeline that gives these the same size gives
# all images this size.
_FILES = ((97, 161), (400, 300), (640, 641))
_SAMPLES = 16


@dataclass(frozen=True)
class Facts:
    """Facts about a trained classifier.

    Attributes:
        cfg (Config): The config.
        model (nn.Module): The model with the checkpoint's weights, in evaluation mode.
        dataset (Dataset | None): The test set, without images if its files are
            missing. None if the config has none.
        channels (int): Channels of the network's input.
        size (tuple[int, int]): Height and width of the input.
        outputs (int): Number of classes.
        classes (list[str] | None): Class names, if known.
        kind (str): Function from logits to scores: ``'softmax'`` or ``'sigmoid'``.
    """

    cfg: Config
    model: nn.Module
    dataset: Dataset | None
    channels: int
    size: tuple[int, int]
    outputs: int
    classes: list[str] | None
    kind: str


def gather(
    cfg: Config,
    checkpoint: str | None,
    *,
    size: tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
) -> Facts:
    """Collects the facts about a config and its checkpoint.

    Args:
        cfg (Config): The config, as returned by
            :func:`mmirnet.engine.config.load_config`.
        checkpoint (str | None): The checkpoint. None for a new network.
        size (tuple[int, int], optional): Height and width of the images. Defaults to
            the output size of the test set's pipeline.
        classes (Sequence[str], optional): Class names, or one text file with one name
            per line. Defaults to those of the checkpoint, or else of the data set.

    Returns:
        Facts: The facts.

    Raises:
        ConfigError: If a fact cannot be determined; names the argument that sets it.
        CheckpointError: If the checkpoint is damaged or does not fit.
        FileNotFoundError: If the checkpoint does not exist.

    Example:
        >>> from mmirnet.engine.config import load_config
        >>> config = 'mmirnet::irnet/resnet20_bireal_digits.py'
        >>> facts = gather(load_config(config, None, 'none'), None)
        >>> facts.channels, facts.size, facts.outputs, facts.kind
        (3, (32, 32), 10, 'softmax')
        >>> facts.classes
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
    """
    model = build_model(cfg, checkpoint)
    dataset = test_set(cfg)
    channels, size = image_shape(model, dataset, size)
    outputs, kind = head_kind(model, (channels, *size))
    names = class_names(model, dataset, outputs, classes)
    return Facts(cfg, model, dataset, channels, size, outputs, names, kind)


# --------------------------------------------------------------------------
# The model.


def build_model(cfg: Config, checkpoint: str | None) -> nn.Module:
    """Builds the model of a config with a checkpoint's weights, in evaluation mode.

    Args:
        cfg (Config): The config, as returned by ``load_config``.
        checkpoint (str | None): File or URL. None for the initial weights.

    Returns:
        nn.Module: The model. Its ``_dataset_meta`` has the class names of the
        checkpoint, as in MMPretrain.

    Raises:
        ValueError: If the checkpoint is damaged or of another architecture.
        FileNotFoundError: If the checkpoint does not exist.
    """
    check_config(cfg)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    spec = copy.deepcopy(cfg.model)  # building changes it
    if cfg.get('data_preprocessor') is not None:  # as in MMEngine's runner
        spec.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    model = MODELS.build(spec)
    if checkpoint is not None:
        loaded = load_weights(model, checkpoint)
        if 'ema_state_dict' in loaded and not _tests_averages(cfg):
            load_state_dict(model, _before_averaging(loaded['ema_state_dict']))
        model._dataset_meta = {'classes': checkpoint_classes(loaded)}
    return model.eval()


def _tests_averages(cfg: Config) -> bool:
    """Whether a run with ``EMAHook`` tests the averaged weights."""
    for spec in cfg.get('custom_hooks') or []:
        kind = spec.get('type') if isinstance(spec, dict) else type(spec)
        kind = find_class(HOOKS, kind)
        if isinstance(kind, type) and issubclass(kind, EMAHook):
            hook = HOOKS.build(dict(spec)) if isinstance(spec, dict) else spec
            return getattr(hook, 'evaluate_on_ema', True)
    return True


def _before_averaging(averaged: dict[str, Any]) -> dict[str, Any]:
    """Returns the weights before averaging; ``state_dict`` has the averages."""
    prefix = 'module.'
    return {
        name.removeprefix(prefix): weight
        for name, weight in averaged.items()
        if name.startswith(prefix)
    }


def predicts(model: nn.Module) -> bool:
    """Whether a model predicts; self-supervised models only learn features.

    Args:
        model (nn.Module): The model, without wrappers.

    Returns:
        bool: The answer.
    """
    headless = isinstance(model, ImageClassifier) and not model.with_head
    return not headless and not isinstance(model, BaseSelfSupervisor)


def head_kind(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, str]:
    """Determines the number of classes of a classifier and how it computes scores.

    The function sends one random image through the model and compares its scores with
    softmax and sigmoid of its logits.

    Args:
        model (nn.Module): A classifier of MMPretrain, in evaluation mode.
        shape (tuple[int, int, int]): Channels, height and width of an image.

    Returns:
        tuple[int, str]: Number of classes, and a key of :data:`KINDS`.

    Raises:
        ConfigError: If the network does not accept the image or has no class scores.
    """
    logits, score = logits_and_scores(model, shape)
    for kind, scores in KINDS.items():
        if torch.allclose(score, scores(logits), atol=1e-5):
            return score.shape[1], kind
    head = type(getattr(model, 'head', model)).__name__
    raise ConfigError(
        f'{head} makes its scores of logits neither by softmax nor by sigmoid'
    )


def logits_and_scores(
    model: nn.Module, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Computes the output of a classifier for a random image.

    Args:
        model (nn.Module): A classifier of MMPretrain, in evaluation mode.
        shape (tuple[int, int, int]): Channels, height and width of an image.

    Returns:
        tuple[Tensor, Tensor]: Logits and scores, both (1, classes).

    Raises:
        ConfigError: If the network does not accept the image or has no class scores.
    """
    name = type(model).__name__
    parameter = next(model.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        with takes(model, shape):
            image = torch.randn(1, *shape, generator=generator).to(parameter)
            logits = model(image)
        if isinstance(logits, dict):
            raise ConfigError(
                f'{type(model.head).__name__} answers {len(logits)} questions of an '
                f'image ({", ".join(logits)}); only one score for each class is taken'
            )
        if not predicts(model) or not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ConfigError(f'{name} gives features, not one score for each class')
        (sample,) = model(image, mode='predict')
    score = sample.get('pred_score')
    if score is None or score.shape != logits.shape[1:]:
        raise ConfigError(f'{name} gives no score for each of its outputs')
    return logits, score[None]


@contextlib.contextmanager
def takes(model: nn.Module, shape: tuple[int, int, int]) -> Iterator[None]:
    """Reports the image size if the model in this context does not accept it.

    Args:
        model (nn.Module): The model that runs in the context.
        shape (tuple[int, int, int]): Channels, height and width of the image.

    Raises:
        ConfigError: If the code in the context fails as torch does on a wrong shape, or
            runs out of memory.
    """
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        size = 'x'.join(map(str, shape))
        raise ConfigError(
            f'{type(model).__name__} does not take an image of {size} (channels, '
            f'height, width): {first_line(error)}; another size is --size H W'
        ) from error


def check_classifies(model: nn.Module, dataset: Dataset) -> None:
    """Refuses a model that does not classify (retrieval, several tasks, ...).

    Args:
        model (nn.Module): The model.
        dataset (Dataset): The data set, which defines the model's images.

    Raises:
        ConfigError: If the network has no class scores; names the model.
    """
    try:
        shapes = _shapes(model, dataset)
    except ConfigError:  # problems of single files are reported later
        return
    logits_and_scores(model, min(shapes))


# --------------------------------------------------------------------------
# The data set.


def test_set(cfg: Config) -> Dataset | None:
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


# Not a test for pytest.
test_set.__test__ = False


def build_dataset(spec: dict | Dataset, key: str) -> Dataset | None:
    """Builds a data set without downloads, with its images if they are available.

    Args:
        spec (dict | Dataset): Config of the data set. A data set is returned as it is.
        key (str): Its key in the config, for messages.

    Returns:
        Dataset | None: The data set, or None if it cannot be built without its files.

    Raises:
        DataError: If data set and files contradict each other.
    """
    if not isinstance(spec, dict):
        return spec
    try:
        return DATASETS.build(_with(spec, download=False))
    except AssertionError as error:
        raise DataError(f'{key} cannot be built: {first_line(error)}') from error
    except (OSError, RuntimeError, MissingPackageError) as error:
        absent = error
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


def leaves(key: str, dataset: Dataset) -> Iterator[tuple[str, Dataset]]:
    """Iterates over the data sets inside all wrappers, with their keys in the config.

    Args:
        key (str): Key of the outermost data set.
        dataset (Dataset): The outermost data set.

    Yields:
        tuple[str, Dataset]: Key and data set.

    Example:
        >>> from torch.utils.data import ConcatDataset
        >>> [key for key, _ in leaves('data', ConcatDataset([[1], [2]]))]
        ['data.datasets[0]', 'data.datasets[1]']
    """
    inner = getattr(dataset, '__dict__', {})  # SeededDataset forwards attributes
    if 'datasets' in inner:
        for i, part in enumerate(inner['datasets']):
            yield from leaves(f'{key}.datasets[{i}]', part)
    elif 'dataset' in inner:
        seeded = type(dataset).__module__.startswith('mmirnet.')
        name = key if seeded else f'{key}.dataset'
        yield from leaves(name, inner['dataset'])
    else:
        yield key, dataset


def parts(dataset: Dataset) -> list[Dataset]:
    """Returns the data sets inside wrappers (concatenated, repeated, divided, ...).

    Args:
        dataset (Dataset): The data set.

    Returns:
        list[Dataset]: The data sets, or the data set itself if it is no wrapper.
    """
    return [part for _, part in leaves('', dataset)]


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
    found = [_transforms(part) for part in parts(dataset)]
    if any(repr(other) != repr(found[0]) for other in found[1:]):
        raise ConfigError(
            f'the {len(found)} parts of {type(dataset).__name__} prepare their images '
            f'in different ways; give them the same pipeline'
        )
    if not found[0]:
        raise ConfigError(f'{type(parts(dataset)[0]).__name__} has no pipeline')
    return found[0]


def _transforms(part: Dataset) -> list[Any]:
    if isinstance(part, InMemory):  # its pipeline is for batches
        return [*part.reading, PackInputs()]
    return list(getattr(getattr(part, 'pipeline', None), 'transforms', []))


def image_shape(
    model: nn.Module, dataset: Dataset | None, size: tuple[int, int] | None = None
) -> tuple[int, tuple[int, int]]:
    """Determines channels and size of the network's images.

    The function sends images of the test set through its pipeline and the model's
    preprocessor. If they are missing, it uses generated images of three sizes.

    Args:
        model (nn.Module): The model.
        dataset (Dataset | None): The test set.
        size (tuple[int, int], optional): Height and width, if known.

    Returns:
        tuple[int, tuple[int, int]]: Channels, and (height, width).

    Raises:
        ConfigError: If the size depends on the image or cannot be determined.
    """
    if size is not None and min(size) < 1:
        raise ConfigError(f'--size {size[0]} {size[1]}: an image has 1 pixel or more')
    try:
        shapes = _shapes(model, dataset)
    except ConfigError:
        if size is None:
            raise
        return _first_channels(model), size
    channels = {shape[0] for shape in shapes}
    sizes = {tuple(shape[1:]) for shape in shapes}
    if len(channels) > 1:
        raise ConfigError(f'images have {_several(channels)} channels')
    if size is None and len(sizes) > 1:
        given = _several('x'.join(map(str, hw)) for hw in sizes)
        raise ConfigError(
            f'the size of the images depends on the file: the pipeline gives {given} '
            f'(height x width); name one with --size H W, or resize in the pipeline'
        )
    return channels.pop(), size or sizes.pop()


def _several(values: Any) -> str:
    return ', '.join(sorted(map(str, values))[:4])


def _shapes(model: nn.Module, dataset: Dataset | None) -> set[tuple[int, int, int]]:
    """Returns the shapes of the network's inputs."""
    if dataset is None:
        raise ConfigError(
            'the config has no test set to ask for the size of the images: '
            'name it with --size H W'
        )
    shapes = set()
    for sample in samples(dataset):
        check_single(sample)
        batch = model.data_preprocessor(default_collate([sample]), False)
        shapes.add(tuple(batch['inputs'].shape[1:]))
    return shapes


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
            'the size of the images cannot be told without the test set '
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
    return next((s for kind, s in _HELD.items() if isinstance(part, kind)), None)


def turns(model: nn.Module) -> bool:
    """Whether a model's data preprocessor reverses the three channels of an image.

    Args:
        model (nn.Module): The model.

    Returns:
        bool: The answer, determined with two images that differ in the first channel.
    """
    black, marked = np.zeros((2, 1, 1, 3), np.uint8)
    marked[..., 0] = 255
    batch = default_collate([PackInputs()(dict(img=img)) for img in (black, marked)])
    one, other = model.data_preprocessor(batch, False)['inputs']
    return (one != other).flatten(1).any(1).nonzero().flatten().tolist() == [2]


def held_order(dataset: Dataset, turned: bool = False) -> str:
    """Determines the channel order of the images in a data set.

    CIFAR-10, the digits and Fashion-MNIST have RGB images. For other data sets, the
    data preprocessor decides: BGR if it reverses the channels.

    Args:
        dataset (Dataset): A data set that holds its images.
        turned (bool): Whether the data preprocessor reverses the order. Defaults to
            False.

    Returns:
        str: ``'rgb'`` or ``'bgr'``, or ``'grey'`` unless there are three channels.
    """
    if held_shape(dataset)[2:] != (3,):
        return 'grey'
    known = isinstance(parts(dataset)[0], tuple(_HELD))
    return 'bgr' if turned and not known else 'rgb'


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
        for number, shape in enumerate(_FILES):
            path = os.path.join(folder, f'{number}.png')
            mmcv.imwrite(rng.integers(0, 256, (*shape, 3), np.uint8), path)
            yield dict(img_path=path, **common)


def normalised_twice(dataset: Dataset, model: nn.Module) -> bool:
    """Whether both the pipeline and the model's preprocessor normalise the images.

    Args:
        dataset (Dataset): The data set.
        model (nn.Module): The model, without wrappers.

    Returns:
        bool: The answer.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    if not isinstance(getattr(preprocessor, 'mean', None), Tensor):
        return False
    return any(isinstance(t, Normalize) for p in parts(dataset) for t in _transforms(p))


def channel_order(dataset: Dataset, turned: bool = False) -> str:
    """Determines the channel order of the output of a data set's pipeline.

    The function sends a red and a blue file through the pipeline. For data sets that
    hold their images, see :func:`held_order`.

    Args:
        dataset (Dataset): The data set.
        turned (bool): Whether the data preprocessor reverses the order. Defaults to
            False.

    Returns:
        str: ``'rgb'`` or ``'bgr'``, or ``'grey'`` unless there are three channels.

    Raises:
        ConfigError: If the pipeline does not read files.

    Example:
        >>> channel_order(Digits(split='test', pipeline=[dict(type='PackInputs')]))
        'rgb'
    """
    if held_shape(dataset) is not None:
        return held_order(dataset, turned)
    chain = mmcv.transforms.Compose(transforms(dataset))
    sums = []
    with tempfile.TemporaryDirectory() as folder:
        for colour in ((0, 0, 255), (255, 0, 0)):  # red and blue, written as BGR
            path = os.path.join(folder, 'colour.png')
            mmcv.imwrite(np.full((*_FILES[1], 3), colour, np.uint8), path)
            inputs = chain(dict(img_path=path, gt_label=0, sample_idx=0))['inputs']
            sums.append(inputs.double().sum((1, 2)))
    if len(sums[0]) != 3:
        return 'grey'
    return 'rgb' if sums[0][0] > sums[1][0] else 'bgr'


def _first_channels(model: nn.Module) -> int:
    """Returns the input channels of the first convolution."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ConfigError(f'{type(model).__name__} has no convolution to ask for channels')


# --------------------------------------------------------------------------
# The classes.


def checkpoint_classes(checkpoint: dict) -> list[str] | None:
    """Returns the class names that a checkpoint stores.

    Args:
        checkpoint (dict): The loaded checkpoint.

    Returns:
        list[str] | None: The names, if available.
    """
    meta = checkpoint.get('meta') or {}
    return _texts((meta.get('dataset_meta') or meta).get('classes')) or _texts(
        (meta.get('dataset_meta') or meta).get('CLASSES')  # MMClassification 0.x
    )


def dataset_classes(dataset: Dataset | None) -> list[str] | None:
    """Returns the class names of a data set.

    Args:
        dataset (Dataset | None): The data set.

    Returns:
        list[str] | None: The names, if available.
    """
    for part in () if dataset is None else (dataset, *parts(dataset)):
        metainfo = getattr(part, 'metainfo', None) or {}
        if names := _texts(metainfo.get('classes') or getattr(part, 'classes', None)):
            return names
    return None


def class_names(
    model: nn.Module,
    dataset: Dataset | None,
    outputs: int,
    given: Sequence[str] | None = None,
) -> list[str] | None:
    """Determines the name of each output of a classifier.

    Given names come first, then those of the checkpoint, then those of the data set. If
    checkpoint and data set differ, a warning names the difference.

    Args:
        model (nn.Module): Output of :func:`build_model`.
        dataset (Dataset | None): The data set.
        outputs (int): Number of classes of the network.
        given (Sequence[str], optional): Names, or one text file with one name per line.

    Returns:
        list[str] | None: One name per output; outputs without a class are named by
        their number. None if no names are known.

    Raises:
        ConfigError: If there are more names than outputs.
    """
    if given:
        return named(given, outputs)
    trained = (getattr(model, '_dataset_meta', None) or {}).get('classes')
    here = dataset_classes(dataset)
    if trained and here and (difference := class_difference(trained, here)):
        _log.warning(
            'the test set has other classes than the checkpoint: %s; the names are '
            "the checkpoint's, --classes gives others",
            difference,
        )
    names = trained or here
    if names is not None and len(names) > outputs:
        whose = 'checkpoint' if trained else 'data set'
        raise ConfigError(
            f'the {whose} has {len(names)} classes, the network has {outputs}: '
            f'name them with --classes'
        )
    if names is None:
        return None
    return names + [f'class {i}' for i in range(len(names), outputs)]


def named(given: Sequence[str], outputs: int) -> list[str]:
    """Returns the class names of a command line.

    Args:
        given (Sequence[str]): The names, or one text file with one name per line.
        outputs (int): Number of classes of the network.

    Returns:
        list[str]: The names.

    Raises:
        ConfigError: If the number of names is wrong.

    Example:
        >>> named(['cat', 'dog'], 2)
        ['cat', 'dog']
    """
    names = list(given)
    if len(given) == 1 and Path(given[0]).is_file():
        try:
            lines = Path(given[0]).read_text(encoding='utf-8-sig').splitlines()
        except UnicodeDecodeError as error:
            raise ConfigError(
                f'--classes {given[0]} is no text in UTF-8: {error.reason} in byte '
                f'{error.start}'
            ) from error
        names = [line.strip() for line in lines if line.strip()]
    elif len(given) == 1 < outputs:
        raise ConfigError(
            f'--classes {given[0]}: there is no such file, and the network has '
            f'{outputs} classes'
        )
    if len(names) != outputs:
        raise ConfigError(
            f'--classes names {len(names)} classes, the network has {outputs}'
        )
    return names


def class_difference(one: Sequence[str], other: Sequence[str]) -> str:
    """Describes the difference between two lists of classes; empty if they are equal.

    Args:
        one (Sequence[str]): Class names.
        other (Sequence[str]): Class names that should be the same.

    Returns:
        str: The description.

    Example:
        >>> class_difference(['cat', 'dog'], ['cat', 'cow'])
        "'dog' is missing, 'cow' is new"
        >>> class_difference(['cat', 'dog'], ['dog', 'cat'])
        "number 0 is 'dog', not 'cat'"
    """
    one, other = list(map(str, one)), list(map(str, other))
    missing = [name for name in one if name not in other]
    new = [name for name in other if name not in one]
    words = [
        f'{listed(names)} {"is" if len(names) == 1 else "are"} {what}'
        for names, what in ((missing, 'missing'), (new, 'new'))
        if names
    ]
    if not words:
        moved = [i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
        words = [f'number {i} is {other[i]!r}, not {one[i]!r}' for i in moved[:1]]
    return ', '.join(words)


def _texts(names: Any) -> list[str] | None:
    return [str(name) for name in names] if names is not None else None
