"""Schedules: numbers of the binary layers as functions of the training progress."""

import math
import numbers
from collections.abc import Callable
from typing import NamedTuple

from ..errors import ConfigError, check_choice

#: Bounds of EDE's schedule in the paper (section 3.3).
T_MIN, T_MAX = 0.1, 10.0


def ede(
    progress: float, t_min: float = T_MIN, t_max: float = T_MAX
) -> tuple[float, float]:
    r"""Computes t and k of EDE's schedule (eq. 9) at a point of the training.

    .. math::
        t = T_{min} \cdot 10^{\,p \cdot \log_{10}(T_{max} / T_{min})},
        \qquad k = \max(1/t, 1)

    Args:
        progress (float): Completed fraction of the training, i/N in [0, 1].
        t_min (float): t at the start. Positive.
        t_max (float): t at the end. Greater than ``t_min``.

    Returns:
        tuple[float, float]: t and k.

    Raises:
        ValueError: If the bounds are not 0 < t_min < t_max, or the progress is not
            in [0, 1].

    Example:
        >>> ede(0.0)
        (0.1, 10.0)
        >>> ede(0.5)
        (1.0, 1.0)
    """
    if not 0 < t_min < t_max < math.inf:
        raise ConfigError(
            f'EDE needs 0 < t_min < t_max, got t_min={t_min} and t_max={t_max}'
        )
    if not 0 <= progress <= 1:
        raise ConfigError(f'EDE needs a progress from 0 to 1, got {progress}')
    t = t_min * 10 ** (progress * math.log10(t_max / t_min))
    return t, max(1 / t, 1.0)


class Schedule(NamedTuple):
    """What moves with training: two numbers t and k that every binary layer has.

    Attributes:
        name (str): Name of the schedule, and of the layers' buffer.
        numbers (tuple[str, ...]): What the numbers are called, one or two. A second
            number without a name is 1 and not used.
        formula (str): The numbers as functions of the progress p, as TeX.
        source (str): Short name, and paper.
        at (Callable): (progress from 0 to 1, bounds as keywords) -> (t, k).
    """

    name: str
    numbers: tuple[str, ...]
    formula: str
    source: str
    at: Callable[..., tuple[float, float]]


#: All schedules by name.
SCHEDULES: dict[str, Schedule] = {}


def register_schedule(schedule: Schedule) -> Schedule:
    """Registers a schedule by its name, for ``ScheduleHook``.

    Args:
        schedule (Schedule): The schedule.

    Returns:
        Schedule: The same schedule.

    Raises:
        ConfigError: If another schedule has this name.

    Example:
        >>> ramp = Schedule('ramp', ('t',), 'p', 'none', lambda p: (p, 1.0))
        >>> register_schedule(ramp).at(0.5)
        (0.5, 1.0)
        >>> del SCHEDULES['ramp']
    """
    if SCHEDULES.setdefault(schedule.name, schedule) is not schedule:
        raise ConfigError(f'a schedule {schedule.name!r} is already registered')
    return schedule


def schedule_at(name: str, progress: float, **bounds: float) -> tuple[float, float]:
    """Computes the numbers of a schedule.

    Args:
        name (str): A key of :data:`SCHEDULES`.
        progress (float): Completed fraction of the training, in [0, 1].
        **bounds (float): Arguments of the schedule; the published ones by default.

    Returns:
        tuple[float, float]: t and k.

    Raises:
        ConfigError: If the name, the progress or a bound is wrong.

    Example:
        >>> schedule_at('ede', 1.0, t_max=5)
        (5.0, 1.0)
    """
    check_choice('schedule', name, SCHEDULES)
    if not 0 <= progress <= 1:
        raise ConfigError(f'a schedule needs a progress from 0 to 1, got {progress}')
    for bound, value in bounds.items():
        if not isinstance(value, numbers.Real):
            raise ConfigError(
                f'schedule {name!r}: {bound} must be a number, got {value!r}'
            )
    try:
        return SCHEDULES[name].at(progress, **bounds)
    except TypeError as error:
        raise ConfigError(f'schedule {name!r}: {error}') from error


register_schedule(
    Schedule(
        'ede',
        ('t', 'k'),
        r't = T_{min} 10^{p \log_{10}(T_{max} / T_{min})}, \quad k = \max(1/t, 1)',
        'EDE, IR-Net eq. 9',
        ede,
    )
)
#: Nothing moves.
CONSTANT = Schedule('constant', (), '', '', lambda progress: (1.0, 1.0))
