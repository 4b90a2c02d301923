"""EDE's schedule: t and k as functions of the training progress."""

import math

from ..errors import ConfigError

#: Bounds of EDE's schedule in the paper (section 3.3).
T_MIN, T_MAX = 0.1, 10.0


def ede(progress: float, t_min: float = T_MIN, t_max: float = T_MAX):
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
