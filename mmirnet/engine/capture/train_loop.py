"""A training loop that replays whole training steps as CUDA graphs.

Small networks spend four fifths of a training step on Python and on the launches of
kernels. The loop records several training steps once and replays them with one launch.
Hooks are called where they act, and between two calls no Python runs.
"""

import time
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook, IterTimerHook, ParamSchedulerHook, RuntimeInfoHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim import AmpOptimWrapper, OptimWrapperDict
from mmengine.registry import LOOPS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...errors import ConfigError, check_interval
from ..hooks import FiniteLossHook, OvSWHook
from ..loops import DeterministicEpochLoop
from ..wrappers import unwrap
from .graphs import problem_of_data
from .hook_calls import HookCalls, Iteration
from .static_step import OPTIMIZERS, WAY_OUT, StaticStep


class _Done(NamedTuple):
    """Iterations that ran and are not yet in the message hub."""

    rates: list[dict[str, float]]  # what the log shows, for each iteration
    outputs: dict[str, Tensor]  # (iterations, ...), on the device


@LOOPS.register_module()
class CapturedEpochLoop(DeterministicEpochLoop):
    """A deterministic epoch-based loop that replays training steps as CUDA graphs.

    The step is the one of :class:`DeterministicEpochLoop`: augmentation, forward pass,
    loss, backward pass, clipping, optimizer and EMA. Smaller last batches and the
    iterations that ``BinaryStatsHook`` records run uncaptured. Checkpoints fit both
    loops.

    The loop needs a GPU, ``InMemory`` data, and SGD, Adam or AdamW with ``fused=True``.
    What cannot be captured is refused before training. Distributed runs and float16
    with a loss scale run uncaptured, with a line in the log.

    Hooks act at their intervals. A hook that acts in every iteration, such as one's
    own, leads to replays of one step, with a line in the log. The loss stays on the
    device until a hook needs it, such as ``LoggerHook`` at its interval, and
    ``FiniteLossHook`` checks it then.

    Args:
        runner (Runner): The runner.
        dataloader (dict | DataLoader): ``train_dataloader``.
        steps_per_replay (int): Steps of a replay where no hook acts in between.
        capture (bool): If False, the same steps run one by one, on any device.
        **kwargs: Arguments of :class:`DeterministicEpochLoop`.

    Raises:
        ConfigError: If a part of the run cannot be captured; names it.

    Example:
        >>> train_cfg = dict(type='CapturedEpochLoop', max_epochs=400)
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict | DataLoader,
        steps_per_replay: int = 10,
        capture: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(runner, dataloader, **kwargs)
        check_interval('CapturedEpochLoop: steps_per_replay', steps_per_replay)
        self.steps_per_replay = steps_per_replay
        self.capture = capture
        self._step: StaticStep | None = None
        self._plain = False

    def run(self) -> nn.Module:
        """Checks what has to be captured, trains, and returns the model."""
        if self.capture and not torch.cuda.is_available():
            raise ConfigError(
                f'CapturedEpochLoop needs a GPU, and there is none: get one, {WAY_OUT}'
            )
        if reason := _runs_uncaptured(self.runner):
            self.runner.logger.warning(f'CapturedEpochLoop captures nothing: {reason}')
            self._plain = True
        else:
            check_capture(self.runner, self._data)
        return super().run()

    @property
    def _data(self) -> object:
        return self.dataloader.dataset.dataset

    def run_epoch(self) -> None:
        """Trains the rest of an epoch."""
        if self._plain:
            super().run_epoch()
            return
        if self._step is None:
            self._start()
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        if self._calls.change_between:
            self._step.forget()
        self._timer.start()
        first = self._enter(self._epoch, self.seen)
        if first < len(self.dataloader):
            self._run_batches(first)
        self.seen = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _start(self) -> None:
        """Prepares the step, after all hooks have prepared themselves."""
        runner = self.runner
        optimizer = runner.optim_wrapper.optimizer
        if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
            raise ConfigError(_ACTS_WITHIN.format('a hook of the optimizer'))
        size = self.dataloader.batch_size
        self._step = StaticStep(
            runner, self._data, size, self.steps_per_replay, self.capture
        )
        self._calls = HookCalls(runner, self._step.ema)
        self._timer = _Timer(runner)
        self._done: list[_Done] = []
        if self._calls.every:
            runner.logger.info(
                'CapturedEpochLoop: one step a replay, because '
                f'{", ".join(self._calls.every)} may act in every iteration'
            )

    # -- iterations --------------------------------------------------------------------

    def _run_batches(self, first: int) -> None:
        sampler = self.dataloader.sampler
        seen, size = self.seen, self.dataloader.batch_size
        batches = torch.tensor(sampler.order()).split(size)
        end = first + len(batches) - (len(batches[-1]) < size)  # of whole batches
        self._step.begin_epoch(sampler.seed, self._epoch)
        number = first
        while number < len(self.dataloader):
            self._timer.start_data()
            at, n = self._at(number), self.steps_per_replay
            whole = self._step.is_warm and end - number >= n
            if not whole or self._calls.free(at, n) < n:
                n = 1
            for i in range(number, number + n):
                seen = self._note_place(self._epoch, seen, i)
            self._run(at, torch.stack(batches[number - first : number - first + n]))
            number += n

    def _at(self, number: int) -> Iteration:
        return Iteration(self._iter, number, len(self.dataloader), self._max_iters)

    def _run(self, at: Iteration, rows: Tensor) -> None:
        """Runs the iterations of some batches, and the hooks before and after them."""
        n = len(rows)
        before = self._calls.before(at)
        data_batch = self._data_batch(rows[0]) if self._calls.every else None
        if before:
            self._seed()
        for hook in before:
            if hook is not self._step.ema:
                hook.before_train_iter(
                    self.runner, batch_idx=at.batch_idx, data_batch=data_batch
                )
        self._timer.stop_data()
        logged, rates = self._learning_rates(n)
        replay = rows.shape[1] == self._step.rows.shape[1]
        replay &= not self._calls.watched(before)
        outputs = self._step.run(rows, rates, replay=replay)
        self._done.append(_Done(logged, outputs))
        self._iter += n - 1
        self._after(self._at(at.batch_idx + n - 1), data_batch)
        self._iter += 1

    def _after(self, at: Iteration, data_batch: dict | None) -> None:
        """Calls the hooks that act after an iteration."""
        acting = self._calls.after(at)
        outputs = None
        if acting or at.batch_idx + 1 == at.length:
            self._seed()
            outputs = self._report()
        for hook in self._calls.acts:
            if hook in acting or _steps_schedulers(hook):
                hook.after_train_iter(
                    self.runner,
                    batch_idx=at.batch_idx,
                    data_batch=data_batch,
                    outputs=outputs,
                )

    def _data_batch(self, rows: Tensor) -> dict:
        """Returns what the data loader would give, for hooks that may look at it."""
        indices = map(self.dataloader.sampler.seeded, rows.tolist())
        return self._data.__getitems__(list(indices))

    def _learning_rates(
        self, n: int
    ) -> tuple[list[dict[str, float]], list[list[float]]]:
        """Returns what the log shows and what each group uses, in the next iterations.

        Schedulers that count iterations go ahead to the last of them, after which
        ``ParamSchedulerHook`` is called.
        """
        wrapper = self.runner.optim_wrapper
        logged, rates = [], []
        for i in range(n):
            if i:
                self._step_schedulers()
            logged.append({name: lr[0] for name, lr in wrapper.get_lr().items()})
            rates.append([group['lr'] for group in wrapper.optimizer.param_groups])
        return logged, rates

    def _step_schedulers(self) -> None:
        for hook in self._calls.acts:
            if _steps_schedulers(hook):
                hook.after_train_iter(self.runner, 0)

    # -- message hub -------------------------------------------------------------------

    def _report(self) -> dict[str, Tensor]:
        """Writes what ran since the last time into the hub; waits for the device.

        Returns:
            dict[str, Tensor]: Output of the last step.
        """
        done, self._done = self._done, []
        merged = {
            name: torch.cat([d.outputs[name] for d in done]) for name in done[0].outputs
        }
        finite = merged.pop('finite').cpu() if 'finite' in merged else None
        values = {name: v.tolist() for name, v in merged.items()}
        rates = [rate for d in done for rate in d.rates]
        hub = self.runner.message_hub
        kinds = {type(hook) for hook in self._calls.acts}
        if RuntimeInfoHook in kinds:
            hub.update_info('iter', self._iter)
            for name in rates[0]:
                extend_scalar(hub, f'train/{name}', [rate[name] for rate in rates])
        self._timer.report_data(len(rates))
        norm = getattr(self.runner.optim_wrapper, 'grad_name', None)
        for name, numbers in values.items():
            if name == norm or RuntimeInfoHook in kinds:
                extend_scalar(hub, f'train/{name}', numbers)
        self._timer.report(len(rates))
        for hook in self._calls.acts:
            if isinstance(hook, FiniteLossHook):
                first = self._iter + 1 - len(rates)
                hook.check_iterations(self.runner, first, values['loss'], finite)
        return {name: v[-1] for name, v in merged.items() if name != norm}


class _Timer:
    """Does the work of MMEngine's IterTimerHook for several iterations at once."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.hooks = [h for h in runner.hooks if isinstance(h, IterTimerHook)]
        self.start()

    def start(self) -> None:
        """Starts the time of the next iteration."""
        self.mark = time.time()
        self.data = 0.0

    def start_data(self) -> None:
        """Starts the time that the data of some iterations takes."""
        self.data_mark = time.time()

    def stop_data(self) -> None:
        """Stops the time that the data of some iterations takes."""
        self.data += time.time() - self.data_mark

    def report_data(self, n: int) -> None:
        """Writes the time that data took into the message hub."""
        if self.hooks:
            extend_scalar(
                self.runner.message_hub, 'train/data_time', [self.data / n] * n
            )

    def report(self, n: int) -> None:
        """Writes the time of the last iterations into the message hub."""
        runner = self.runner
        total = time.time() - self.mark
        for hook in self.hooks:
            extend_scalar(runner.message_hub, 'train/time', [total / n] * n)
            hook.time_sec_tot += total
            average = hook.time_sec_tot / (runner.iter - hook.start_iter + 1)
            left = runner.max_iters - runner.iter - 1
            runner.message_hub.update_info('eta', average * left)
        self.start()


