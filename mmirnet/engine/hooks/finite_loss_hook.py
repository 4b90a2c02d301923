"""A hook that stops a diverged run and reports where it diverged."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ...binary import binary_layers
from ...errors import NonFiniteError
from ..checks.guessing import learns_nothing
from ..wrappers import unwrap


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops training when the loss, a weight or a running statistic is NaN or infinite.

    The error names the tensors, or the images of the batch, where the first NaN or
    infinity appeared, the iteration, the learning rate, t and k, and the last good
    checkpoint. A checkpoint that contains NaN or infinity is not written.

    Each iteration checks the loss, which the log fetches from the device anyway, and
    the norms of all weights, running statistics and float images. The device computes
    the norms before the iteration and the host reads them together with the loss, so
    the hook adds no synchronisation. A NaN gradient turns its weight into NaN in the
    same step.

    The hook warns once if the loss of an epoch is that of guessing.

    Example:
        >>> custom_hooks = [dict(type='FiniteLossHook')]
    """

    #: After the log has fetched the loss, before any checkpoint is written.
    priority = 'ABOVE_NORMAL'

    def __init__(self) -> None:
        self._watched: dict[str, Tensor] = {}
        self._batch: dict[str, Tensor] = {}
        self._finite: Tensor | None = None
        self._all_finite: Tensor | None = None
        self._iteration = 0
        self._last_good: str | None = None
        self._warned = False

    def before_train(self, runner: Runner) -> None:
        """Checks the weights and statistics that training starts from.

        Raises:
            ArithmeticError: If a weight or a running statistic is not finite.
        """
        self._watched = _weights_and_statistics(unwrap(runner.model))
        self._last_good = runner.message_hub.runtime_info.get('last_ckpt')
        if names := _non_finite(self._watched):
            self._stop(runner, f'{_listed(names)} not finite before training starts')

    def before_train_epoch(self, runner: Runner) -> None:
        """Collects the tensors again, because hooks may have replaced weights."""
        self._watched = _weights_and_statistics(unwrap(runner.model))

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None
    ) -> None:
        """Starts the check of weights and statistics on the device, asynchronously."""
        self._last_good = runner.message_hub.runtime_info.get('last_ckpt')
        self._iteration = runner.iter + 1
        self._batch = _floats(_tensors(data_batch, 'batch'))
        self._finite = _are_finite({**self._batch, **self._watched})
        self._all_finite = None if self._finite is None else self._finite.all()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Checks the loss of this iteration and the tensors from before it.

        Raises:
            ArithmeticError: If one of them is not finite.
        """
        names = []
        if self._all_finite is not None and not self._all_finite:
            names = _names({**self._batch, **self._watched}, self._finite)
        if names:
            where = '' if names[0] in self._batch else _since(runner.iter)
            self._stop(runner, f'{_listed(names)} not finite{where}')
        scalars = runner.message_hub.log_scalars
        loss = scalars['train/loss'].current() if 'train/loss' in scalars else 0.0
        if not math.isfinite(loss):
            self._stop(runner, f'the loss is {loss}: {_cause(runner)}')

    def are_finite(self) -> Tensor | None:
        """Computes on the device whether each weight and statistic is finite.

        Returns:
            Tensor | None: (tensors,), bool; None if there are none.
        """
        return _are_finite(self._watched)

    def check_iterations(
        self, runner: Runner, first: int, losses: list[float], finite: Tensor | None
    ) -> None:
        """Checks iterations that a loop ran at once, as if one by one.

        Args:
            runner (Runner): The runner.
            first (int): Index of the first iteration.
            losses (list[float]): Loss of each iteration.
            finite (Tensor | None): (iterations, tensors), outputs of
                :meth:`are_finite` before each iteration.

        Raises:
            ArithmeticError: If a loss, weight or statistic is not finite.
        """
        self._last_good = runner.message_hub.runtime_info.get('last_ckpt')
        for i, loss in enumerate(losses):
            self._iteration = first + i + 1
            fine = finite is None or finite[i].all()
            if not fine and (names := _names(self._watched, finite[i])):
                self._stop(runner, f'{_listed(names)} not finite{_since(first + i)}')
            if not math.isfinite(loss):
                # What is watched was finite before, and is not after later iterations.
                cause = _cause(runner, known=self._watched)
                self._stop(runner, f'the loss is {loss}: {cause}')

    def after_train_epoch(self, runner: Runner) -> None:
        """Checks weights, statistics and the loss after the last iteration.

        Raises:
            ArithmeticError: If a weight or a running statistic is not finite.
        """
        if names := _non_finite(self._watched):
            self._stop(runner, f'{_listed(names)} not finite{_since(runner.iter)}')
        if not self._warned and (warning := learns_nothing(runner)):
            self._warned = True
            runner.logger.warning(warning)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuses to save a checkpoint from which no run can continue.

        Raises:
            ArithmeticError: If a weight or a running statistic in it is not finite.
        """
        state = checkpoint['state_dict']
        watched = _weights_and_statistics(unwrap(runner.model)).keys() & state.keys()
        if names := _non_finite({n: state[n] for n in state if n in watched}):
            self._stop(runner, f'{_listed(names)} not finite, so no checkpoint is made')

    def _stop(self, runner: Runner, what: str) -> None:
        numbers = {'lr': runner.optim_wrapper.get_lr()}
        for _, layer in binary_layers(runner.model):
            values = (f'{value:.6g}' for value in layer.t_and_k.tolist())
            numbers |= zip(layer.schedule.numbers, values, strict=False)
        settings = ', '.join(f'{name}={value}' for name, value in numbers.items())
        raise NonFiniteError(
            f'{what}; stopped at iteration {self._iteration} of epoch '
            f'{runner.epoch + 1}, {settings}; the last good checkpoint is '
            f'{self._last_good or "not there yet"}'
        )


