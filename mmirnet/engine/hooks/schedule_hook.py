"""A hook for what moves with training in the binary layers."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from ...binary import SCHEDULES, binary_layers, schedule_at, set_schedule
from ...errors import ConfigError, check_interval


@HOOKS.register_module()
class ScheduleHook(Hook):
    r"""Sets the numbers of a schedule in all binary layers that have it.

    After i of N epochs (or iterations), the numbers are those of the progress i/N:

    ======== ======= ============================== ==================================
    schedule numbers bounds and their defaults      formula
    ======== ======= ============================== ==================================
    'ede'    t, k    ``t_min=0.1, t_max=10``        IR-Net, eq. 9, and AdaBin
    'reste'  o       ``o_end=3``                    1 + (o_end - 1)(1 - cos(p pi / 2))
    'recu'   tau     ``tau_min=.85, tau_max=.99``   A exp(p) + B
    ======== ======= ============================== ==================================

    They follow from the progress of the runner, so a resumed run has the same values as
    an uninterrupted one. The log shows them by name. Other schedules are registered by
    :func:`~mmirnet.binary.register_schedule`.

    Args:
        schedule (str): A key of :data:`~mmirnet.binary.SCHEDULES`.
        by_epoch (bool): Count epochs. If False, count iterations.
        interval (int): Number of epochs or iterations between two updates.
        **bounds (float): Arguments of the schedule.

    Raises:
        ValueError: If a bound is unknown or out of range, if the interval is not
            positive, or if ``by_epoch`` is set in an iteration-based loop.

    Example:
        >>> custom_hooks = [dict(type='ScheduleHook', schedule='reste', o_end=3)]
    """

    priority = 'NORMAL'

    def __init__(
        self, schedule: str, by_epoch: bool = True, interval: int = 1, **bounds: float
    ) -> None:
        schedule_at(schedule, 0.0, **bounds)  # checks the bounds
        check_interval(type(self).__name__, interval)
        self.schedule = SCHEDULES[schedule]
        self.by_epoch = by_epoch
        self.interval = interval
        self.bounds = bounds

    def values(self, runner: Runner) -> tuple[float, float]:
        """Computes the numbers for the current epoch or iteration of the runner."""
        if self.by_epoch:
            done, total = runner.epoch, runner.max_epochs
        else:
            done, total = runner.iter, runner.max_iters
        done -= done % self.interval
        # A resumed run may have more progress than its new length.
        progress = min(done / max(total, 1), 1.0)
        return schedule_at(self.schedule.name, progress, **self.bounds)

    def _set(self, runner: Runner) -> None:
        numbers = self.values(runner)
        set_schedule(runner.model, self.schedule.name, *numbers)
        hub = runner.message_hub
        for name, value in zip(self.schedule.numbers, numbers, strict=False):
            # A resumed run may already have this entry.
            name = f'train/{name}'
            known = name in hub.log_scalars
            if not known or hub.get_scalar(name).current() != value:
                hub.update_scalar(name, value)

    def before_train(self, runner: Runner) -> None:
        """Checks that there are layers with the schedule, and sets the first values."""
        name = type(self).__name__
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ConfigError(
                f'{name} counts epochs, but the training loop counts iterations: '
                'set by_epoch=False'
            )
        layers = [layer for _, layer in binary_layers(runner.model)]
        if not any(layer.schedule.name == self.schedule.name for layer in layers):
            others = sorted({layer.schedule.name for layer in layers})
            runner.logger.warning(
                f'{name} has nothing to set: '
                + (
                    f'the schedule of the binary layers is not {self.schedule.name!r} '
                    f'but {", ".join(map(repr, others))}'
                    if others
                    else 'the model has no binary layers'
                )
            )
        self._set(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Sets the values of this epoch."""
        if self.by_epoch and runner.epoch % self.interval == 0:
            self._set(runner)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None
    ) -> None:
        """Sets the values of this iteration."""
        if not self.by_epoch and runner.iter % self.interval == 0:
            self._set(runner)
