"""Packs and exports MMPretrain's configs and checkpoints."""

import copy
import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.datasets import PackInputs
from mmpretrain.models import ImageClassifier
from mmpretrain.models.heads import ClsHead, MultiLabelClsHead
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..engine.config import load_config, merge_options
from ..engine.facts import Facts, gather, normalised_twice, reverses_channels, samples
from ..engine.wrappers import unwrap
from ..errors import ConfigError, UnsupportedModelError, check_choice
from ..files import check_writable
from ..packed import onnx
from ..packed.format import Packed
from ..packed.ops import OPERATIONS
from ..packed.packing import describe_head, normalisation, pack, write
from ..packed.pipelines import preparation
from ..packed.preparation import normalise
from ..packed.quantising import quantise
from ..packed.simulation import unpack
from ..runtime.session import Session, load
from .calibration import calibration_images


def pack_checkpoint(
    config: str,
    checkpoint: str,
    out: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
    float_dtype: str = 'fp32',
    ends: str = 'fp32',
    activations: str = 'fp32',
    calibrate: str | os.PathLike | None = None,
    cfg_options: dict | None = None,
) -> str:
    """Packs the checkpoint of a config.

    Args:
        config (str): As in ``mmirnet.apis.train``.
        checkpoint (str): Its checkpoint.
        out (str | os.PathLike): Packed file to write.
        size (tuple[int, int], optional): Height and width of the images. Defaults to
            the output size of the test pipeline.
        classes (Sequence[str], optional): Class names. Defaults to those of the
            checkpoint, or else of the data set.
        float_dtype (str): See :func:`mmirnet.packed.pack`.
        ends (str): 'fp32', or 'int8' for 8-bit integers in the float layers, see
            :func:`mmirnet.packed.quantise`. Defaults to 'fp32'.
        activations (str): The same for the inputs of layers with 1-bit weights that
            are not binary. Defaults to 'fp32'.
        calibrate (str | os.PathLike, optional): A folder of images that show the
            ranges of 8-bit integers. Defaults to the config's training set.
        cfg_options (dict, optional): Settings by dotted key that override the config.

    Returns:
        str: A report with the sizes of file and checkpoint and, for a reduced float
        dtype or 8-bit integers, their effect on the test set of the config.

    Raises:
        ConfigError: If size or classes cannot be determined, or if the model is not a
            classifier.
        CheckpointError: If the checkpoint is damaged or does not fit.
        UnsupportedModelError: If the format does not support a layer.
    """
    check_writable(out, config, checkpoint)
    for name, value in dict(ends=ends, activations=activations).items():
        check_choice(name, value, ('fp32', 'int8'))
    in_bytes = 'int8' in (ends, activations)
    if calibrate is not None and not in_bytes:
        raise ConfigError(
            f'--calibrate {calibrate} shows the ranges of 8-bit integers, and there '
            'are none: add --ends int8 or --activations int8'
        )
    if not str(out).endswith('.safetensors'):
        raise ConfigError(f'{out}: the name of a packed file must end in .safetensors')
    cfg = load_config(config, None, 'none')
    merge_options(cfg, cfg_options)
    facts = gather(cfg, checkpoint, size=size, classes=classes)
    model = facts.model
    image = _preparation(facts, size)
    how = dict(image=image, head=describe_head(model, facts.kind))
    packed = pack(model, facts.size, facts.classes, float_dtype, **how)
    _check_preprocessor(facts, packed, 'mean' in (image or {}))
    full = packed if float_dtype == 'fp32' else pack(model, facts.size, facts.classes)
    lines = []
    if facts.classes is None:
        lines.append('the class names are not known: set them with --classes')
    if in_bytes:
        source, images = calibration_images(facts, packed, calibrate)
        chosen = dict(ends=ends == 'int8', activations=activations == 'int8')
        packed = quantise(packed, images, **chosen)
        layers = sum(OPERATIONS[op['op']].version >= 4 for op in packed.graph)
        lines.append(f'8-bit integers in {layers} layers; ranges by {source}')
    write(packed, out)
    if in_bytes or float_dtype != 'fp32':
        lines.append(_effect_on_test_set(facts, full, packed))
    return '\n'.join([_sizes(model, out), *lines])


def _sizes(model: nn.Module, out: str | os.PathLike) -> str:
    """Compares a packed file with the fp32 weights of its model."""
    weights = sum(4 * p.numel() for p in model.parameters())
    packed = Path(out).stat().st_size
    return (
        f'{out}: {packed:,} bytes, {weights / packed:.1f} times smaller than '
        f'{weights:,} bytes of fp32 weights'
    )


