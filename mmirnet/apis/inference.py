"""Classifies image files with a trained model, given by name or file."""

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.dataset import default_collate
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmpretrain.datasets import PackInputs
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer
from torch.utils.data import Dataset

from ..engine.config import load_config
from ..engine.facts import (
    build_model,
    check_classifies,
    check_single,
    class_names,
    evaluation_set,
    given_classes,
    image_shape,
    reverses_channels,
    transforms,
)
from ..errors import ConfigError, DataError, MissingPackageError, first_line
from ..files import check_writable, write_atomic
from ..images import read
from ..packed.packing import describe_head
from ..packed.pipelines import held_images
from ..packed.preparation import prepare
from ..runtime import load, load_image
from ..runtime.predictions import (
    Failed,
    check_topk,
    classify,
    each,
    image_files,
    result,
)
from .packing import packed_classifier

# Minimum short edge of drawn pictures, so that the text does not cover them.
_SHORT_EDGE = 224
_LONGEST_SHORT_EDGE = 1024


def infer(
    images: Sequence[str],
    model: str,
    *,
    checkpoint: str | None = None,
    runtime: bool = False,
    classes: Sequence[str] | None = None,
    topk: int = 5,
    out: str | os.PathLike | None = None,
    show_dir: str | os.PathLike | None = None,
    failed: Failed | None = None,
) -> list[dict[str, Any]]:
    """Classifies image files.

    Args:
        images (Sequence[str]): Files, folders of images, and patterns such as
            ``photos/*.jpg``. They are prepared by the test pipeline of the config,
            which packed files contain. If the data set holds its images in memory,
            files are resized to their size, see :func:`mmirnet.runtime.read_image`.
        model (str): A name in the zoo, a packed file (``.safetensors``), or the
            config of ``checkpoint``.
        checkpoint (str, optional): A checkpoint, packed or not.
        runtime (bool): Run a packed file on the 1-bit runtime instead of torch.
            Defaults to False.
        classes (Sequence[str], optional): Class names. Defaults to those of the packed
            file or the checkpoint, or else of the config's data set.
        topk (int): Number of classes to return. Defaults to 5.
        out (str | os.PathLike, optional): JSON file for the results.
        show_dir (str | os.PathLike, optional): Folder for the images with their most
            probable classes.
        failed (Callable, optional): Called with each file that cannot be read or does
            not fit, and with the reason. The other files are classified. Without it,
            the first such file raises an error.

    Returns:
        list[dict]: For each image its path ``image`` and the most probable classes
        ``top``, with ``label``, ``class`` and ``score``. For a multi-label network also
        ``predicted``, the predicted labels.

    Raises:
        ValueError: If ``runtime`` is set without a packed file, if a config is given
            without a checkpoint, or if a file is damaged.
        OSError: If a file does not exist or is not an image.
        DataError: If an image does not fit the network.

    Example:
        >>> infer(['boot.png'], 'resnet20_bireal_fashionmnist')  # doctest: +SKIP
    """
    check_topk(topk)
    if out is not None:
        check_writable(out, model, checkpoint, *images)
    if show_dir is not None:
        Path(show_dir).mkdir(parents=True, exist_ok=True)
    packed = _packed_file(model, checkpoint)
    if runtime and packed is None:
        raise ConfigError(f'--runtime needs a packed file, not {checkpoint}')
    paths = image_files(images)
    if runtime:
        found = _on_the_runtime(packed, paths, failed)
    elif packed is not None:
        found = _in_simulation(packed, paths, failed)
    else:
        found = _of_checkpoint(model, checkpoint, paths, failed)
    results = []
    for path, scores in found.rows:
        n = len(scores)
        names = given_classes(classes, n) if classes else found.names(n)
        results.append(result(path, scores, names, topk, found.head))
        if show_dir is not None:
            _draw(path, scores, results, names, Path(show_dir))
    if out is not None:
        write_atomic(out, (json.dumps(results, indent=1) + '\n').encode())
    return results


class _Scores(NamedTuple):
    """Scores of image files, and what they mean."""

    rows: Iterator[tuple[str, np.ndarray]]  # file and scores, computed one by one
    head: dict[str, Any]  # as in a packed file
    names: Callable[[int], list[str] | None]  # number of classes -> their names


def _on_the_runtime(
    packed: str | Path, paths: list[str], failed: Failed | None
) -> _Scores:
    session = load(packed)
    rows = classify(session, paths, failed)
    return _Scores(rows, session.packed.head, lambda n: session.classes)


def _in_simulation(
    packed: str | Path, paths: list[str], failed: Failed | None
) -> _Scores:
    classifier = packed_classifier(packed)
    network = classifier.backbone.network.packed
    rows = each(paths, _simulation(classifier, network.input), failed)
    return _Scores(rows, network.head, lambda n: network.classes)


