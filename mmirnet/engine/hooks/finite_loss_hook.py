"""A run whose loss is lost should end, and say where."""

import math

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...binary import binary_layers
from ...errors import NonFiniteError


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops training when the loss is NaN or infinite.

    Reads the number that the log has fetched from the device anyway, so it costs
    no synchronisation.

    Example:
        >>> custom_hooks = [dict(type='FiniteLossHook')]
    """

    #: After the log has the loss, before any checkpoint is written.
    priority = 'ABOVE_NORMAL'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Check the loss of this iteration.

        Raises:
            ArithmeticError: If it is not finite; with the iteration, the learning
                rate, t and k, and the last checkpoint.
        """
        loss = runner.message_hub.get_scalar('train/loss').current()
        if math.isfinite(loss):
            return
        lr = runner.optim_wrapper.get_lr()
        layer = next(binary_layers(runner.model), None)
        t, k = layer[1].ede.tolist() if layer else (None, None)
        last = runner.message_hub.runtime_info.get('last_ckpt')
        raise NonFiniteError(
            f'the loss is {loss} at iteration {runner.iter + 1} of epoch '
            f'{runner.epoch + 1}, lr={lr}, t={t}, k={k}; the last good checkpoint is '
            f'{last or "not there yet"}'
        )
