"""Packed files among MMPretrain's configs and checkpoints."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.models import ImageClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..engine.model import build_model, class_names, input_size
from ..engine.run import load_config, unwrap
from ..errors import ConfigError
from . import onnx
from .engine import Engine, load
from .format import Packed
from .packing import pack, unpack, write


def pack_checkpoint(
    config: str,
    checkpoint: str,
    out: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    float_dtype: str = 'fp32',
    cfg_options: dict | None = None,
) -> str:
    """Packs the checkpoint of a config.

    Args:
        config: As for ``mmirnet.engine.run.train``.
        checkpoint: Its checkpoint.
        out: The packed file.
        size: Height and width of the images; by default the config's.
        float_dtype: See :func:`mmirnet.deploy.pack`.
        cfg_options: Settings by dotted key, over the config's.

    Returns:
        A report: the file's size beside the checkpoint's and, with a reduced
        float type, what that changes on the config's test set.
    """
    cfg, model, names, size = _load(config, checkpoint, size, cfg_options)
    packed = pack(model, size, names, float_dtype)
    write(packed, out)
    weights = sum(4 * p.numel() for p in model.parameters())
    packed_bytes = Path(out).stat().st_size
    lines = [
        f'{out}: {packed_bytes:,} bytes, {weights / packed_bytes:.1f} times smaller '
        f'than {weights:,} bytes of fp32 weights'
    ]
    if float_dtype != 'fp32':
        lines.append(_float_effect(cfg, pack(model, size, names), packed))
    return '\n'.join(lines)


def export_checkpoint(
    config: str,
    checkpoint: str,
    out: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    cfg_options: dict | None = None,
) -> str:
    """Exports the checkpoint of a config as ONNX; arguments as `pack_checkpoint`.

    Returns:
        A report: whether ONNX Runtime, if it is installed, gives the same logits.

    Raises:
        ValueError: If it does not.
    """
    _, model, names, size = _load(config, checkpoint, size, cfg_options)
    packed = pack(model, size, names)
    onnx.export(packed, out)
    report = f'{out}: {Path(out).stat().st_size:,} bytes; float arithmetic, not faster'
    if importlib.util.find_spec('onnxruntime') is None:
        return f'{report}; not checked, for want of onnxruntime'
    x = np.random.default_rng(0).standard_normal(
        (4, packed.input['channels'], *size), np.float32
    )
    difference = onnx.largest_difference(packed, out, x)
    if not difference <= 1e-4:
        raise ConfigError(
            f'{out}: a layer is {difference:.1e} off in ONNX Runtime, more than 1e-4'
        )
    return f'{report}; every layer within {difference:.0e} in ONNX Runtime'


def _load(config, checkpoint, size, cfg_options):
    cfg = load_config(config, None, 'none')
    cfg.merge_from_dict(cfg_options or {})
    model = build_model(cfg, checkpoint)
    names = class_names(cfg)
    if names is not None and len(names) != model.head.num_classes:
        names = None
    return cfg, model, names, size or input_size(cfg)


def _float_effect(cfg: Config, full: Packed, reduced: Packed) -> str:
    """What a reduced float type changes, on the config's test set."""
    loader = Runner.build_dataloader(
        dict(cfg.test_dataloader, num_workers=0, persistent_workers=False)
    )
    preprocess = MODELS.build(dict(cfg.data_preprocessor, type='ClsDataPreprocessor'))
    engines = Engine(full), Engine(reduced)
    right, moved, total, difference = [0, 0], 0, 0, 0.0
    for batch in loader:
        data = preprocess(batch)
        logits = [engine.predict(data['inputs'].numpy()) for engine in engines]
        labels = np.array([int(s.gt_label) for s in data['data_samples']])
        classes = [values.argmax(1) for values in logits]
        for i in range(2):
            right[i] += int((classes[i] == labels).sum())
        moved += int((classes[0] != classes[1]).sum())
        total += len(labels)
        difference = max(difference, float(abs(logits[0] - logits[1]).max()))
    return (
        f'accuracy {100 * right[0] / total:.2f} % in fp32, '
        f'{100 * right[1] / total:.2f} % now, on {total} test images; '
        f'{moved} predictions change, logits by up to {difference:.3g}'
    )


class _PackedBackbone(nn.Module):
    """A packed network where a classifier has its backbone: gives logits."""

    def __init__(self, network: nn.Module | Engine):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor]:
        if isinstance(self.network, Engine):
            logits = torch.from_numpy(self.network.predict(x.cpu().numpy()))
            return (logits.to(x.device),)
        return (self.network(x),)


class _LogitsHead(ClsHead):
    """A head for features that are logits already."""

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        return feats[-1]


def replace_network(
    model: nn.Module, path: str | os.PathLike, engine: bool = False, **options: Any
) -> None:
    """Lets a classifier predict with a packed file, its data flow unchanged.

    The data preprocessor stays; backbone, neck and head give way to the packed
    network.

    Args:
        model: A classifier of MMPretrain, wrapped or not.
        path: The packed file.
        engine: Use the 1-bit engine, not the simulation in torch.
        **options: ``threads`` and ``isa`` of the engine.

    Raises:
        PackedFileError: If the file is damaged or was tampered with.
        ValueError: If it has another number of classes than the model.
    """
    model = unwrap(model)
    network = load(path, **options) if engine else unpack(path)
    shapes = network.packed.shapes
    classes = shapes[network.packed.graph[-1]['dst']][0]
    wanted = getattr(model.head, 'num_classes', classes)
    if classes != wanted:
        raise ConfigError(f'{path} has {classes} classes, the config {wanted}')
    model.backbone = _PackedBackbone(network).to(next(model.parameters()).device)
    model.neck = None
    head = _LogitsHead(topk=model.head.topk, cal_acc=model.head.cal_acc)
    head.num_classes = classes
    model.head = head


def packed_classifier(path: str | os.PathLike) -> ImageClassifier:
    """A packed file, simulated in torch, as a classifier of MMPretrain.

    Takes images as :func:`mmirnet.deploy.read_image` gives them, and carries what
    ``mmpretrain.ImageClassificationInferencer`` looks for.

    Args:
        path: The packed file.

    Raises:
        PackedFileError: If the file is damaged or was tampered with.
    """
    network = unpack(path)
    spec = network.packed.input
    preprocessor = dict(mean=spec['mean'], std=spec['std'], to_rgb=False)
    model = ImageClassifier(
        backbone=_PackedBackbone(network),
        head=_LogitsHead(),
        data_preprocessor=preprocessor,
    )
    dataset = dict(pipeline=[dict(type='PackInputs')])
    model._config = Config(dict(test_dataloader=dict(dataset=dataset)))
    model._dataset_meta = dict(classes=network.packed.classes)
    return model.eval()