def _of_checkpoint(
    config: str, checkpoint: str, paths: list[str], failed: Failed | None
) -> _Scores:
    cfg = load_config(config, None, 'none')
    classifier, dataset = build_model(cfg, checkpoint), evaluation_set(cfg)
    if dataset is None:
        raise ConfigError(
            f'--model {config}: without a test set the config does not say how '
            'images are prepared; pack the checkpoint, with --size H W'
        )
    check_classifies(classifier, dataset)
    rows = each(paths, _pipeline(classifier, dataset), failed)
    # Cached, as it may warn.
    names = functools.cache(functools.partial(class_names, classifier, dataset))
    return _Scores(rows, describe_head(classifier), names)


def _packed_file(model: str, checkpoint: str | None) -> str | Path | None:
    """Returns the packed file that the arguments name, or None."""
    if checkpoint is not None:
        if model.endswith('.safetensors'):
            raise ConfigError(
                f'--model {model} is a packed file, which has weights of its own: '
                f'leave out --checkpoint {checkpoint}, or give its config as --model'
            )
        return checkpoint if checkpoint.endswith('.safetensors') else None
    if model.endswith('.safetensors'):
        return model
    if model.endswith('.py'):
        raise ConfigError(f'--model {model}: a config needs --checkpoint FILE')
    if Path(model).exists() or model.endswith(('.pth', '.pt', '.ckpt')):
        raise ConfigError(
            f'--model {model} is no packed file (.safetensors); a checkpoint goes '
            'with its config: --model CONFIG --checkpoint FILE'
        )
    from ..zoo import fetch  # may need a network

    return fetch(model)


# Computes the scores of one file.
_Work = Callable[[str], np.ndarray]


def _predict(classifier: BaseModel, sample: dict) -> np.ndarray:
    with torch.no_grad():
        (found,) = classifier.test_step(default_collate([sample]))
    return found.pred_score.cpu().numpy()


def _simulation(classifier: BaseModel, spec: dict[str, Any]) -> _Work:
    """Uses a packed network in torch."""
    classifier.to(get_device())
    pack = PackInputs()
    return lambda path: _predict(classifier, pack(dict(img=load_image(path, spec))))


def _pipeline(classifier: BaseModel, dataset: Dataset) -> _Work:
    """Uses a checkpoint, with the test pipeline of the config."""
    classifier.to(get_device())
    pipeline = Compose(transforms(dataset))
    held = held_images(dataset, reverses_channels(classifier))

    def work(path: str) -> np.ndarray:
        try:
            given = {'img_path': path} if held is None else {'img': _held(path, held)}
            sample = pipeline(dict(given, sample_idx=0))
        except (OSError, MissingPackageError):
            raise
        except Exception as error:  # transforms may raise anything for odd images
            raise DataError(
                f'cannot prepare image {path}: {first_line(error)}'
            ) from error
        check_single(sample)
        try:
            return _predict(classifier, sample)
        except RuntimeError as error:
            shape = tuple(sample['inputs'].shape)
            if shape == _usual_shape(classifier, dataset):
                raise
            raise DataError(
                f'image {path} is {"x".join(map(str, shape))} when it is prepared, '
                f'which the network does not take: {first_line(error)}'
            ) from error

    return work


def _usual_shape(classifier: BaseModel, dataset: Dataset) -> tuple | None:
    try:
        channels, size = image_shape(classifier, dataset)
    except ConfigError:
        return None
    return (channels, *size)


def _held(path: str, held: tuple[str, list[dict]]) -> np.ndarray:
    """Reads a file like an image that the data set holds in memory."""
    order, steps = held
    image = prepare(read(path, grey=order == 'grey'), steps)
    if order == 'grey':
        return image[..., 0]
    return np.ascontiguousarray(image[..., ::-1]) if order == 'bgr' else image


def _draw(
    path: str,
    scores: np.ndarray,
    results: list[dict],
    classes: list[str] | None,
    folder: Path,
) -> None:
    """Draws the last of the results; its number keeps equal file names apart."""
    image = read(path)
    sample = DataSample()
    sample.set_pred_score(torch.from_numpy(scores))
    sample.set_pred_label([entry['label'] for entry in results[-1]['top']])
    short = min(max(_SHORT_EDGE, min(image.shape[:2])), _LONGEST_SHORT_EDGE)
    UniversalVisualizer().visualize_cls(
        image,
        sample,
        classes=classes,
        resize=short,
        out_file=str(folder / f'{len(results) - 1:04d}_{Path(path).stem}.png'),
    )
