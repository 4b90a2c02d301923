"""What this package raises where the user can mend it.

The tools print these in one line, and errors of the operating system (a missing file,
a full disk). Everything else is a bug and keeps its traceback.
"""

from collections.abc import Iterable


class MmirnetError(Exception):
    """A mistake that its message names, with the way out."""


class ConfigError(MmirnetError, ValueError):
    """An argument, a setting or a command line that cannot work."""


class DataError(MmirnetError, ValueError):
    """Images, labels or classes that do not fit."""


class CheckpointError(MmirnetError, ValueError):
    """A checkpoint that is damaged, unsafe or of another network."""


class NonFiniteError(MmirnetError, ArithmeticError):
    """A number of a training run is NaN or infinite."""


class UnsupportedModelError(MmirnetError, ValueError):
    """A model that the packed format cannot hold."""


class PackedFileError(MmirnetError, ValueError):
    """A packed file that cannot be trusted; the message names file and field."""


class ZooError(MmirnetError, ValueError):
    """A zoo or a model in it that cannot be used."""


class MissingPackageError(MmirnetError, ImportError):
    """A package that has to be installed first."""


def check_choice(name: str, value: object, allowed: Iterable) -> None:
    """Refuses an argument that is none of the values it may have.

    Args:
        name (str): Of the argument.
        value (object): What it is.
        allowed (Iterable): What it may be.

    Raises:
        ConfigError: Names the argument, and all that it may be.

    Example:
        >>> check_choice('depth', 19, (18, 34))
        Traceback (most recent call last):
        mmirnet.errors.ConfigError: depth must be one of [18, 34], got 19
    """
    if value not in list(allowed):
        raise ConfigError(f'{name} must be one of {list(allowed)}, got {value!r}')


def first_line(error: BaseException) -> str:
    r"""What an error of others says, in one line; its type if it says nothing.

    Example:
        >>> first_line(OSError('no space\nleft')), first_line(KeyError())
        ('no space', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
