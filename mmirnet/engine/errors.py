"""Mistakes of the user, as one line that names them."""

import contextlib
import difflib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator

from torch import distributed

from ..errors import MmirnetError

_UNKNOWN = re.compile(r"got an unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r'missing \d+ required .*arguments?: (.*)')


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one line and exit code 2 where the user can mend it.

    That is a :class:`~mmirnet.errors.MmirnetError`, a keyword that a class of this
    package does not have, or an error of the operating system (a missing file, no
    permission, a full disk). All others are bugs and keep their traceback.
    """
    try:
        yield
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        rank = f'[rank {os.environ["RANK"]}] ' if 'RANK' in os.environ else ''
        print(f'{rank}error: {message}', file=sys.stderr)
        sys.exit(2)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def user_message(error: Exception) -> str | None:
    """What to tell the user about an error; None if it is a bug."""
    if isinstance(error, TypeError):
        return unknown_argument(error)
    system = isinstance(error, OSError) and not isinstance(error, ConnectionError)
    if not system and not isinstance(error, MmirnetError):
        return None
    # A data worker's error carries its traceback; the message comes last.
    message = str(error)
    return re.sub(r'^\w+Error: ', '', message.strip().splitlines()[-1])


def unknown_argument(error: TypeError) -> str | None:
    """The nearest valid name, if a class of ours got a wrong keyword, or too few.

    Args:
        error (TypeError): What building a config raised.

    Returns:
        str | None: One line, or None if the error is another one.
    """
    first = error
    while first.__context__ is not None:  # MMEngine raises it again, from outside
        first = first.__context__
    found, missing = _UNKNOWN.search(str(first)), _MISSING.search(str(first))
    ours = [
        value
        for frame, _ in traceback.walk_tb(first.__traceback__)
        for value in _classes(frame.f_locals)
        if value.__module__.startswith('mmirnet.')
    ]
    if not ours or not (found or missing):
        return None
    cls = ours[-1]
    if missing:
        return f'{cls.__name__} needs the argument {missing[1]}'
    name = found[1]
    near = difflib.get_close_matches(name, allowed := _keywords(cls), n=1)
    hint = f'did you mean {near[0]!r}?' if near else f'allowed are {allowed}'
    return f'{cls.__name__} has no argument {name!r}; {hint}'


def _classes(scope: dict) -> list[type]:
    """Classes that are being built in a frame."""
    built = [value for value in scope.values() if isinstance(value, type)]
    return [*built, type(scope['self'])] if 'self' in scope else built


def _keywords(cls: type) -> list[str]:
    """Names that a class's constructor takes, its bases' included."""
    names = []
    for base in cls.__mro__:
        if '__init__' in vars(base) and base is not object:
            for p in inspect.signature(base.__init__).parameters.values():
                if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                    names.append(p.name)
    return sorted(set(names) - {'self'})
