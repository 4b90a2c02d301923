"""Builds the networks of configs and inspects them."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models import BaseSelfSupervisor, ImageClassifier
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...errors import ConfigError, first_line
from ...registry import find_class
from ..changes import warn_of_changes
from ..config_checks import check_config
from ..weights import load_weights
from .classes import checkpoint_classes
from .data_sets import check_single, samples

#: Functions that classifiers use to compute scores from logits, see `head_kind`.
KINDS = {
    'softmax': lambda logits: logits.softmax(1),
    'sigmoid': lambda logits: logits.sigmoid(),
}


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
        warn_of_changes(loaded, cfg, checkpoint)
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
        with reporting_size(model, shape):
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
def reporting_size(model: nn.Module, shape: tuple[int, int, int]) -> Iterator[None]:
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


def _first_channels(model: nn.Module) -> int:
    """Returns the input channels of the first convolution."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ConfigError(f'{type(model).__name__} has no convolution to ask for channels')
