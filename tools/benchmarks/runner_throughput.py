"""Compares the throughput of MMEngine's Runner with that of the training step alone.

Epochs of the Runner (loader, augmentation, hooks, logging, checkpoints) alternate with
the same number of steps on one preloaded batch (forward, loss, backward, optimizer).
"""

import argparse
import statistics
import tempfile

import torch
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from reports import write_json

from mmirnet.analysis.cost.measure import clock, machine, seconds
from mmirnet.apis.command_line import one_line_errors
from mmirnet.apis.running import build_runner, prepare_config
from mmirnet.engine.config import load_config, set_hook


class Throughput(Hook):
    """Times epochs and validations, and steps without the Runner after each epoch.

    Attributes:
        rounds (list[dict]): For each epoch: images/s of the Runner and of the step
            alone, and the seconds of training and validation.
    """

    #: After all other hooks at the end of an epoch.
    priority = 'LOWEST'

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.now = clock(device)[1]
        self.rounds = []
        self.batch = None

    def _time(self) -> float:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return self.now()

    def before_train_epoch(self, runner) -> None:
        """Starts the timer."""
        self.images = 0
        self.start = self._time()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Counts the images, and keeps the first batch for the steps alone."""
        self.images += len(data_batch['inputs'])
        if self.batch is None:
            self.batch = runner.model.data_preprocessor(data_batch, True)

    def after_train_epoch(self, runner) -> None:
        """Stops the timer, and times the same number of steps alone."""
        taken = self._time() - self.start
        steps = len(runner.train_dataloader)
        bare = sum(
            seconds(lambda: self._bare_step(runner), self.device) for _ in range(steps)
        )
        self.rounds.append(
            dict(
                runner_images_per_s=self.images / taken,
                bare_images_per_s=steps * len(self.batch['inputs']) / bare,
                train_s=taken,
                val_s=0.0,
            )
        )

    def _bare_step(self, runner) -> None:
        wrapper = runner.optim_wrapper
        with wrapper.optim_context(runner.model):
            loss = runner.model(**self.batch, mode='loss')['loss']
        wrapper.optimizer.zero_grad()
        wrapper.backward(loss)
        wrapper.step()

    def before_val_epoch(self, runner) -> None:
        """Starts the timer."""
        self.start = self._time()

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Stops the timer."""
        self.rounds[-1]['val_s'] = self._time() - self.start


def measure(
    cfg: Config, epochs: int, images: int | None, options: dict, in_memory: bool
) -> dict:
    """Trains some epochs and times them.

    Args:
        cfg (Config): Config of the run.
        epochs (int): Number of timed epochs, after one for warm-up.
        images (int | None): Images per epoch. Defaults to the entire data set.
        options (dict): As for ``--cfg-options``.
        in_memory (bool): Whether to keep the images on the device.

    Returns:
        dict: The report that is written as JSON.
    """
    total = cfg.train_cfg.max_epochs
    options = {'train_cfg.max_epochs': epochs + 1, **options}
    if images:
        options['train_dataloader.dataset.indices'] = images
    loaders = ('train_dataloader', 'val_dataloader')
    prepare_config(cfg, options, loaders, in_memory=in_memory)
    runner = build_runner(cfg, loaders)
    hook = Throughput(next(runner.model.parameters()).device)
    runner.register_hook(hook)
    runner.train()
    rounds = hook.rounds[1:]
    ratios = [r['runner_images_per_s'] / r['bare_images_per_s'] for r in rounds]
    middle = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
    return dict(
        machine=machine(hook.device),
        config=cfg.filename,
        options=options,
        batch=runner.train_dataloader.batch_size,
        epochs=epochs,
        **middle,
        ratio=dict(median=statistics.median(ratios), low=min(ratios), high=max(ratios)),
        whole_run_minutes=total * (middle['train_s'] + middle['val_s']) / 60,
    )


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='as for tools/train.py')
    parser.add_argument('--epochs', type=int, default=3, help='after one to warm up')
    parser.add_argument('--images', type=int, help='of an epoch (all)')
    parser.add_argument('--compile', action='store_true', help='the backbone')
    parser.add_argument('--in-memory', action='store_true', help='keep the images')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    parser.add_argument('--out', default='work_dirs/runner_throughput.json')
    return parser.parse_args()


def main() -> None:
    """Measures, prints and writes the report."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as work_dir, one_line_errors():
        cfg = load_config(args.config, work_dir, 'none')
        if args.compile:
            set_hook(cfg, 'compile', type='CompileHook')
        report = measure(
            cfg, args.epochs, args.images, args.cfg_options, args.in_memory
        )
    ratio = report['ratio']
    print(
        f'Runner {report["runner_images_per_s"]:.0f} images/s, bare step '
        f'{report["bare_images_per_s"]:.0f}: {ratio["median"]:.3f} '
        f'({ratio["low"]:.3f}-{ratio["high"]:.3f}); '
        f'the whole run takes {report["whole_run_minutes"]:.1f} minutes'
    )
    write_json(args.out, report)


if __name__ == '__main__':
    main()
