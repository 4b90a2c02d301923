"""Mistakes of the user, as one line that names them."""

import contextlib
import hashlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta

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

#: Seconds in which the launcher ends the other processes once the first has failed.
_PATIENCE = 10


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one line and exit code 2 where the user can mend it.

    That is a :class:`~mmirnet.errors.MmirnetError`, an optional package that is not
    installed, or an error of the operating system (a missing file, no permission, a
    full disk). All others are bugs and keep their traceback. Several mistakes found at
    once are a line each. What several processes of a run find alike, one of them says.
    """
    try:
        yield
    except Exception as error:
        message = user_message(error)
        if message is None:
            # MMEngine hides where in a hook a TypeError comes from.
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


def said_by_another(message: str) -> bool:
    """Whether another process of this run says the same.

    Processes of torchrun ask the store that it keeps for them. Slurm's and MPI's have
    none before they have met: all but the first wait until the launcher ends them.

    Args:
        message (str): What this process has to say.

    Returns:
        bool: False if nobody is known to say it.
    """
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True':
        digest = hashlib.sha256(message.encode()).hexdigest()
        attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
        # torch's errors of many kinds: then it is said once too often.
        with contextlib.suppress(Exception):
            store = distributed.TCPStore(
                os.environ['MASTER_ADDR'],
                int(os.environ['MASTER_PORT']),
                is_master=False,
                timeout=timedelta(seconds=_PATIENCE),
            )
            another = store.add(f'mmirnet/{attempt}/{digest}', 1) > 1
            # The launcher ends all when one has ended, and the other has to speak.
            time.sleep(another)
            return another
    elif rank := _rank_of_cluster():
        time.sleep(min(rank, _PATIENCE))
    return False


def _rank_of_cluster() -> int:
    rank = os.environ.get('SLURM_PROCID') or os.environ.get('OMPI_COMM_WORLD_RANK')
    return int(rank or 0)


def _place(error: Exception) -> str:
    """What is raised, and where: the same for a bug that all processes meet."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f'{frames[-1].filename}:{frames[-1].lineno}' if frames else ''
    return f'{place} {type(error).__name__}: {error}'
