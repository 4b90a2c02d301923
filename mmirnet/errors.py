"""Exceptions of this package for mistakes that the user can correct.

The tools print these exceptions in one line, as they do errors of the operating system
(a missing file, a full disk). Any other exception is a bug and keeps its traceback.
"""

import math
import numbers
from collections.abc import Iterable


class MmirnetError(Exception):
    """Base class; the message names the mistake and the solution."""


class ConfigError(MmirnetError, ValueError):
    """An argument, a setting or a command line is invalid."""


class DataError(MmirnetError, ValueError):
    """Images, labels or classes do not match the network or the config."""


class CheckpointError(MmirnetError, ValueError):
    """A checkpoint is damaged, unsafe or of another network."""


class NonFiniteError(MmirnetError, ArithmeticError):
    """A value is NaN or infinite."""


class UnsupportedModelError(MmirnetError, ValueError):
    """The packed format does not support a model."""


class PackedFileError(MmirnetError, ValueError):
    """A packed file is invalid; the message names the file and the field."""


class ZooError(MmirnetError, ValueError):
    """A zoo, or a model in it, cannot be used."""


class MissingPackageError(MmirnetError, ImportError):
    """A required package is not installed."""


def check_choice(name: str, value: object, allowed: Iterable) -> None:
    """Checks that an argument has one of its allowed values.

    Args:
        name (str): Name of the argument.
        value (object): Value of the argument.
        allowed (Iterable): Allowed values.

    Raises:
        ConfigError: If the value is not allowed; names the argument and the allowed
            values.

    Example:
        >>> check_choice('depth', 19, (18, 34))
        Traceback (most recent call last):
        mmirnet.errors.ConfigError: depth must be one of [18, 34], got 19
    """
    if value not in list(allowed):
        raise ConfigError(f'{name} must be one of {list(allowed)}, got {value!r}')


def check_number(name: str, value: object, least: float, *, more: bool = False) -> None:
    """Checks that an argument is a finite number and not too small.

    Args:
        name (str): Name of the argument.
        value (object): Value of the argument.
        least (float): The smallest allowed value.
        more (bool): Whether the value has to be more than that. Defaults to False.

    Raises:
        ConfigError: If the value is not allowed; names the argument and the bound.

    Example:
        >>> check_number('momentum', -0.5, 0)
        Traceback (most recent call last):
        mmirnet.errors.ConfigError: momentum must be a number, at least 0, got -0.5
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (number and least <= value < math.inf) or (more and value == least):
        bound = f'more than {least}' if more else f'at least {least}'
        raise ConfigError(f'{name} must be a number, {bound}, got {value!r}')


def check_interval(owner: str, interval: object) -> None:
    """Checks that the interval of a hook is a positive integer.

    Args:
        owner (str): Name of the hook.
        interval (object): Value of its argument.

    Raises:
        ConfigError: If the interval is not allowed.

    Example:
        >>> check_interval('EDEHook', 0)
        Traceback (most recent call last):
        mmirnet.errors.ConfigError: EDEHook needs a positive interval, got 0
    """
    integer = isinstance(interval, numbers.Integral) and not isinstance(interval, bool)
    if not integer or interval < 1:
        raise ConfigError(f'{owner} needs a positive interval, got {interval!r}')


def first_line(error: BaseException) -> str:
    r"""Returns the first line of an error's message.

    Args:
        error (BaseException): The error.

    Returns:
        str: The first line, or the type of the error if it has no message.

    Example:
        >>> first_line(OSError('no space\nleft')), first_line(KeyError())
        ('no space', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def short_repr(value: object) -> str:
    """Formats a value for a message, with 60 characters at most.

    Args:
        value (object): The value.

    Returns:
        str: Its ``repr``, or the start of it.

    Example:
        >>> short_repr('a' * 80)
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..."
    """
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
