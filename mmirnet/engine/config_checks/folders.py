"""Checks of the folders and lists of files that a config names."""

import inspect
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS
from mmpretrain.datasets import CustomDataset

from ...datasets.wrapped import leaves
from ...errors import ConfigError, DataError
from ...registry import find_class
from ..labels import class_name_problems, line_problems


def data_problems(cfg: Config, loaders: tuple[str, ...]) -> Iterator[Exception]:
    """Finds folders and lists of files that are missing or do not match.

    Args:
        cfg (Config): The complete config.
        loaders (tuple[str, ...]): Keys of the data loaders that will be built.

    Yields:
        Exception: One per problem.
    """
    scope = cfg.get('default_scope', 'mmengine')
    head = cfg.get('model', {}).get('head') or {}
    outputs = head.get('num_classes') if isinstance(head, dict) else None
    names = {}
    for name in loaders:
        dataset = (cfg.get(name) or {}).get('dataset')
        for key, spec in leaves(dataset, f'{name}.dataset'):
            if not isinstance(spec, dict):
                continue
            missing = list(missing_folder(spec, key, scope))
            yield from missing
            kind = find_class(DATASETS, spec.get('type'), scope)
            listed = inspect.isclass(kind) and issubclass(kind, CustomDataset)
            if listed and not missing and '://' not in str(spec.get('data_root')):
                yield from listed_problems(kind, spec, key, outputs, names)
    yield from class_name_problems(names)


def missing_folder(
    spec: dict, key: str, scope: str | None = None
) -> Iterator[Exception]:
    """Checks that the folder of a data set exists or can be downloaded.

    Args:
        spec (dict): Config of the data set.
        key (str): Its key in the config.
        scope (str | None): ``default_scope`` of the config.

    Yields:
        Exception: A FileNotFoundError if the folder is missing.
    """
    folder = spec.get('data_root')
    if not folder or '://' in folder or Path(folder).expanduser().is_dir():
        return
    kind = find_class(DATASETS, spec['type'], scope)
    downloads = kind is not None and 'download' in inspect.signature(kind).parameters
    if not (downloads and spec.get('download', True)):
        yield FileNotFoundError(
            f'{key}.data_root: there is no folder {folder!r}; make it, or name another '
            f'with --cfg-options {key}.data_root=FOLDER'
        )


def listed_problems(
    kind: type[CustomDataset],
    spec: dict,
    key: str,
    outputs: int | None,
    names: dict[str, list[str]],
) -> Iterator[Exception]:
    """Checks the files of a data set that is defined by a list or by folders.

    Adds the class names to ``names``.
    """
    spec = {k: v for k, v in spec.items() if k not in ('type', '_scope_', 'pipeline')}
    try:  # without reading its files, but with all its paths
        dataset = kind(**dict(spec, lazy_init=True))
    except (AssertionError, ValueError, OSError) as e:
        yield ConfigError(f'{key}: {" ".join(str(e).split())}')
        return
    if kind.load_data_list is not CustomDataset.load_data_list:
        return
    if dataset.ann_file:
        yield from _list_problems(dataset, key, outputs)
        if dataset.CLASSES is not None:
            names[key] = list(dataset.CLASSES)
        return
    root = Path(dataset.img_prefix)
    if not root.is_dir():
        yield FileNotFoundError(f'{key}: there is no folder {str(root)!r}')
        return
    if not any(dataset.is_valid_file(str(path)) for path in root.rglob('*')):
        yield DataError(
            f'{key}: no images in {root}; their names have to end in one of '
            f'{", ".join(sorted(dataset.extensions))}'
        )
    elif dataset.with_label:
        folders = sorted(path.name for path in root.iterdir() if path.is_dir())
        yield from folder_problems(key, root, folders, dataset.CLASSES)
        names[key] = folders


def _list_problems(
    dataset: CustomDataset, key: str, outputs: int | None
) -> Iterator[Exception]:
    if not Path(dataset.ann_file).is_file():
        yield FileNotFoundError(f'{key}.ann_file: there is no file {dataset.ann_file}')
    elif dataset.with_label:
        classes = dataset.CLASSES
        counts = [n for n in (outputs, len(classes) if classes else None) if n]
        lines = list_from_file(dataset.ann_file)
        yield from line_problems(dataset.ann_file, lines, min(counts, default=None))


def folder_problems(
    key: str, root: Path, folders: list[str], classes: list[str] | None
) -> Iterator[Exception]:
    """Checks that the folders of a data set match its classes, in the same order.

    Args:
        key (str): Key of the data set in the config.
        root (Path): Parent folder.
        folders (list[str]): Names of the folders in order, which define the labels.
        classes (list[str] | None): Class names that the data set was given.

    Yields:
        Exception: A DataError if labels would get wrong names.
    """
    if classes is None or list(classes) == folders:
        return
    if len(classes) != len(folders):
        missing = [name for name in classes if name not in folders]
        lost = f' (no folder {missing[0]!r})' if len(missing) < len(classes) else ''
        yield DataError(
            f'{key}: {root} has {len(folders)} folders, but the data set has '
            f'{len(classes)} classes{lost}; name those of the folders with '
            f"{key}.classes=[...], or take type='CustomDataset', which reads them"
        )
    elif set(classes) & set(folders):
        label = next(i for i, name in enumerate(folders) if name != classes[i])
        yield DataError(
            f'{key}: classes are not in the order of the folders, which number the '
            f'labels: label {label} is {folders[label]!r} in {root}, and '
            f'{classes[label]!r} in classes; leave classes out, or sort them'
        )
