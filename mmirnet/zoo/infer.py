"""Classifying image files with a trained model, by name or by file."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmpretrain import ImageClassificationInferencer
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer

from ..deploy import load, read_image
from ..deploy.checkpoint import packed_classifier
from ..deploy.predictions import classify, top_k
from ..engine.model import build_model, class_names, input_size, pipeline_size
from ..engine.run import load_config
from ..errors import ConfigError
from ..files import write_whole

# Below this, text would hide the picture.
_SHORT_EDGE = 224


def infer(
    images: Sequence[str],
    model: str,
    *,
    checkpoint: str | None = None,
    engine: bool = False,
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
    packed = _packed_file(model, checkpoint)
    if engine and packed is None:
        raise ConfigError(f'--engine needs a packed file, not {checkpoint}')
    if engine:
        network = load(packed)
        classes, scores = network.classes, classify(network, images)
    elif packed is not None:
        classifier = packed_classifier(packed)
        spec = classifier.backbone.network.packed.input
        size = spec['height'], spec['width']
        arrays = [read_image(path, size, spec['channels']) for path in images]
        classes = classifier._dataset_meta['classes']
        scores = _predict(classifier, arrays)
    else:
        cfg = load_config(model, None, 'none')
        classifier = build_model(cfg, checkpoint)
        classifier._config = cfg
        classes = class_names(cfg)
        scores = _predict(classifier, [_read_as(cfg, path) for path in images])
    results = [
        {'image': str(path), 'top': top_k(row, classes, topk)}
        for path, row in zip(images, scores, strict=True)
    ]
    if out is not None:
        write_whole(out, (json.dumps(results, indent=1) + '\n').encode())
    if show_dir is not None:
        _draw(results, scores, classes, Path(show_dir))
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


def _predict(classifier: BaseModel, images: list[np.ndarray]) -> np.ndarray:
    inferencer = ImageClassificationInferencer(classifier, device=get_device())
    samples = (
        sample
        for batch in inferencer.preprocess(images)
        for sample in inferencer.forward(batch)
    )
    return np.stack([sample.pred_score.cpu().numpy() for sample in samples])


def _read_as(cfg: Config, path: str) -> np.ndarray:
    """An image as the data set of a config gives it to the rest of its pipeline."""
    if pipeline_size(cfg) is None:
        rgb = read_image(path, input_size(cfg))
    else:
        rgb = _read(path)
    return rgb[..., ::-1] if cfg.data_preprocessor.to_rgb else rgb


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
