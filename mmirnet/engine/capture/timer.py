"""Times of several iterations that ran at once."""

import time

from mmengine.hooks import IterTimerHook
from mmengine.runner import Runner

from ..histories import extend_scalar


class Timer:
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
