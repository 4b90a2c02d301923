"""A hook for the schedule of EDE (section 3.3, eq. 9)."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from ...binary import binary_layers, ede, set_ede
from ...binary.schedules import T_MAX, T_MIN
from ...errors import ConfigError


@HOOKS.register_module()
class EDEHook(Hook):
    r"""Sets EDE's t and k in all binary layers during training.

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

    priority = 'NORMAL'

    def __init__(
        self,
        t_min: float = T_MIN,
        t_max: float = T_MAX,
        by_epoch: bool = True,
        interval: int = 1,
    ) -> None:
        ede(0.0, t_min, t_max)  # checks the bounds
        if interval < 1:
            raise ConfigError(f'EDEHook needs a positive interval, got {interval}')
        self.t_min = t_min
        self.t_max = t_max
        self.by_epoch = by_epoch
        self.interval = interval

    def values(self, runner: Runner) -> tuple[float, float]:
        """Computes EDE's (t, k) for the current epoch or iteration of the runner."""
        if self.by_epoch:
            done, total = runner.epoch, runner.max_epochs
        else:
            done, total = runner.iter, runner.max_iters
        done -= done % self.interval
        # A resumed run may have more progress than its new length.
        return ede(min(done / max(total, 1), 1.0), self.t_min, self.t_max)

    def _set(self, runner: Runner) -> None:
        t, k = self.values(runner)
        set_ede(runner.model, t, k)
        hub = runner.message_hub
        for name, value in (('train/t', t), ('train/k', k)):
            # A resumed run may already have this entry.
            known = name in hub.log_scalars
            if not known or hub.get_scalar(name).current() != value:
                hub.update_scalar(name, value)

    def before_train(self, runner: Runner) -> None:
        """Checks that the model has binary layers, and sets the initial values."""
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ConfigError(
                'EDEHook counts epochs, but the training loop counts iterations: '
                'set by_epoch=False'
            )
        if not any(True for _ in binary_layers(runner.model)):
            runner.logger.warning(
                'EDEHook has nothing to set: the model has no binary layers'
            )
        self._set(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Sets t and k of this epoch."""
        if self.by_epoch and runner.epoch % self.interval == 0:
            self._set(runner)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None
    ) -> None:
        """Sets t and k of this iteration."""
        if not self.by_epoch and runner.iter % self.interval == 0:
            self._set(runner)
