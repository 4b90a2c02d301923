"""``index.json``, the list of models in a zoo, with validation.

::

    {"format": 1,
     "models": {"NAME": {"file": "NAME-1a2b3c4d.safetensors", "bytes": 59712,
                         "sha256": "1a2b3c4d...", "config": "irnet/NAME.py",
                         "dataset": "Fashion-MNIST",
                         "metrics": {"accuracy/top1": 91.2},
                         "runtime_metrics": {"accuracy/top1": 91.2},
                         "epochs": 25, "seed": 0, "date": "2026-11-23",
                         "command": "python tools/train.py ...",
                         "log": "NAME-1a2b3c4d.jsonl"}}}

File names have no folder and contain the first eight digits of their SHA-256, so files
with different content have different names. ``epochs`` and the fields after it are
optional. A file with 8-bit ends also has ``"ends": "int8"``, and in ``fp32_metrics``
the metrics that the network has with float ones.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ZooError, short_repr
from ..packed.limits import MAX_FILE_BYTES

FORMAT = 1
#: Much larger than any index of this project, and small enough for any machine.
MAX_INDEX_BYTES = 1 << 22

_PLAIN_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]{0,199}')
_SHA256 = re.compile(r'[0-9a-f]{64}')


class UnreachableError(ZooError):
    """A zoo, or a file in it, cannot be reached."""


@dataclass(frozen=True)
class Entry:
    """A trained model in a zoo.

    Attributes:
        file (str): Name of the packed file in the zoo's folder.
        bytes (int): Its size.
        sha256 (str): Its digest, 64 hexadecimal digits.
        config (str): Its config, relative to ``configs/``.
        dataset (str): Its training data.
        metrics (dict[str, float]): Metrics of the packed file in simulation, by name.
        epochs (int | None): Length of the training.
        seed (int | None): Seed of the training.
        date (str | None): Day of the training, ``YYYY-MM-DD``.
        command (str | None): Command that trained it.
        log (str | None): Name of the training log in the zoo's folder.
        runtime_metrics (dict[str, float] | None): Its metrics on the 1-bit runtime.
        copy (str | None): Copy of CIFAR-10 that the metrics are of.
        ends (str | None): ``int8`` for 8-bit integers in the float layers.
        fp32_metrics (dict[str, float] | None): Its metrics on the 1-bit runtime before
            these layers had 8 bits.
    """

    file: str
    bytes: int
    sha256: str
    config: str
    dataset: str
    metrics: dict[str, float]
    epochs: int | None = None
    seed: int | None = None
    date: str | None = None
    command: str | None = None
    log: str | None = None
    runtime_metrics: dict[str, float] | None = None
    copy: str | None = None
    ends: str | None = None
    fp32_metrics: dict[str, float] | None = None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_plain_name(value: Any) -> bool:
    return _is_text(value) and bool(_PLAIN_NAME.fullmatch(value))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_FILE_BYTES


def _is_digest(value: Any) -> bool:
    return _is_text(value) and bool(_SHA256.fullmatch(value))


def _are_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(
        type(number) in (int, float) and math.isfinite(number)
        for number in value.values()
    )


_PLAIN = 'a plain file name'
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    'file': (_is_plain_name, _PLAIN),
    'bytes': (_is_size, f'an integer from 1 to {MAX_FILE_BYTES}'),
    'sha256': (_is_digest, '64 hexadecimal digits'),
    'config': (_is_text, 'a text'),
    'dataset': (_is_text, 'a text'),
    'metrics': (_are_metrics, 'numbers by name'),
}
_OPTIONAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    'epochs': (_is_count, 'an integer'),
    'seed': (_is_count, 'an integer'),
    'date': (_is_text, 'a text'),
    'command': (_is_text, 'a text'),
    'log': (_is_plain_name, _PLAIN),
    'runtime_metrics': (_are_metrics, 'numbers by name'),
    'copy': (_is_text, 'a text'),
    'ends': (_is_text, 'a text'),
    'fp32_metrics': (_are_metrics, 'numbers by name'),
}


def check_model_name(name: Any, where: str = '') -> None:
    """Refuses invalid names of models, from which file names are made.

    Args:
        name (Any): The name.
        where (str): Start of the message.

    Raises:
        ZooError: If it has characters other than letters, digits, ``_``, ``.`` and
            ``-``.

    Example:
        >>> check_model_name('resnet20_mine')
    """
    if not _is_plain_name(name):
        raise ZooError(
            f'{where}{short_repr(name)} is no name of a model: it takes letters from a '
            'to z, digits, _, . and -, and begins with a letter or digit'
        )


def parse_index(text: str | bytes, zoo: str) -> dict[str, Entry]:
    """Reads and validates the text of an ``index.json``.

    Args:
        text (str | bytes): The text, as a string or in UTF-8.
        zoo (str): The zoo that it comes from, for messages.

    Returns:
        dict[str, Entry]: The entries by model name. Unknown fields are ignored.

    Raises:
        ZooError: If a field is missing or invalid; names the zoo and the field.

    Example:
        >>> parse_index('{"format": 1, "models": {}}', 'zoo/')
        {}
    """
    try:
        index = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ZooError(f'zoo {zoo}: index.json is no JSON: {error}') from error
    if not isinstance(index, dict) or index.get('format') != FORMAT:
        found = index.get('format') if isinstance(index, dict) else None
        raise ZooError(
            f'zoo {zoo}: index.json has format {short_repr(found)}, this version '
            f'reads {FORMAT}'
        )
    models = index.get('models')
    if not isinstance(models, dict):
        raise ZooError(f'zoo {zoo}: index.json has no models')
    for name in models:
        check_model_name(name, f'zoo {zoo}: ')
    return {name: _entry(raw, f'zoo {zoo}: {name}') for name, raw in models.items()}


def render_index(entries: dict[str, Entry]) -> str:
    """Formats an ``index.json``.

    Args:
        entries (dict[str, Entry]): The entries by model name.

    Returns:
        str: The text.

    Example:
        >>> render_index({})
        '{"format": 1, "models": {}}'
    """
    models = {
        name: {key: value for key, value in asdict(entry).items() if value is not None}
        for name, entry in entries.items()
    }
    return json.dumps(
        {'format': FORMAT, 'models': models}, indent=1 if models else None
    )


def _entry(raw: Any, where: str) -> Entry:
    if not isinstance(raw, dict):
        raise ZooError(f'{where} must be an object, not {short_repr(raw)}')
    for field, (fits, wanted) in {**_FIELDS, **_OPTIONAL}.items():
        value = raw.get(field)
        if value is None and field in _OPTIONAL:
            continue
        if value is None:
            raise ZooError(f'{where}.{field} is missing')
        if not fits(value):
            raise ZooError(f'{where}.{field} must be {wanted}, not {short_repr(value)}')
    ending = f'-{raw["sha256"][:8]}.safetensors'
    if not raw['file'].endswith(ending):
        raise ZooError(
            f'{where}.file must end in {ending}, the start of its sha256, '
            f'not {short_repr(raw["file"])}'
        )
    return Entry(**{f: raw[f] for f in (*_FIELDS, *_OPTIONAL) if f in raw})
