"""Reports the problems that checks find."""

import logging
from collections.abc import Iterable

from mmengine.logging import print_log

from ..errors import ConfigError


def report(problems: Iterable[Exception]) -> None:
    """Logs warnings and raises all other problems as one error.

    Args:
        problems (Iterable[Exception]): Output of the checks.

    Raises:
        Exception: One line per problem. It has the class of the problems if they share
            one, or else ConfigError.

    Example:
        >>> from mmirnet.errors import DataError
        >>> report([DataError('a'), DataError('b')])
        Traceback (most recent call last):
        mmirnet.errors.DataError: a
        b
    """
    errors = []
    for problem in problems:
        if isinstance(problem, Warning):
            print_log(str(problem), 'current', logging.WARNING)
        else:
            errors.append(problem)
    if errors:
        kinds = {type(error) for error in errors}
        kind = kinds.pop() if len(kinds) == 1 else ConfigError
        raise kind('\n'.join(dict.fromkeys(map(str, errors))))
