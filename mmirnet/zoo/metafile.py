"""The metafiles of the configs, in OpenMMLab's format.

``configs/FOLDER/metafile.yml`` has an entry for each config: the size and operations of
the network, computed from the config, and the paper's accuracy. If a trained model is
published, the entry also has its accuracy, its training and its weights.
"""

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mmengine.config import Config

from ..analysis.cost.count import summarize_config
from ..analysis.paper import PAPER, PaperAccuracy
from ..errors import ConfigError
from .index import Entry, parse_index
from .names import MIM, PREFIX, SCHEME, dataset_of

#: Folder with configs/ and zoo/: a checkout, or the folder of the installed package.
ROOT = (MIM / 'configs').resolve().parent
_HEADER = '# Written by tools/zoo/metafile.py.\n'


class Collection(NamedTuple):
    """The configs of one folder."""

    name: str
    title: str
    url: str | None
    techniques: tuple[str, ...]


_SGD, _ADAM = 'SGD with Momentum', 'Adam'
#: The collections by their folder in ``configs``.
COLLECTIONS = {
    'irnet': Collection(
        'IR-Net',
        'Forward and Backward Information Retention for Accurate Binary Neural '
        'Networks',
        'https://arxiv.org/abs/1909.10788',
        ('Libra-PB', 'EDE', _SGD),
    ),
    'bnn': Collection(
        'BNN',
        'Binarized Neural Networks',
        'https://arxiv.org/abs/1602.02830',
        ('Straight-through Estimator', _SGD),
    ),
    'dorefa': Collection(
        'DoReFa-Net',
        'DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low '
        'Bitwidth Gradients',
        'https://arxiv.org/abs/1606.06160',
        ('Straight-through Estimator', _SGD),
    ),
    'xnor': Collection(
        'XNOR-Net',
        'XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks',
        'https://arxiv.org/abs/1603.05279',
        ('Straight-through Estimator', _SGD),
    ),
    'bireal': Collection(
        'Bi-Real Net',
        'Bi-Real Net: Enhancing the Performance of 1-bit CNNs With Improved '
        'Representational Capability and Advanced Training Algorithm',
        'https://arxiv.org/abs/1808.00278',
        ('ApproxSign', _SGD),
    ),
    'bihalf': Collection(
        'Bi-half Net',
        'Equal Bits: Enforcing Equally Distributed Binary Network Weights',
        'https://arxiv.org/abs/2112.03406',
        ('Optimal Transport', _SGD),
    ),
    'reste': Collection(
        'ReSTE',
        'Estimator Meets Equilibrium Perspective: A Rectified Straight Through '
        'Estimator for Binary Neural Networks Training',
        'https://arxiv.org/abs/2308.06689',
        ('Rectified Straight-through Estimator', _SGD),
    ),
    'recu': Collection(
        'ReCU',
        'ReCU: Reviving the Dead Weights in Binary Neural Networks',
        'https://arxiv.org/abs/2103.12369',
        ('Rectified Clamp Unit', _SGD),
    ),
    'adabin': Collection(
        'AdaBin',
        'AdaBin: Improving Binary Neural Networks with Adaptive Binary Sets',
        'https://arxiv.org/abs/2208.08084',
        ('Adaptive Binary Sets', 'EDE', _SGD),
    ),
    'react': Collection(
        'ReActNet',
        'ReActNet: Towards Precise Binary Neural Network with Generalized Activation '
        'Functions',
        'https://arxiv.org/abs/2003.03488',
        ('RSign', 'RPReLU', 'Knowledge Distillation', _ADAM),
    ),
    'ovsw': Collection(
        'OvSW',
        'OvSW: Overcoming Silent Weights for Accurate Binary Neural Networks',
        'https://arxiv.org/abs/2407.05257',
        ('Adaptive Gradient Scaling', 'Silence Awareness Decaying', _SGD),
    ),
    'biper': Collection(
        'BiPer',
        'BiPer: Binary Neural Networks using a Periodic Function',
        'https://arxiv.org/abs/2404.01278',
        ('Periodic Weights', _SGD),
    ),
    'fair': Collection(
        'Comparison of recipes', 'Recipes on one network and budget', None, (_SGD,)
    ),
}


_METRICS = {'accuracy/top1': 'Top 1 Accuracy', 'accuracy/top5': 'Top 5 Accuracy'}
_STRUCTURES = {'bireal': 'Bi-Real', 'normal': 'normal'}
#: Fields on the training of a published model, by key of the index.
_RUN = ('bytes', 'ends', 'epochs', 'seed', 'date', 'command', 'log')


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
        'In Collection': COLLECTIONS[path.parent.name].name,
        'Config': path.relative_to(ROOT).as_posix(),
        'Metadata': metadata,
    }
    if results:
        made['Results'] = results
    if model:
        made['Weights'] = f'{SCHEME}{path.stem}'
    return made


def entries(folder: str) -> list[dict[str, Any]]:
    """Creates the entries of a folder's configs, sorted by name."""
    models = published()
    paths = sorted((ROOT / 'configs' / folder).glob('*.py'))
    return [entry(path, models.get(path.stem)) for path in paths]


def metafile(folder: str) -> Path:
    """Returns the path of a folder's metafile."""
    return ROOT / 'configs' / folder / 'metafile.yml'


def render(folder: str) -> str:
    """Creates the text of a folder's metafile."""
    name, title, url, techniques = COLLECTIONS[folder]
    collection = {
        'Name': name,
        'Metadata': {
            'Architecture': [*([name] if url else []), 'ResNet', 'VGG'],
            'Training Techniques': list(techniques),
        },
        **({'Paper': {'Title': title, 'URL': url}} if url else {}),
        'README': f'configs/{folder}/README.md',
    }
    index = {'Collections': [collection], 'Models': entries(folder)}
    return _HEADER + yaml.safe_dump(index, sort_keys=False, width=100)


def write(folder: str) -> Path:
    """Writes a folder's metafile.

    Args:
        folder (str): A key of :data:`COLLECTIONS`.

    Returns:
        Path: The metafile.
    """
    path = metafile(folder)
    path.write_text(render(folder))
    return path


def check(folder: str) -> None:
    """Compares a metafile with the configs and the index of published models.

    Args:
        folder (str): A key of :data:`COLLECTIONS`.

    Raises:
        ValueError: If the metafile is out of date.
    """
    path = metafile(folder)
    if not path.is_file() or path.read_text() != render(folder):
        name = path.relative_to(ROOT).as_posix()
        raise ConfigError(f'{name} is out of date: run tools/zoo/metafile.py')
