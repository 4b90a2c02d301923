"""Classifying image files with a trained model, by name or by file."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmcv.transforms import Compose, LoadImageFromFile
from mmengine.dataset import default_collate
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmpretrain.datasets import PackInputs
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer
from torch.utils.data import Dataset

from ..deploy import load, read_image
from ..deploy.checkpoint import packed_classifier
from ..deploy.predictions import classify, top_k
from ..engine.facts import (
    build_model,
    class_names,
    held_shape,
    named,
    test_set,
    transforms,
)
from ..engine.run import load_config
from ..errors import ConfigError
from ..files import check_writable, write_whole

# Below this, text would hide the picture.
_SHORT_EDGE = 224


def infer(
    images: Sequence[str],
    model: str,
    *,
    checkpoint: str | None = None,
    engine: bool = False,
    classes: Sequence[str] | None = None,
    topk: int = 5,
    out: str | os.PathLike | None = None,
    show_dir: str | os.PathLike | None = None,
) -> list[dict[str, Any]]:
    """Classifies image files.

    Args:
        images (Sequence[str]): The files. They are prepared as the packed file says,
            see :func:`mmirnet.deploy.read_image`; for a checkpoint, by the test
            pipeline of its config.
        model (str): A name in the zoo, a packed file (``.safetensors``), or the
            config of ``checkpoint``.
        checkpoint (str, optional): A checkpoint, packed or not.
        engine (bool): Runs a packed file on the 1-bit engine, not in torch.
            Defaults to False.
        classes (Sequence[str], optional): Names of the classes; by default those of
            the packed file or the checkpoint, else those of the config's data set.
        topk (int): How many classes to name. Defaults to 5.
        out (str | os.PathLike, optional): JSON file for the results.
        show_dir (str | os.PathLike, optional): Folder for the images with the
            likeliest classes written on them.

    Returns:
        list[dict]: For each image its path, ``image``, and the likeliest classes,
        ``top``, with ``label``, ``class`` and ``score``.

    Raises:
        ValueError: If ``engine`` is asked for without a packed file, a config comes
            without a checkpoint, or a file is damaged.
        OSError: If a file is missing or no image.

    Example:
        >>> infer(['boot.png'], 'resnet20_bireal_fashionmnist')  # doctest: +SKIP
    """
    if out is not None:
        check_writable(out)
    packed = _packed_file(model, checkpoint)
    if engine and packed is None:
        raise ConfigError(f'--engine needs a packed file, not {checkpoint}')
    if engine:
        network = load(packed)
        names, scores = network.classes, classify(network, images)
    elif packed is not None:
        classifier = packed_classifier(packed)
        spec = classifier.backbone.network.packed.input
        size = spec['height'], spec['width']
        samples = (
            _pack(read_image(path, size, spec['channels']), path) for path in images
        )
        names = classifier._dataset_meta['classes']
        scores = _predict(classifier, samples)
    else:
        cfg = load_config(model, None, 'none')
        classifier, dataset = build_model(cfg, checkpoint), test_set(cfg)
        if dataset is None:
            raise ConfigError(
                f'--model {model}: without a test set the config does not say how '
                'images are prepared; pack the checkpoint, with --size H W'
            )
        scores = _predict(classifier, _samples(classifier, dataset, images))
        names = class_names(classifier, dataset, scores.shape[1], classes)
    if classes and packed is not None:
        names = named(classes, scores.shape[1])
    results = [
        {'image': str(path), 'top': top_k(row, names, topk)}
        for path, row in zip(images, scores, strict=True)
    ]
    if out is not None:
        write_whole(out, (json.dumps(results, indent=1) + '\n').encode())
    if show_dir is not None:
        _draw(results, scores, names, Path(show_dir))
    return results


def _packed_file(model: str, checkpoint: str | None) -> str | Path | None:
    """The packed file that is meant; None for another checkpoint."""
    for path in (checkpoint, model):
        if path and path.endswith('.safetensors'):
            return path
    if checkpoint is not None:
        return None
    if model.endswith('.py'):
        raise ConfigError(f'--model {model}: a config needs --checkpoint FILE')
    from . import fetch  # may need a network

    return fetch(model)


def _predict(classifier: BaseModel, samples: Iterable[dict]) -> np.ndarray:
    """Scores (N, classes) of samples, one at a time."""
    classifier.to(get_device())
    with torch.no_grad():
        results = [classifier.test_step(default_collate([s]))[0] for s in samples]
    return np.stack([result.pred_score.cpu().numpy() for result in results])


def _samples(
    classifier: BaseModel, dataset: Dataset, images: Sequence[str]
) -> Iterator[dict]:
    """Image files as the pipeline of a data set gives them."""
    chain = transforms(dataset)
    pipeline = Compose(chain)
    if any(isinstance(transform, LoadImageFromFile) for transform in chain):
        yield from (pipeline(dict(img_path=str(path), sample_idx=0)) for path in images)
        return
    height, width, *channels = held_shape(dataset)
    for path in images:
        image = read_image(path, (height, width), channels[0] if channels else 1)
        # Mean and deviation are those of RGB: a preprocessor that turns wants BGR.
        turned = getattr(classifier.data_preprocessor, 'to_rgb', False)
        image = image[..., ::-1] if turned else image
        image = image if channels else image[..., 0]
        yield pipeline(dict(img=np.ascontiguousarray(image), sample_idx=0))


def _pack(image: np.ndarray, path: str) -> dict:
    return PackInputs()(dict(img=image, img_path=str(path)))


def _read(path: str) -> np.ndarray:
    """An image file as uint8 RGB of its own size."""
    image = mmcv.imread(path, channel_order='rgb')
    if image is None:
        raise OSError(f'cannot read image {path}')
    return image


def _draw(
    results: list[dict], scores: np.ndarray, classes: list[str] | None, folder: Path
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    visualizer = UniversalVisualizer()
    for number, (result, row) in enumerate(zip(results, scores, strict=True)):
        path = Path(result['image'])
        image = _read(str(path))
        sample = DataSample()
        sample.set_pred_score(torch.from_numpy(row))
        sample.set_pred_label([entry['label'] for entry in result['top']])
        visualizer.visualize_cls(
            image,
            sample,
            classes=classes,
            resize=max(_SHORT_EDGE, min(image.shape[:2])),
            out_file=str(folder / f'{number:04d}_{path.stem}.png'),
        )
