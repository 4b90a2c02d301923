"""Locates the zoo and caches its files."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..errors import MissingPackageError, ZooError
from ..files import is_intact, write_atomic
from . import names
from .index import MAX_INDEX_BYTES, Entry, UnreachableError, parse_index

#: The trained models of a checkout. An installed wheel has none.
CHECKOUT_ZOO = Path(__file__).parents[2] / 'zoo'


def address() -> str:
    """Returns the zoo in use: ``$MMIRNET_ZOO``, or else that of the checkout.

    Returns:
        str: A URL or a folder.

    Raises:
        ZooError: If there is neither.
    """
    zoo = os.environ.get('MMIRNET_ZOO')
    if not zoo and (CHECKOUT_ZOO / 'index.json').is_file():
        zoo = str(CHECKOUT_ZOO)
    if not zoo:
        raise ZooError(
            'there is no zoo here: set MMIRNET_ZOO to a URL or a folder of trained '
            'models, such as zoo in a checkout of mmirnet'
        )
    return zoo if zoo.endswith('/') else f'{zoo}/'


def cache_dir() -> Path:
    """Returns the folder of downloaded files.

    It is ``hub/checkpoints/mmirnet`` in ``$TORCH_HOME``, ``$XDG_CACHE_HOME/torch`` or
    ``~/.cache/torch``, like that of torch.hub.

    Returns:
        Path: The folder.

    Raises:
        ZooError: If the user has no home folder, and the environment names no other.
    """
    cache = os.environ.get('XDG_CACHE_HOME', '~/.cache')
    home = Path(os.environ.get('TORCH_HOME', os.path.join(cache, 'torch')))
    try:
        return home.expanduser() / 'hub' / 'checkpoints' / 'mmirnet'
    except RuntimeError as error:  # as of a user that a container does not know
        raise ZooError(
            f'there is no home folder to download into ({error}): set TORCH_HOME'
        ) from error


def read_index() -> dict[str, Entry]:
    """Reads the index of the zoo.

    Returns:
        dict[str, Entry]: The entries by model name. If the zoo cannot be reached, those
        of the cached index, with a warning.

    Raises:
        ZooError: If the zoo cannot be reached and no index is cached, or if the index
            is damaged.
    """
    zoo = address()
    if (folder := _folder(zoo)) is not None:
        return _read_local(folder)
    try:
        text = _network().get(f'{zoo}index.json', MAX_INDEX_BYTES)
    except UnreachableError as error:
        if (index := _cached_index(zoo)) is None:
            raise ZooError(
                f'{error}, and there is no earlier copy of its index; '
                f'MMIRNET_ZOO=URL_OR_FOLDER names another zoo'
            ) from error
        warnings.warn(
            f'{error}; using the cached index {_index_copy(zoo)}',
            stacklevel=2,
        )
        return index
    index = parse_index(text, zoo)
    with contextlib.suppress(OSError, ZooError):  # the copy is for later, offline
        write_atomic(_index_copy(zoo), text)
    return index


def fetch(name: str) -> Path:
    """Returns the packed file of a model, and downloads it if necessary.

    Cached files need no network, and a zoo in a local folder is used in place. Several
    processes that call this function at the same time download the file once.

    Args:
        name (str): A name from :func:`~mmirnet.zoo.list_models`, or the name of another
            config that ``tools/zoo/publish.py`` added to the zoo.

    Returns:
        Path: A file whose length and SHA-256 match the index.

    Raises:
        ZooError: If there is no such model, if it has no weights in the zoo, if the zoo
            cannot be reached, or if the file does not match the index.

    Example:
        >>> from mmirnet.runtime import load
        >>> session = load(fetch('resnet20_bireal_digits'))  # doctest: +SKIP
    """
    zoo = address()
    if (folder := _folder(zoo)) is not None:
        return _fetch_local(name, folder)
    cached = _cached_index(zoo) or {}
    name = _known(name, lambda: name in cached or name in read_index())
    if (path := _cached(name, zoo)) is not None:
        return path
    with _alone(name):
        if (path := _cached(name, zoo)) is not None:  # by the previous lock holder
            return path
        entry = _find(read_index(), name)
        path = cache_dir() / entry.file
        if not is_intact(path, entry.bytes, entry.sha256):
            _network().download(f'{zoo}{entry.file}', path, entry.bytes, entry.sha256)
        return path


def _folder(zoo: str) -> Path | None:
    """Returns the folder of a zoo, or None for a URL."""
    if '://' not in zoo:
        return Path(zoo).expanduser()
    url = urlsplit(zoo)
    if url.scheme == 'file':
        return Path(url2pathname(url.path))
    return None


def _read_local(folder: Path) -> dict[str, Entry]:
    path = folder / 'index.json'
    if not path.is_file():
        raise ZooError(f'zoo {folder}: there is no index.json')
    with path.open('rb') as f:
        text = f.read(MAX_INDEX_BYTES + 1)
    if len(text) > MAX_INDEX_BYTES:
        raise ZooError(f'{path} has more than {MAX_INDEX_BYTES} bytes')
    return parse_index(text, str(folder))


def _known(name: str, listed: Callable[[], bool]) -> str:
    """Returns the name in the index, which is read only for unknown names."""
    try:
        return names.canonical_name(name)
    except ZooError as error:
        with contextlib.suppress(ZooError):
            if listed():
                return name
        raise error


def _fetch_local(name: str, folder: Path) -> Path:
    index = _read_local(folder)
    entry = _find(index, _known(name, lambda: name in index))
    path = folder / entry.file
    if not path.is_file():
        raise ZooError(f'zoo {folder}: {entry.file} is missing')
    if not is_intact(path, entry.bytes, entry.sha256):
        raise ZooError(
            f'{path} is damaged: it is not the file of {entry.bytes} bytes and '
            f'SHA-256 {entry.sha256} that the index names'
        )
    return path


def _find(index: dict[str, Entry], name: str) -> Entry:
    if name not in index:
        folder = names.folders().get(name, 'FOLDER')
        raise ZooError(
            f'the zoo {address()} has no weights of {name}; train them: '
            f'python tools/train.py configs/{folder}/{name}.py'
        )
    return index[name]


def _index_copy(zoo: str) -> Path:
    """Returns the path of a zoo's cached index."""
    return cache_dir() / f'index-{sha256(zoo.encode()).hexdigest()[:8]}.json'


def _cached_index(zoo: str) -> dict[str, Entry] | None:
    with contextlib.suppress(OSError, ZooError):
        return parse_index(_index_copy(zoo).read_bytes(), zoo)
    return None


def _cached(name: str, zoo: str) -> Path | None:
    """Returns the file of a model if index and file are cached and intact."""
    entry = (_cached_index(zoo) or {}).get(name)
    if entry is not None:
        path = cache_dir() / entry.file
        if is_intact(path, entry.bytes, entry.sha256):
            return path
    return None


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Locks a model, so that only one process downloads it."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with _network().FileLock(folder / f'{name}.lock'):
        yield


def _network() -> ModuleType:
    """Imports the download module, whose libraries only downloads need."""
    try:
        from . import download
    except ImportError as error:
        raise MissingPackageError(
            f'{error}; downloads need: pip install requests filelock rich'
        ) from error
    return download
