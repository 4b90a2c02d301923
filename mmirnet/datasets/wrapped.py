"""Configs of data sets inside wrappers."""

from collections.abc import Iterator


def leaves(spec: object, key: str = 'dataset') -> Iterator[tuple[str, object]]:
    """Iterates over the data sets in a config, inside all wrappers.

    Args:
        spec (object): The config, a list of configs, or a built data set.
        key (str): Its key.

    Yields:
        tuple[str, object]: Key, and config or built data set.

    Example:
        >>> spec = dict(type='ConcatDataset', datasets=[dict(type='CIFAR10'), 'built'])
        >>> list(leaves(spec))
        [('dataset.datasets[0]', {'type': 'CIFAR10'}), ('dataset.datasets[1]', 'built')]
    """
    if isinstance(spec, list | tuple):
        for i, item in enumerate(spec):
            yield from leaves(item, f'{key}[{i}]')
    elif inner := [k for k in ('dataset', 'datasets') if _has(spec, k)]:
        for name in inner:
            yield from leaves(spec[name], f'{key}.{name}')
    else:
        yield key, spec


def _has(spec: object, key: str) -> bool:
    return isinstance(spec, dict) and spec.get(key) is not None
