"""Lists and builds models by name."""

import fnmatch
from typing import TYPE_CHECKING, Any

from ..compat import check_versions
from ..errors import ConfigError
from .names import (
    DATASETS,
    PREFIX,
    SCHEME,
    all_names,
    canonical_name,
    dataset_of,
)
from .store import read_index

if TYPE_CHECKING:
    import torch
    from mmengine.model import BaseModel


def list_models(
    pattern: str | None = None,
    *,
    dataset: str | None = None,
    pretrained: bool = False,
) -> list[str]:
    """Lists the models of this package.

    Args:
        pattern (str | None): Wildcard pattern for the start of a name, as in
            ``mmpretrain.list_models``. Defaults to all names.
        dataset (str | None): One of ``'digits'``, ``'Fashion-MNIST'``, ``'CIFAR-10'``
            and ``'ImageNet-1k'``. Defaults to all.
        pretrained (bool): Whether to list only models with weights in the zoo, which
            reads its index. Defaults to False.

    Returns:
        list[str]: Sorted names.

    Raises:
        ValueError: If there is no model for the data set.
        ZooError: If the index is needed and the zoo cannot be reached.

    Example:
        >>> list_models('resnet18', dataset='CIFAR-10')
        ['resnet18_bireal_cifar10', 'resnet18_fp_cifar10', 'resnet18_normal_cifar10']
    """
    names = all_names()
    if pattern is not None:
        pattern = pattern.removeprefix(PREFIX)
        names = fnmatch.filter(names, f'{pattern}*')
    if dataset is not None:
        if dataset not in DATASETS.values():
            raise ConfigError(
                f'dataset {dataset!r} is none of {", ".join(DATASETS.values())}'
            )
        names = [name for name in names if dataset_of(name) == dataset]
    if pretrained:
        index = read_index()
        names = [name for name in names if name in index]
    return names


def get_model(
    name: str,
    pretrained: bool | str = False,
    device: 'str | torch.device | None' = None,
    **kwargs: Any,
) -> 'BaseModel':
    """Builds a model from its config.

    Args:
        name (str): A name from :func:`list_models`, with or without ``irnet_``.
        pretrained (bool | str): Whether to load the weights in the zoo, or the path of
            a checkpoint. Defaults to False.
        device (str | torch.device | None): Device of the model. Defaults to the CPU.
        **kwargs: Arguments of ``mmpretrain.get_model``, such as
            ``head=dict(num_classes=5)``.

    Returns:
        nn.Module: A classifier of MMPretrain, in evaluation mode.

    Raises:
        ZooError: If there is no such model, or if it has no weights in the zoo.

    Example:
        >>> model = get_model('resnet20_bireal_digits')
        >>> model.head.num_classes
        10
    """
    check_versions()
    import mmpretrain

    name = canonical_name(name)
    return mmpretrain.get_model(
        f'{PREFIX}{name}',
        pretrained=f'{SCHEME}{name}' if pretrained is True else pretrained,
        device=device,
        **kwargs,
    )