def _preparation(facts: Facts, size: tuple[int, int] | None) -> dict | None:
    """Returns the steps for image files, as in the test set, and to a given size."""
    if facts.dataset is None:
        return None
    if normalised_twice(facts.dataset, facts.model):
        raise UnsupportedModelError(
            'test pipeline: images are normalised twice, by Normalize and by the data '
            'preprocessor, which a packed file does not do; train with one of them'
        )
    image = preparation(
        facts.dataset, facts.channels == 3 and reverses_channels(facts.model)
    )
    name = type(facts.model.data_preprocessor).__name__
    if image['order'] == 'grey' and facts.channels != 1:
        channels = len(next(samples(facts.dataset))['inputs'])
        raise UnsupportedModelError(
            f'cannot pack {name}: it makes {facts.channels} channels of {channels}; '
            'train with as many numbers in mean and std as images have channels'
            if channels != facts.channels
            else f'cannot pack images of {channels} channels: files have one or three'
        )
    if size is not None:
        height, width = size
        fit = dict(op='fit', width=width, height=height, pad=0, cover=1.0)
        image['steps'].append(fit)
        return image
    given = tuple(next(samples(facts.dataset))['inputs'].shape[1:])
    if given != facts.size:
        raise UnsupportedModelError(
            f'cannot pack {name}: it pads images of {given} to {facts.size} (height, '
            'width); pad or resize them in the test pipeline'
        )
    return image


def _check_preprocessor(facts: Facts, packed: Packed, normalised: bool) -> None:
    """Refuses a preprocessor that does more than the packed format can describe."""
    spec = packed.input
    if normalised:  # in the pipeline, so the preprocessor must not do it
        spec = spec | dict(mean=[0.0] * spec['channels'], std=[1.0] * spec['channels'])
    shape = spec['height'], spec['width'], spec['channels']
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    wanted = normalise(pixels, spec)
    if spec['order'] == 'bgr':
        pixels = pixels[..., ::-1]
    if spec['channels'] == 3 and reverses_channels(facts.model):
        pixels = pixels[..., ::-1]
    sample = PackInputs()(dict(img=np.ascontiguousarray(pixels)))
    batch = facts.model.data_preprocessor(default_collate([sample]), False)
    got = batch['inputs'][0].numpy()
    if got.shape != wanted.shape or not np.allclose(got, wanted, rtol=1e-4, atol=1e-4):
        name = type(facts.model.data_preprocessor).__name__
        raise UnsupportedModelError(
            f'cannot pack {name}: it does more to an image than subtract the mean '
            'and divide by the std'
        )


def export_checkpoint(
    config: str,
    checkpoint: str,
    out: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    cfg_options: dict | None = None,
) -> str:
    """Exports the checkpoint of a config to ONNX.

    Args:
        config (str): As in :func:`pack_checkpoint`.
        checkpoint (str): As in :func:`pack_checkpoint`.
        out (str | os.PathLike): ONNX file to write.
        size (tuple[int, int], optional): As in :func:`pack_checkpoint`.
        cfg_options (dict, optional): As in :func:`pack_checkpoint`.

    Returns:
        str: A report on whether ONNX Runtime, if installed, gives the same logits.

    Raises:
        ValueError: If the logits differ.
    """
    check_writable(out, config, checkpoint)
    cfg = load_config(config, None, 'none')
    merge_options(cfg, cfg_options)
    facts = gather(cfg, checkpoint, size=size)
    packed = pack(facts.model, facts.size, facts.classes)
    onnx.export(packed, out)
    report = f'{out}: {Path(out).stat().st_size:,} bytes; float arithmetic, not faster'
    if importlib.util.find_spec('onnxruntime') is None:
        return f'{report}; not checked, as onnxruntime is not installed'
    x = np.random.default_rng(0).standard_normal(
        (4, facts.channels, *facts.size), np.float32
    )
    difference = onnx.largest_difference(packed, out, x)
    if not difference <= 1e-4:
        raise ConfigError(
            f'{out}: a layer is {difference:.1e} off in ONNX Runtime, more than 1e-4'
        )
    return f'{report}; every layer within {difference:.0e} in ONNX Runtime'


def _effect_on_test_set(facts: Facts, full: Packed, reduced: Packed) -> str:
    """Reports the effect of fewer bits on the test set of the config."""
    which = 'test' if facts.cfg.get('test_dataloader') else 'val'
    if facts.dataset is None or not getattr(facts.dataset, '_fully_initialized', True):
        return 'its effect is not measured: the test set is missing'
    loader = Runner.build_dataloader(
        dict(
            facts.cfg[f'{which}_dataloader'],
            dataset=facts.dataset,
            num_workers=0,
            persistent_workers=False,
        )
    )
    head = _head_without_layers(facts.model)
    sessions = Session(full), Session(reduced)
    evaluators = [_evaluator(facts, which) for _ in sessions]
    moved, total, difference = 0, 0, 0.0
    for batch in loader:
        data = facts.model.data_preprocessor(batch, False)
        logits = [session.predict(data['inputs'].numpy()) for session in sessions]
        for evaluator, values in zip(evaluators, logits, strict=True):
            samples = copy.deepcopy(data['data_samples'])
            samples = head.predict((torch.from_numpy(values),), samples)
            evaluator.process(samples, batch)
        moved += int((logits[0].argmax(1) != logits[1].argmax(1)).sum())
        total += len(logits[0])
        difference = max(difference, float(abs(logits[0] - logits[1]).max()))
    before, after = (evaluator.evaluate(total) for evaluator in evaluators)
    metrics = [
        f'{name} {value:.2f} in fp32, {after[name]:.2f} now'
        for name, value in before.items()
        if isinstance(value, int | float)
    ]
    return (
        f'{"; ".join(metrics)}, on {total} test images; the likeliest class changes on '
        f'{moved}, logits by up to {difference:.3g}'
    )


