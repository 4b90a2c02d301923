"""Options and one-line error messages of command-line tools."""

import argparse
import contextlib
import hashlib
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any
from urllib.error import URLError

from mmengine.config import DictAction
from torch import distributed

from ..errors import ConfigError, MmirnetError, first_line
from ..files import check_writable
from ..registry import refused_settings

#: Optional packages by import name, with their names for pip.
_OPTIONAL = {
    'jinja2': 'jinja2',
    'matplotlib': 'matplotlib',
    'onnx': 'onnx',
    'safetensors': 'safetensors',
    'sklearn': 'scikit-learn',
}

#: A dict, alone or in a list: DictAction would make it a string, or not end.
_DICT = re.compile(r"""(^|[\[(,])\s*['"]?\s*(dict\(|\{[^{},]*:)""")

#: Seconds until the launcher ends all processes after the first has failed.
_PATIENCE = 10


def parse_options(words: Sequence[str] | None) -> dict[str, Any] | None:
    """Reads the words of ``--cfg-options`` as MMEngine's ``DictAction`` does.

    Args:
        words (Sequence[str], optional): Settings, ``KEY=VALUE`` each.

    Returns:
        dict[str, Any] | None: Settings by dotted key. None if there are no words.

    Raises:
        ConfigError: If a word has no key or no value, or a dict as value; names it.

    Example:
        >>> parse_options(['train_cfg.max_epochs=2', 'size=(8,9)'])
        {'train_cfg.max_epochs': 2, 'size': (8, 9)}
    """
    if words is None:
        return None
    options = argparse.Namespace()
    parse = DictAction([], 'found')
    for word in words:
        key, equals, value = word.partition('=')
        if not key.strip() or not equals:
            raise ConfigError(f'--cfg-options {word}: write KEY=VALUE')
        if _DICT.search(value):
            raise ConfigError(
                f'--cfg-options {word}: dicts are not read here; set their values one '
                'by one, as in default_hooks.ema.type=EMAHook, or write them into a '
                'config'
            )
        try:
            parse(None, options, [word])
        except AssertionError as error:
            raise ConfigError(f'--cfg-options {word}: {first_line(error)}') from error
        except RecursionError:  # DictAction's, for what is neither value nor list
            raise ConfigError(
                f'--cfg-options {word}: the brackets do not make one list'
            ) from None
    return options.found


def at_least(least: float) -> Callable[[str], float]:
    """Makes the type of an argument that is a number from a minimum on.

    Args:
        least (float): The minimum. If it is an int, so is the number.

    Returns:
        Callable[[str], float]: A ``type`` for argparse.

    Example:
        >>> at_least(1)('3'), at_least(0.5)('3')
        (3, 3.0)
    """

    def number(text: str) -> float:
        with contextlib.suppress(ValueError):
            if (value := type(least)(text)) >= least:
                return value
        what = 'a whole number' if isinstance(least, int) else 'a number'
        raise argparse.ArgumentTypeError(f'{text}: give {what} from {least} on')

    return number


def writable(path: str, ending: str = '') -> str:
    """Checks a file for results while the command line is read.

    Args:
        path (str): The file.
        ending (str): What the tool adds to its name. Defaults to ''.

    Returns:
        str: The path as it is.

    Raises:
        ArgumentTypeError: If the file cannot be written.
    """
    try:
        check_writable(path + ending)
    except OSError as error:
        raise argparse.ArgumentTypeError(error.strerror) from error
    return path


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one line and exit code 2 for errors of the user.

    These are a :class:`~mmirnet.errors.MmirnetError`, a missing optional package, an
    error of the operating system (a missing file, no permission, a full disk), and
    settings that a class of torch or OpenMMLab refuses. Any other error is a bug and
    keeps its traceback. Several errors found at once have one line each. If several
    processes of a run raise the same error, one of them prints it.
    """
    try:
        yield
    except Exception as error:
        message = user_message(error)
        if message is None:
            # MMEngine hides where in a hook a TypeError was raised.
            error.__suppress_context__ = False
            if said_by_another(_place(error)):
                sys.exit(1)
            raise
        if not said_by_another(message):
            rank = f'[rank {os.environ["RANK"]}] ' if 'RANK' in os.environ else ''
            for line in message.splitlines():
                print(f'{rank}error: {line}', file=sys.stderr)
        sys.exit(2)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def user_message(error: Exception) -> str | None:
    """Returns the message of an error for the user.

    Args:
        error (Exception): The error.

    Returns:
        str | None: The message, or None if the error is a bug.

    Example:
        >>> user_message(MmirnetError('no such model')), user_message(TypeError())
        ('no such model', None)
    """
    if isinstance(error, ModuleNotFoundError) and error.name in _OPTIONAL:
        return f'{error.name} is not installed: pip install {_OPTIONAL[error.name]}'
    system = isinstance(error, OSError) and not isinstance(error, ConnectionError)
    if not system and not isinstance(error, MmirnetError):
        return refused_settings(error)
    if isinstance(error, URLError):  # a line before names URL and file
        return (
            f'the download failed: {error.reason}; check the network, or put the file '
            'into its place by hand'
        )
    message = str(error).strip()
    if message.startswith('Caught ') and 'Original Traceback' in message:
        # From a data worker, with its traceback. The error is in the last line.
        _, _, message = message.splitlines()[-1].partition('Error: ')
    return message


def said_by_another(message: str) -> bool:
    """Whether another process of this run prints the same message.

    Processes of torchrun ask its store. Those of Slurm and MPI have no store before the
    process group exists: all except the first wait until the launcher ends them.

    Args:
        message (str): Message of this process.

    Returns:
        bool: False if no other process is known to print it.
    """
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True':
        digest = hashlib.sha256(message.encode()).hexdigest()
        attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
        # torch raises many kinds of errors here. In that case, print the message.
        with contextlib.suppress(Exception):
            store = distributed.TCPStore(
                os.environ['MASTER_ADDR'],
                int(os.environ['MASTER_PORT']),
                is_master=False,
                timeout=timedelta(seconds=_PATIENCE),
            )
            another = store.add(f'mmirnet/{attempt}/{digest}', 1) > 1
            # The launcher ends all processes after the first; the other has to print.
            time.sleep(another)
            return another
    elif rank := _rank_of_cluster():
        time.sleep(min(rank, _PATIENCE))
    return False


def _rank_of_cluster() -> int:
    rank = os.environ.get('SLURM_PROCID') or os.environ.get('OMPI_COMM_WORLD_RANK')
    return int(rank or 0)


def _place(error: Exception) -> str:
    """Returns type and place of an error, which all processes share for a bug."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f'{frames[-1].filename}:{frames[-1].lineno}' if frames else ''
    return f'{place} {type(error).__name__}: {error}'
