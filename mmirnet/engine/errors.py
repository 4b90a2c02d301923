"""Mistakes of the user, as one line that names them."""

import contextlib
import os
import sys
from collections.abc import Iterator

from torch import distributed

from ..errors import MmirnetError

#: Packages that only some of the tools need, and what pip calls them.
_OPTIONAL = {
    'jinja2': 'jinja2',
    'matplotlib': 'matplotlib',
    'onnx': 'onnx',
    'safetensors': 'safetensors',
    'sklearn': 'scikit-learn',
}


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one line and exit code 2 where the user can mend it.

    That is a :class:`~mmirnet.errors.MmirnetError`, an optional package that is not
    installed, or an error of the operating system (a missing file, no permission, a
    full disk). All others are bugs and keep their traceback. Several mistakes found at
    once are a line each. What several processes find alike, one of them says.
    """
    try:
        yield
    except Exception as error:
        message = user_message(error)
        if message is None:
            # MMEngine hides where in a hook a TypeError comes from.
            error.__suppress_context__ = False
            raise
        rank = f'[rank {os.environ["RANK"]}] ' if 'RANK' in os.environ else ''
        for line in message.splitlines():
            print(f'{rank}error: {line}', file=sys.stderr)
        sys.exit(2)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def user_message(error: Exception) -> str | None:
    """What to tell the user about an error; None if it is a bug.

    Example:
        >>> user_message(MmirnetError('no such model')), user_message(TypeError())
        ('no such model', None)
    """
    if isinstance(error, ModuleNotFoundError) and error.name in _OPTIONAL:
        return f'{error.name} is not installed: pip install {_OPTIONAL[error.name]}'
    system = isinstance(error, OSError) and not isinstance(error, ConnectionError)
    if not system and not isinstance(error, MmirnetError):
        return None
    message = str(error).strip()
    if message.startswith('Caught ') and 'Original Traceback' in message:
        # From a data worker, with its traceback: the error comes last.
        _, _, message = message.splitlines()[-1].partition('Error: ')
    return message