def _evaluator(facts: Facts, which: str) -> Evaluator:
    evaluator = Evaluator(copy.deepcopy(facts.cfg[f'{which}_evaluator']))
    evaluator.dataset_meta = getattr(facts.dataset, 'metainfo', None)
    return evaluator


class _PackedBackbone(nn.Module):
    """A packed network in the place of a classifier's backbone; it returns logits."""

    def __init__(self, network: nn.Module | Session):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor]:
        if isinstance(self.network, Session):
            logits = torch.from_numpy(self.network.predict(x.cpu().numpy()))
            return (logits.to(x.device),)
        return (self.network(x),)


def _last(feats: tuple[Tensor, ...]) -> Tensor:
    return feats[-1]


def _head_without_layers(model: nn.Module) -> nn.Module:
    """Returns a model's head without its layers, which processes logits."""
    head = copy.copy(model.head)
    head.forward = _last
    return head


def replace_network(
    model: nn.Module, path: str | os.PathLike, runtime: bool = False, **options: Any
) -> None:
    """Replaces the network of a classifier by a packed file.

    The data preprocessor and the head's processing of logits stay. The packed network
    replaces the backbone, the neck and the layers of the head.

    Args:
        model (nn.Module): A classifier of MMPretrain, wrapped or not.
        path (str | os.PathLike): The packed file.
        runtime (bool): Use the 1-bit runtime instead of the simulation in torch.
            Defaults to False.
        **options: ``threads`` and ``isa`` of the runtime.

    Raises:
        PackedFileError: If the file is damaged or was tampered with.
        ValueError: If its number of classes is not that of the model.
    """
    model = unwrap(model)
    if getattr(model, 'head', None) is None or not hasattr(model, 'backbone'):
        raise ConfigError(
            f'{path}: a packed network replaces a backbone and a head, which '
            f'{type(model).__name__} does not have'
        )
    network = load(path, **options) if runtime else unpack(path)
    shapes = network.packed.shapes
    classes = shapes[network.packed.graph[-1]['dst']][0]
    wanted = getattr(model.head, 'num_classes', classes)
    if classes != wanted:
        raise ConfigError(f'{path} has {classes} classes, the config {wanted}')
    model.backbone = _PackedBackbone(network).to(next(model.parameters()).device)
    model.neck = None
    model.head = _head_without_layers(model)


def warn_of_other_images(model: nn.Module, dataset: Dataset, path: str) -> None:
    """Warns if a packed file expects images normalised otherwise than a config's.

    Args:
        model (nn.Module): A classifier after :func:`replace_network`, wrapped or not.
        dataset (Dataset): Its test set.
        path (str): The packed file.
    """
    model = unwrap(model)
    packed = model.backbone.network.packed.input
    channels = packed['channels']
    try:
        image = preparation(dataset, channels == 3 and reverses_channels(model))
    except (ConfigError, UnsupportedModelError):
        return  # a pipeline that says nothing of order and normalisation
    mean, std = normalisation(model, channels)
    given = dict(mean=mean, std=std) | image
    changes = [
        f'{key}={packed[key]}, and the config {given[key]}'
        for key in ('order', 'mean', 'std')
        if packed[key] != given[key]
    ]
    if changes:
        print_log(
            f'{path} was packed for images of {"; ".join(changes)}: its network may '
            'compute something else',
            'current',
            logging.WARNING,
        )


def _build_head(head: dict[str, Any]) -> ClsHead:
    """Builds MMPretrain's head for the description in a packed file."""
    if head['scores'] == 'softmax':
        return ClsHead()
    return MultiLabelClsHead(thr=head['threshold'], topk=head['topk'])


def packed_classifier(path: str | os.PathLike) -> ImageClassifier:
    """Loads a packed file as a classifier of MMPretrain, simulated in torch.

    The classifier takes images from :func:`mmirnet.runtime.load_image`, and has the
    attributes that ``mmpretrain.ImageClassificationInferencer`` needs.

    Args:
        path (str | os.PathLike): The packed file.

    Returns:
        ImageClassifier: The classifier.

    Raises:
        PackedFileError: If the file is damaged or was tampered with.
    """
    network = unpack(path)
    spec = network.packed.input
    to_rgb = spec['order'] == 'bgr'  # reverses three channels
    preprocessor = dict(mean=spec['mean'], std=spec['std'], to_rgb=to_rgb)
    model = ImageClassifier(
        backbone=_PackedBackbone(network),
        head=_build_head(network.packed.head),
        data_preprocessor=preprocessor,
    )
    dataset = dict(pipeline=[dict(type='PackInputs')])
    model._config = Config(dict(test_dataloader=dict(dataset=dataset)))
    model._dataset_meta = dict(classes=network.packed.classes)
    return model.eval()
