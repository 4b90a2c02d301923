"""A training loop that replays whole training steps as CUDA graphs.

Small networks spend four fifths of a training step on Python and on the launches of
kernels. The loop records several training steps once and replays them with one launch.
Hooks are called where they act, and between two calls no Python runs.
"""

from typing import NamedTuple

import torch
from mmengine.hooks import Hook, ParamSchedulerHook, RuntimeInfoHook
from mmengine.registry import LOOPS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...errors import ConfigError, check_interval
from ..histories import extend_scalar
from ..hooks import FiniteLossHook
from ..loops import DeterministicEpochLoop
from .hook_calls import HookCalls, Iteration
from .requirements import check_capture, check_optimizer_hooks, runs_uncaptured
from .static_step import WAY_OUT, StaticStep
from .timer import Timer


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
        if reason := runs_uncaptured(self.runner):
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
        self._begin_epoch()
        if self._calls.change_between:
            self._step.forget()
        self._timer.start()
        first = self._enter(self._epoch, self.seen)
        if first < len(self.dataloader):
            self._run_batches(first)
        self._end_epoch()

    def _start(self) -> None:
        """Prepares the step, after all hooks have prepared themselves."""
        runner = self.runner
        check_optimizer_hooks(runner.optim_wrapper.optimizer)
        size = self.dataloader.batch_size
        self._step = StaticStep(
            runner, self._data, size, self.steps_per_replay, self.capture
        )
        self._calls = HookCalls(runner, self._step.ema)
        self._timer = Timer(runner)
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


def _steps_schedulers(hook: Hook) -> bool:
    return type(hook) is ParamSchedulerHook
