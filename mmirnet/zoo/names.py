"""Names of the models: the stems of ``configs/irnet/*.py``."""

import difflib
from pathlib import Path

from ..errors import ZooError

#: Where a checkout and a wheel both have ``configs/`` and ``model-index.yml``.
MIM = Path(__file__).parents[1] / '.mim'
#: What names start with in MMPretrain's hub, which holds models of all kinds.
PREFIX = 'irnet_'
#: Stands for the weights of a model where a checkpoint may.
SCHEME = 'irnet://'
#: What names end in, and the data set that it means.
DATASETS = {
    'digits': 'digits',
    'fashionmnist': 'Fashion-MNIST',
    'cifar10': 'CIFAR-10',
    'in1k': 'ImageNet-1k',
}


def all_names() -> list[str]:
    """The name of every model, sorted.

    Example:
        >>> 'resnet20_bireal_cifar10' in all_names()
        True
    """
    return sorted(path.stem for path in (MIM / 'configs' / 'irnet').glob('*.py'))


def known(name: str) -> str:
    """The name of a model as this package writes it, without ``irnet_``.

    Raises:
        ZooError: If there is no such model; names the nearest.

    Example:
        >>> known('irnet_resnet20_bireal_cifar10')
        'resnet20_bireal_cifar10'
    """
    stem = name.removeprefix(PREFIX)
    if stem in (names := all_names()):
        return stem
    near = difflib.get_close_matches(stem, names)
    hint = f'did you mean {" or ".join(near)}?' if near else 'see list_models()'
    raise ZooError(f'there is no model {name!r}; {hint}')


def dataset_of(name: str) -> str | None:
    """The data set that a name's ending means, if it means one.

    Example:
        >>> dataset_of('resnet18_bireal_in1k')
        'ImageNet-1k'
    """
    return DATASETS.get(name.rpartition('_')[2])