def _weights_and_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Returns parameters, running means and variances, but no other buffers."""
    found = dict(model.named_parameters())
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            prefix = f'{name}.' if name else ''
            found |= {f'{prefix}{n}': b for n, b in module.named_buffers(recurse=False)}
    return _floats(found.items())


def _floats(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Selects the tensors that can contain NaN."""
    return {
        name: tensor.detach()
        for name, tensor in tensors
        if not nn.parameter.is_lazy(tensor)
        and tensor.is_floating_point()
        and tensor.numel()
    }


def _are_finite(tensors: dict[str, Tensor]) -> Tensor | None:
    """Computes on the device whether each norm is finite; None without tensors."""
    if not tensors:
        return None
    norms = torch._foreach_norm(list(tensors.values()))
    dtype = functools.reduce(torch.promote_types, {n.dtype for n in norms})
    return torch.stack([n.to(norms[0].device, dtype) for n in norms]).isfinite()


def _non_finite(tensors: dict[str, Tensor]) -> list[str]:
    finite = _are_finite(tensors)
    if finite is None or finite.all():
        return []
    return _names(tensors, finite)


def _names(tensors: dict[str, Tensor], finite: Tensor) -> list[str]:
    suspects = [n for n, f in zip(tensors, finite.tolist(), strict=True) if not f]
    # The norm of huge values overflows, so check the values. NaN and inf stay so.
    return [name for name in suspects if not _is_finite(tensors[name])]


def _listed(names: list[str]) -> str:
    """Formats the first three names with a verb."""
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return f'{", ".join(names[:3])}{more} {"are" if len(names) > 1 else "is"}'


def _since(iterations: int) -> str:
    if not iterations:
        return ' before the first step'
    return (
        f' since the step of iteration {iterations} (a gradient or the learning rate)'
    )


def _cause(runner: Runner, known: Iterable[str] = ()) -> str:
    """Finds the origin of a NaN loss if all checked tensors are finite."""
    buffers = unwrap(runner.model).named_buffers()
    if names := [n for n, b in buffers if n not in known and not _is_finite(b)]:
        return f'{_listed(names)} not finite'
    return (
        'weights, statistics and images were finite, so the forward pass or the loss '
        'overflowed'
    )


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _tensors(value, name: str) -> Iterator[tuple[str, Tensor]]:
    """Iterates over the tensors in dicts and lists with their keys, without labels."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(part, f'{name}[{key!r}]')
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from _tensors(part, f'{name}[{i}]')
