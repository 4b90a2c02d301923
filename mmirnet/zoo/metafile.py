"""The metafile of the configs, in OpenMMLab's format.

``configs/irnet/metafile.yml`` has an entry for each config: the size and operations of
the network, computed from the config, and the paper's accuracy. If a trained model is
published, the entry also has its accuracy, its training and its weights.
"""

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mmengine.config import Config

from ..analysis.cost.count import summarize_config
from ..errors import ConfigError
from .index import Entry, parse_index
from .names import MIM, PREFIX, SCHEME, dataset_of

#: Folder with configs/ and zoo/: a checkout, or the folder of the installed package.
ROOT = (MIM / 'configs').resolve().parent
METAFILE = 'configs/irnet/metafile.yml'
_HEADER = '# Written by tools/zoo/metafile.py.\n'
_COLLECTION = {
    'Name': 'IR-Net',
    'Metadata': {
        'Architecture': ['IR-Net', 'ResNet', 'VGG'],
        'Training Techniques': ['Libra-PB', 'EDE', 'SGD with Momentum'],
    },
    'Paper': {
        'Title': 'Forward and Backward Information Retention for Accurate Binary '
        'Neural Networks',
        'URL': 'https://arxiv.org/abs/1909.10788',
    },
    'README': 'configs/irnet/README.md',
}


class PaperAccuracy(NamedTuple):
    """Accuracy of a network in the paper, in %."""

    top1: float
    top5: float | None = None
    source: str = 'paper'


#: The paper's figures (https://arxiv.org/abs/1909.10788) by name of the config.
PAPER = {
    'resnet20_bireal_cifar10': PaperAccuracy(86.5),
    # From the paper's ablation, quoted from memory.
    'resnet20_normal_cifar10': PaperAccuracy(85.4, source='paper, recalled'),
    'resnet20_w1a32_cifar10': PaperAccuracy(90.8),
    'resnet18_normal_cifar10': PaperAccuracy(91.5),
    'vgg-small_cifar10': PaperAccuracy(90.4),
    'resnet18_bireal_in1k': PaperAccuracy(58.1, 80.0),
    'resnet18_w1a32_in1k': PaperAccuracy(66.5, 86.8),
    'resnet34_bireal_in1k': PaperAccuracy(62.9, 84.1),
    'resnet34_w1a32_in1k': PaperAccuracy(70.4, 89.5),
}
_METRICS = {'accuracy/top1': 'Top 1 Accuracy', 'accuracy/top5': 'Top 5 Accuracy'}
_STRUCTURES = {'bireal': 'Bi-Real', 'normal': 'normal'}
#: Fields on the training of a published model, by key of the index.
_RUN = ('bytes', 'epochs', 'seed', 'date', 'command', 'log')


def published() -> dict[str, Entry]:
    """Returns the published models in ``zoo/index.json`` by name."""
    index = ROOT / 'zoo' / 'index.json'
    return parse_index(index.read_bytes(), 'zoo') if index.is_file() else {}


def _result(dataset: str, metrics: dict[str, float]) -> dict[str, Any]:
    return {'Task': 'Image Classification', 'Dataset': dataset, 'Metrics': metrics}


def _paper_result(paper: PaperAccuracy, dataset: str) -> dict[str, Any]:
    metrics = {f'Top 1 Accuracy ({paper.source})': paper.top1}
    if paper.top5 is not None:
        metrics[f'Top 5 Accuracy ({paper.source})'] = paper.top5
    return _result(dataset, metrics)


def _our_result(model: Entry) -> dict[str, Any]:
    metrics = {
        name: model.metrics[key]
        for key, name in _METRICS.items()
        if key in model.metrics
    }
    return _result(model.dataset, metrics)


def _metadata(path: Path) -> dict[str, Any]:
    """Returns the network, training, size and operations of a config."""
    cfg = Config.fromfile(path)
    backbone = cfg.model.backbone
    depth = backbone.get('depth')
    structure = _STRUCTURES.get(backbone.get('structure'))
    total = summarize_config(path).total
    return {
        'Architecture': [f'ResNet-{depth}' if depth else 'VGG-Small']
        + ([structure] if structure else []),
        'W/A bits': total.bits,
        'Parameters': total.parameters,
        'FLOPs': total.flops,
        'Binary MACs': total.binary_macs,
        'BOPs': total.bops,
        'OPs': round(total.ops),
        'Bytes packed': total.bytes_packed,
        'Bytes fp32': total.bytes_fp32,
        'Training Data': dataset_of(path.stem),
        'Epochs': cfg.train_cfg.max_epochs,
    }


def entry(path: Path, model: Entry | None = None) -> dict[str, Any]:
    """Creates the entry of one config.

    Args:
        path (Path): The config file.
        model (Entry, optional): The published model, from the index.

    Returns:
        dict[str, Any]: An entry of ``Models``.

    Example:
        >>> stem = 'resnet20_bireal_cifar10'
        >>> made = entry(ROOT / 'configs' / 'irnet' / f'{stem}.py')
        >>> made['Metadata']['W/A bits'], made['Results'][0]['Metrics']
        ('1/1', {'Top 1 Accuracy (paper)': 86.5})
    """
    metadata = _metadata(path)
    results = []
    if paper := PAPER.get(path.stem):
        results.append(_paper_result(paper, metadata['Training Data']))
    if model:
        results.append(_our_result(model))
        metadata['Published run'] = {
            field: value
            for field in _RUN
            if (value := getattr(model, field)) is not None
        }
    made = {
        'Name': f'{PREFIX}{path.stem}',
        'In Collection': _COLLECTION['Name'],
        'Config': path.relative_to(ROOT).as_posix(),
        'Metadata': metadata,
    }
    if results:
        made['Results'] = results
    if model:
        made['Weights'] = f'{SCHEME}{path.stem}'
    return made


def entries() -> list[dict[str, Any]]:
    """Creates the entries of all configs, sorted by name."""
    models = published()
    paths = sorted((ROOT / 'configs' / 'irnet').glob('*.py'))
    return [entry(path, models.get(path.stem)) for path in paths]


def render() -> str:
    """Creates the text of the metafile."""
    index = {'Collections': [_COLLECTION], 'Models': entries()}
    return _HEADER + yaml.safe_dump(index, sort_keys=False, width=100)


def write() -> Path:
    """Writes the metafile.

    Returns:
        Path: The metafile.
    """
    path = ROOT / METAFILE
    path.write_text(render())
    return path


def check() -> None:
    """Compares the metafile with the configs and the index of published models.

    Raises:
        ValueError: If the metafile is out of date.
    """
    if (ROOT / METAFILE).read_text() != render():
        raise ConfigError(f'{METAFILE} is out of date: run tools/zoo/metafile.py')
