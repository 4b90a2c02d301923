"""A training step that can be recorded once as a CUDA graph and replayed.

A CUDA graph repeats the same kernels on the same addresses without any Python. So all
that changes from step to step is in tensors that are filled in place before a replay:
the samples of the batch, the augmentation drawn for the epoch, and the learning rate.
Everything else of the step is MMEngine's: the data preprocessor, the forward pass, the
losses, the backward pass, clipping, the optimizer and the moving average of the
weights. Without capture, the same code runs step by step.
"""

import contextlib
import random
import time
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import SGD, Adam, AdamW

from ...datasets.augmentation import Draws
from ...datasets.in_memory import InMemory
from ...datasets.labelled import labelled
from ...errors import ConfigError
from ..hooks import FiniteLossHook
from .graphs import capturing
from .hook_calls import works_as

#: Steps before the first capture: the first compiles and creates the optimizer's state,
#: and libraries choose their kernels.
WARM_UP = 3
#: Optimizers whose fused step reads the learning rate from a tensor.
OPTIMIZERS = (SGD, Adam, AdamW)
WAY_OUT = "or set train_cfg.type='DeterministicEpochLoop' (leave out --capture)"


class StaticStep:
    """Training steps on tensors that stay in place.

    Args:
        runner (Runner): The runner, before the first iteration.
        data (InMemory): The training data.
        batch_size (int): Size of the batches that are replayed.
        steps (int): Steps of a long replay. There are also replays of one step.
        capture (bool): Whether to replay CUDA graphs. If False, the same steps run one
            by one.
    """

    def __init__(
        self, runner: Runner, data: InMemory, batch_size: int, steps: int, capture: bool
    ) -> None:
        self.runner, self.data = runner, data
        self.capture = capture
        self.device = data.images.device
        wrapper = runner.optim_wrapper
        self.groups = wrapper.optimizer.param_groups
        self.ema = averaging_hook(runner)
        self.finite_loss = next(
            (h for h in runner.hooks if isinstance(h, FiniteLossHook)), None
        )
        #: Which images a colour changes is drawn, so no graph can repeat it.
        self.prepared = data.augmentation.jitter is not None
        self.draws: Draws | None = None
        self.rows = torch.zeros(steps, batch_size, dtype=torch.long, device=self.device)
        # Fused optimizers read a float32 on GPUs, and a float64 exactly on CPUs.
        kind = torch.float64 if self.device.type == 'cpu' else torch.float32
        shape = steps, len(self.groups)
        self.rates = torch.zeros(shape, dtype=kind, device=self.device)
        self._rates: list[list[float]] | None = None
        self.images: Tensor | None = None  # if they are prepared outside
        self.outputs: dict[str, Tensor] = {}
        self._stream = torch.cuda.Stream() if capture else None
        self._pool = None
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._kept: tuple | None = None
        self._warm = 0
        self._last: dict[str, Tensor] = {}

    def begin_epoch(self, seed: int, epoch: int) -> None:
        """Draws the augmentation of an epoch, in place."""
        if not self.data.augmentation.draws:
            return
        drawn = self.data.draw(seed, epoch)
        if self.draws is None:
            self.draws = Draws(*(None if d is None else d.clone() for d in drawn))
            return
        for old, new in zip(self.draws, drawn, strict=True):
            if old is not None:
                old.copy_(new)

    @property
    def is_warm(self) -> bool:
        """Whether steps can be replayed if nothing has changed."""
        return self._kept is not None and self._warm >= WARM_UP

    def forget(self) -> None:
        """Forgets the graphs, because something in the model may have changed."""
        self._kept = None

    def run(
        self, rows: Tensor, rates: list[list[float]], *, replay: bool = True
    ) -> dict[str, Tensor]:
        """Trains on the next batches.

        Args:
            rows (Tensor): (n, batch), int64, on the CPU: the samples of n batches.
            rates (list[list[float]]): Learning rate of each parameter group, for each
                of the n steps.
            replay (bool): Whether a graph may be replayed. Smaller batches, and
                iterations that a hook watches inside the network, cannot.

        Returns:
            dict[str, Tensor]: For each number that a step logs, (n,). ``finite`` is
            (n, tensors): whether the tensors of FiniteLossHook were finite before it.

        Raises:
            ConfigError: If the step draws random numbers or cannot be captured.
        """
        kept = self._what_a_graph_keeps()
        if kept != self._kept:
            self._kept, self._warm = kept, 0
            self._graphs.clear()
            self._pool = None
        if not (replay and self.is_warm and self.capture):
            warms = replay and not self.is_warm
            return self._run_uncaptured(rows, rates, warms)
        self._fill(rows, rates)
        self._graph(len(rows)).replay()
        self._count(len(rows))
        return {name: out[: len(rows)].clone() for name, out in self.outputs.items()}

    # -- one step ----------------------------------------------------------------------

    def _step(
        self, rows: Tensor, rates: Tensor, images: Tensor | None
    ) -> dict[str, Tensor]:
        """Runs one step of MMEngine; nothing in it waits for the device."""
        outputs = {}
        finite = self.finite_loss and self.finite_loss.are_finite()
        if finite is not None:
            outputs['finite'] = finite
        if images is None:
            images = self.data.take(rows, self.draws)
        batch = dict(
            inputs=images, data_samples=labelled(self.data.labels[rows], join=True)
        )
        wrapper = self.runner.optim_wrapper
        with self._rates_in(rates), _clipping_into(outputs, wrapper):
            logged = self.runner.model.train_step(batch, optim_wrapper=wrapper)
        if self.ema is not None:
            self.ema.after_train_iter(self.runner, 0)
        return {k: v.detach() for k, v in {**outputs, **logged}.items()}

    @contextlib.contextmanager
    def _rates_in(self, rates: Tensor) -> Iterator[None]:
        """Lets the optimizer read the learning rates from tensors, for one step."""
        saved = [dict(group) for group in self.groups]
        capturing = self.capture and torch.cuda.is_current_stream_capturing()
        for group, rate in zip(self.groups, rates, strict=True):
            group['lr'] = rate
            if capturing and 'capturable' in group:  # as all fused steps are
                group['capturable'] = True
        try:
            yield
        finally:
            for group, old in zip(self.groups, saved, strict=True):
                group.update(old)

    def _run_uncaptured(
        self, rows: Tensor, rates: list[list[float]], warms: bool
    ) -> dict[str, Tensor]:
        values = torch.tensor(rates, dtype=self.rates.dtype).to(self.device)
        steps = []
        with self._side_stream():
            for batch, rate in zip(rows, values, strict=True):
                images = self.data.take(batch, self.draws) if self.prepared else None
                before = _random_states(self.device)
                steps.append(self._step(batch.to(self.device), rate, images))
                # The first step compiles, which may draw numbers of its own.
                if warms and self._warm and before != _random_states(self.device):
                    raise ConfigError(
                        'CapturedEpochLoop: the model draws random numbers in a '
                        'training step, which a replay cannot seed by iteration: leave '
                        f'out what draws them (dropout, DropPath), {WAY_OUT}'
                    )
                self._warm += warms
        self._last = steps[-1]
        return {name: torch.stack([s[name] for s in steps]) for name in self._last}

    def _what_a_graph_keeps(self) -> tuple:
        """Returns what is fixed when a graph is captured; equal if nothing changed."""
        options = [
            {k: v for k, v in group.items() if k not in ('params', 'lr')}
            for group in self.groups
        ]
        model = self.runner.model
        weights = [(p.data_ptr(), p.requires_grad) for p in model.parameters()]
        buffers = [b.data_ptr() for b in model.buffers()]
        averaging = None
        if self.ema is not None:
            started = self.ema._ema_started(self.runner)
            averaging = started, int(self.ema.ema_model.steps) == 0
        return options, weights, buffers, averaging

    # -- CUDA graphs -------------------------------------------------------------------

    @contextlib.contextmanager
    def _side_stream(self) -> Iterator[None]:
        """Runs steps on the stream of the captures, as torch requires."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)

    def _fill(self, rows: Tensor, rates: list[list[float]]) -> None:
        """Fills what the graphs read, without waiting for the device."""
        self.rows[: len(rows)].copy_(rows, non_blocking=True)
        if self._rates is None or rates != self._rates[: len(rates)]:
            new = torch.tensor(rates, dtype=self.rates.dtype)
            self.rates[: len(rates)].copy_(new, non_blocking=True)
            self._rates = rates
        if self.prepared:
            images = torch.stack([self.data.take(batch, self.draws) for batch in rows])
            if self.images is None:
                self.images = images.new_empty(len(self.rows), *images.shape[1:])
            self.images[: len(rows)].copy_(images)

    def _graph(self, steps: int) -> torch.cuda.CUDAGraph:
        """Returns the graph of a number of steps, captured the first time."""
        if steps not in self._graphs:
            start = time.perf_counter()
            self._graphs[steps] = self._captured(steps)
            self.runner.logger.info(
                f'CapturedEpochLoop: a replay of {steps} steps was captured in '
                f'{time.perf_counter() - start:.1f} s'
            )
        return self._graphs[steps]

    def _captured(self, steps: int) -> torch.cuda.CUDAGraph:
        """Captures steps on the static tensors. Only replays run them.

        All that outlives a replay (weights, the optimizer's state, buffers, outputs)
        exists before the capture, so the graphs share one pool of memory.
        """
        for name, value in self._last.items():
            shape = len(self.rows), *value.shape
            if name not in self.outputs or self.outputs[name].shape != shape:
                self.outputs[name] = value.new_zeros(shape)
        graph = torch.cuda.CUDAGraph()
        what = 'CapturedEpochLoop: the training step'
        with capturing(graph, what, WAY_OUT, pool=self._pool, stream=self._stream):
            for i in range(steps):
                images = self.images[i] if self.prepared else None
                step = self._step(self.rows[i], self.rates[i], images)
                for name, value in step.items():
                    self.outputs[name][i].copy_(value)
        self._count(-steps)  # the captured steps did not run yet
        self._pool = graph.pool()
        return graph

    def _count(self, steps: int) -> None:
        """Counts steps where Python does, which a replay does not run."""
        self.runner.optim_wrapper._inner_count += steps
        if self.ema is not None and self.ema._ema_started(self.runner):
            self.ema.ema_model.steps += steps


def averaging_hook(runner: Runner) -> EMAHook | None:
    """Returns the EMAHook whose update can be part of a step, if there is one.

    It is an exponential moving average on the model's device, updated in every step.
    """
    for hook in runner.hooks:
        average = getattr(hook, 'ema_model', None)
        if (
            works_as(hook, EMAHook)
            and type(average) is ExponentialMovingAverage
            and average.interval == 1
            # Otherwise each update waits for the device.
            and average.steps.device.type == 'cpu'
        ):
            return hook
    return None


@contextlib.contextmanager
def _clipping_into(outputs: dict[str, Tensor], wrapper: OptimWrapper) -> Iterator[None]:
    """Keeps the norm of clipped gradients on the device, in ``outputs``."""
    if not wrapper.clip_grad_kwargs:
        yield
        return
    clip = wrapper.clip_func

    def clip_and_keep(*args, **kwargs) -> None:
        if (norm := clip(*args, **kwargs)) is not None:
            outputs[wrapper.grad_name] = norm

    wrapper.clip_func = clip_and_keep
    try:
        yield
    finally:
        wrapper.clip_func = clip


def _random_states(device: torch.device) -> tuple:
    """Returns the states of all generators that a model may draw from."""
    _, words, place, *_ = np.random.get_state()
    states = [torch.get_rng_state()]
    if device.type == 'cuda':
        states.append(torch.cuda.get_rng_state(device))
    tensors = [state.numpy().tobytes() for state in states]
    return random.getstate(), words.tobytes(), place, tensors
