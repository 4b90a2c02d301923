"""A hook for the schedule of EDE (section 3.3, eq. 9)."""

from mmengine.registry import HOOKS

from ...binary.schedules import T_MAX, T_MIN
from .schedule_hook import ScheduleHook


@HOOKS.register_module()
class EDEHook(ScheduleHook):
    r"""Sets EDE's t and k in all binary layers during training.

    :class:`ScheduleHook` with ``schedule='ede'``:

    .. math::
        t = T_{min} \cdot 10^{\,i/N \cdot \log_{10}(T_{max} / T_{min})},
        \qquad k = \max(1/t, 1)

    after i of N epochs (or iterations). The values follow from the progress of the
    runner, so a resumed run has the same values as an uninterrupted one. The log shows
    them as ``t`` and ``k``.

    Args:
        t_min (float): t at the start: 0.1 in the paper, 1e-3 for ResNet-20 1/1 in the
            released code.
        t_max (float): t at the end. The last step does not quite reach it.
        by_epoch (bool): Count epochs, as in the paper. If False, count iterations, as
            the released ImageNet trainer does.
        interval (int): Number of epochs or iterations between two updates.

    Raises:
        ValueError: If the bounds are not 0 < t_min < t_max, if the interval is not
            positive, or if ``by_epoch`` is set in an iteration-based loop.

    Example:
        >>> custom_hooks = [dict(type='EDEHook', t_min=0.1, t_max=10)]
    """

    def __init__(
        self,
        t_min: float = T_MIN,
        t_max: float = T_MAX,
        by_epoch: bool = True,
        interval: int = 1,
    ) -> None:
        super().__init__('ede', by_epoch, interval, t_min=t_min, t_max=t_max)
