"""Names of the models: the stems of the configs in folders with a metafile."""

import difflib
from pathlib import Path

from ..errors import ZooError

#: Folder with ``configs/`` and ``model-index.yml``, in a checkout and in a wheel.
MIM = Path(__file__).parents[1] / '.mim'
#: Prefix of the names in MMPretrain's hub.
PREFIX = 'irnet_'
#: Prefix of a model's weights in place of a checkpoint.
SCHEME = 'irnet://'
#: Suffixes of names, and their data sets.
DATASETS = {
    'digits': 'digits',
    'fashionmnist': 'Fashion-MNIST',
    'cifar10': 'CIFAR-10',
    'cifar10-jpeg': 'CIFAR-10 (JPEG)',
    'imagenette': 'Imagenette',
    'in1k': 'ImageNet-1k',
}


def all_names() -> list[str]:
    """Returns the sorted names of all models.

    Returns:
        list[str]: The names.

    Example:
        >>> 'resnet20_bireal_cifar10' in all_names()
        True
    """
    return sorted(folders())


def folders() -> dict[str, str]:
    """Returns the folder in ``configs`` of each model.

    Returns:
        dict[str, str]: Name of the folder by name of the model.

    Example:
        >>> folders()['resnet20_bireal_cifar10']
        'irnet'
    """
    return {
        config.stem: metafile.parent.name
        for metafile in (MIM / 'configs').glob('*/metafile.yml')
        for config in metafile.parent.glob('*.py')
    }


def canonical_name(name: str) -> str:
    """Returns the canonical name of a model, without ``irnet_``.

    Args:
        name (str): The name, with or without ``irnet_``.

    Returns:
        str: The canonical name.

    Raises:
        ZooError: If there is no such model; names the most similar ones.

    Example:
        >>> canonical_name('irnet_resnet20_bireal_cifar10')
        'resnet20_bireal_cifar10'
    """
    stem = name.removeprefix(PREFIX)
    if stem in (names := all_names()):
        return stem
    near = difflib.get_close_matches(stem, names)
    hint = f'did you mean {" or ".join(near)}?' if near else 'see list_models()'
    raise ZooError(f'there is no model {name!r}; {hint}')


def dataset_of(name: str) -> str | None:
    """Returns the data set for the suffix of a name.

    Args:
        name (str): Name of a model.

    Returns:
        str | None: The data set, if the suffix is known.

    Example:
        >>> dataset_of('resnet18_bireal_in1k')
        'ImageNet-1k'
    """
    return DATASETS.get(name.rpartition('_')[2])
