"""A hook that saves a checkpoint when the cluster preempts the job."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import distributed
from torch.utils.data import DataLoader

from ...errors import ConfigError, check_interval
from ..loops import DeterministicEpochLoop, DeterministicIterLoop
from .checkpoint_hook import AtomicCheckpointHook


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Finishes the iteration, saves and exits with code 0 on SIGTERM or SIGUSR1.

    Slurm sends these signals before it ends a job (``--signal=USR1@60``). Windows has
    only SIGTERM. With a deterministic training loop, ``--resume`` continues with the
    next iteration of the same epoch. With other loops, it repeats the epoch. Python
    delivers signals only to the main thread, so a run in another thread logs that it
    cannot be preempted. The data workers ignore the signals, which a scheduler sends to
    all processes of a job.

    Args:
        interval (int): Number of iterations after which the ranks of a distributed run
            check whether one of them received a signal. All ranks have to stop at the
            same iteration.

    Raises:
        ValueError: If the interval is not positive, or if the run has no
            AtomicCheckpointHook.

    Example:
        >>> custom_hooks = [dict(type='PreemptionHook')]
    """

    #: After all other hooks of an iteration.
    priority = 'LOWEST'
    signals = tuple(
        getattr(signal, name)
        for name in ('SIGTERM', 'SIGUSR1')
        if hasattr(signal, name)
    )

    def __init__(self, interval: int = 10) -> None:
        check_interval('PreemptionHook', interval)
        self.interval = interval
        self.received: int | None = None
        self.previous = {}
        self._loop: BaseLoop | None = None

    def before_train(self, runner: Runner) -> None:
        """Installs the signal handlers."""
        savers = [h for h in runner.hooks if isinstance(h, AtomicCheckpointHook)]
        if not savers:
            raise ConfigError(
                'PreemptionHook saves through AtomicCheckpointHook: set '
                "default_hooks.checkpoint.type='AtomicCheckpointHook'"
            )
        self.saver = savers[0]
        if threading.current_thread() is threading.main_thread():
            self._loop = runner.train_loop
            self.previous = {s: signal.signal(s, self._receive) for s in self.signals}
            for loop in (runner.train_loop, runner.val_loop):
                _protect_workers(loop, self.signals)
        else:
            runner.logger.warning(
                'PreemptionHook cannot receive signals: training does not run in the '
                'main thread'
            )
        # On the CPU, so that the check does not synchronise with the GPU.
        several = get_world_size() > 1
        self.group = distributed.new_group(backend='gloo') if several else None

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if _is_within(self._loop, frame):
            self.received = signum
            return
        # Training has failed, and after_train was not called.
        self.after_train(None)
        signal.raise_signal(signum)

    def _anybody_received(self, runner: Runner) -> bool:
        if self.group is None:
            return self.received is not None
        if (runner.iter + 1) % self.interval:
            return False
        flag = torch.tensor(int(self.received is not None))
        distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self.group)
        return bool(flag)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Saves and exits if a signal was received."""
        if not self._anybody_received(runner):
            return
        name = signal.Signals(self.received or signal.SIGTERM).name
        path = self.saver.save_within_epoch(runner)
        exact = isinstance(
            runner.train_loop, DeterministicEpochLoop | DeterministicIterLoop
        )
        runner.logger.info(
            f'{name}: saved {path} after iteration {runner.iter + 1}; --resume '
            + ('continues there' if exact else 'repeats this epoch')
        )
        sys.exit(0)

    def after_train(self, runner: Runner | None) -> None:
        """Restores the previous signal handlers."""
        for number, handler in self.previous.items():
            # None stands for a handler that Python did not set.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self.previous = {}


def _is_within(loop: BaseLoop, frame: FrameType | None) -> bool:
    """Whether a frame was called, directly or not, by a method of a loop."""
    while frame is not None and frame.f_locals.get('self') is not loop:
        frame = frame.f_back
    return frame is not None


def _protect_workers(loop: BaseLoop | None, signals: tuple[int, ...]) -> None:
    """Lets the data workers of a loop ignore signals that their loader did not send."""
    loader = getattr(loop, 'dataloader', None)
    if not isinstance(loader, DataLoader) or not loader.num_workers:
        return
    if not hasattr(signal, 'sigwaitinfo'):  # neither Windows nor macOS has it
        return
    loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn, signals)
    # Loops of iterations have started workers already, which the loader may keep.
    loader._iterator = None
    if getattr(loop, 'dataloader_iterator', None) is not None:
        with torch.random.fork_rng(devices=[]):
            loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)


def _start_worker(start: Callable | None, signals: tuple[int, ...], i: int) -> None:
    """Starts a data worker as its loader would have, with a thread for its signals."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    threading.Thread(target=_obey_the_loader, args=(signals,), daemon=True).start()
    if start is not None:
        start(i)


def _obey_the_loader(signals: tuple[int, ...]) -> None:
    """Ends this worker once the loader says so, which it does by SIGTERM as well."""
    loader = multiprocessing.parent_process().pid
    while True:
        found = signal.sigwaitinfo(signals)
        if found.si_signo == signal.SIGTERM and found.si_pid == loader:
            os._exit(0)