def extend_scalar(hub: MessageHub, key: str, values: list[float]) -> None:
    """Appends to a scalar's history at once, which copies it only once.

    Args:
        hub (MessageHub): The hub.
        key (str): Name of the scalar.
        values (list[float]): The new values, at least one.

    Example:
        >>> hub = MessageHub('extended')
        >>> extend_scalar(hub, 'train/loss', [3.0, 2.0, 1.0])
        >>> hub.get_scalar('train/loss').mean(2).item()
        1.5
    """
    hub.update_scalar(key, values[0])
    if len(values) > 1:
        old = hub.log_scalars[key]
        logs, counts = old.data
        hub.log_scalars[key] = HistoryBuffer(
            np.append(logs, values[1:])[-old.max_length :],
            np.append(counts, [1] * (len(values) - 1))[-old.max_length :],
            old.max_length,
        )


def _steps_schedulers(hook: Hook) -> bool:
    return type(hook) is ParamSchedulerHook


_ACTS_WITHIN = (
    'CapturedEpochLoop: {} acts between backward pass and optimizer, '
    f'which a replay does not run: leave it out, {WAY_OUT}'
)


def _runs_uncaptured(runner: Runner) -> str | None:
    """Returns why a run that could be captured alone runs as usual."""
    if get_world_size() > 1:
        return 'a distributed run waits for other processes in each step'
    if isinstance(runner.optim_wrapper, AmpOptimWrapper):
        return (
            'the loss scale of AmpOptimWrapper depends on the gradients; '
            "optim_wrapper.type='Bf16OptimWrapper' needs no scale"
        )
    return None


def check_capture(runner: Runner, data: object) -> None:
    """Checks that a run can be captured, before it starts.

    Args:
        runner (Runner): The runner.
        data (object): The training data.

    Raises:
        ConfigError: If a part of the run cannot be captured; names it and a way out.
    """
    device = next(runner.model.parameters()).device
    for problem in (
        problem_of_data('train_dataloader', data, device),
        _problem_of_optimizer(runner.optim_wrapper),
        _problem_of_schedulers(runner.param_schedulers),
        _problem_of_model(unwrap(runner.model)),
    ):
        if problem:
            raise ConfigError(f'CapturedEpochLoop: {problem}, {WAY_OUT}')
    for hook in runner.hooks:
        if isinstance(hook, OvSWHook):
            raise ConfigError(_ACTS_WITHIN.format(type(hook).__name__))


def _problem_of_optimizer(wrapper: object) -> str | None:
    if isinstance(wrapper, OptimWrapperDict):
        return 'optim_wrapper has several optimizers: use one'
    if wrapper._accumulative_counts != 1:
        return (
            f'optim_wrapper.accumulative_counts={wrapper._accumulative_counts} does '
            'not step in every iteration: set 1 and a larger batch_size'
        )
    if (wrapper.clip_grad_kwargs or {}).get('error_if_nonfinite'):
        return (
            'optim_wrapper.clip_grad.error_if_nonfinite waits for the device: leave it '
            'out, FiniteLossHook checks weights'
        )
    optimizer = wrapper.optimizer
    fused = all(group.get('fused') for group in optimizer.param_groups)
    if type(optimizer) not in OPTIMIZERS or not fused:
        names = ', '.join(kind.__name__ for kind in OPTIMIZERS)
        return (
            f'optim_wrapper.optimizer is {type(optimizer).__name__} with '
            f'fused={fused}, and one of {names} with fused=True can be captured: '
            'use one'
        )
    return None


def _problem_of_schedulers(schedulers: object) -> str | None:
    for scheduler in schedulers if isinstance(schedulers, list) else []:
        if scheduler.param_name != 'lr' and not scheduler.by_epoch:
            return (
                f'param_scheduler {type(scheduler).__name__} changes '
                f'{scheduler.param_name} in each iteration, which a replay keeps: set '
                'by_epoch=True'
            )
    return None


def _problem_of_model(model: nn.Module) -> str | None:
    for name, module in model.named_modules():
        kind = type(module).__name__
        share = getattr(module, 'p', getattr(module, 'drop_prob', 0))
        dropout = isinstance(module, nn.modules.dropout._DropoutNd)
        if (dropout or kind == 'DropPath') and share:
            return (
                f'model.{name} is {kind}, whose random numbers a replay cannot seed by '
                'iteration: set its probability to 0'
            )
    if getattr(model.data_preprocessor, 'batch_augments', None) is not None:
        return (
            'model.train_cfg.augments (Mixup, CutMix) draw on the CPU in each step: '
            'leave them out'
        )
    return None
