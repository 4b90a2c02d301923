"""Compares the throughput of MMEngine's Runner with that of the training step alone.

Epochs of the Runner (loader, augmentation, hooks, logging, checkpoints) alternate with
steps on one preloaded batch (forward, loss, backward, optimizer).
"""

import argparse
import statistics
import tempfile

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from reports import write_json

from mmirnet.analysis.cost.measure import machine, seconds
from mmirnet.apis.command_line import at_least, one_line_errors, parse_options, writable
from mmirnet.apis.running import build_runner, prepare_config
from mmirnet.datasets.in_memory import is_in_memory
from mmirnet.engine.config import load_config, set_captured_loop, set_hook

BARE_STEPS = 50  # after each epoch, or those of an epoch if they are fewer


class Throughput:
    """Times epochs and validations, and steps without the Runner after each epoch.

    It is no hook, because a hook that acts in every epoch would change what the loop
    with captured steps does.

    Args:
        runner (Runner): The runner, before training.

    Attributes:
        rounds (list[dict]): For each epoch: images/s of the Runner and of the step
            alone, and the seconds of training and validation.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner, self.rounds, self.batch = runner, [], None
        self.device = next(runner.model.parameters()).device
        train_loop, val_loop = runner.train_loop, runner.val_loop
        self._train_epoch, self._validate = train_loop.run_epoch, val_loop.run
        train_loop.run_epoch, val_loop.run = self._time_epoch, self._time_validation

    def _time_epoch(self) -> None:
        """Times an epoch, and some steps alone."""
        loader = self.runner.train_dataloader
        if self.batch is None:
            batch = next(iter(loader))
            self.batch = self.runner.model.data_preprocessor(batch, True)
        taken = seconds(self._train_epoch, self.device)
        steps = len(loader)
        images = steps * loader.batch_size if loader.drop_last else len(loader.dataset)
        bare_steps = min(steps, BARE_STEPS)
        bare = sum(seconds(self._bare_step, self.device) for _ in range(bare_steps))
        self.rounds.append(
            dict(
                runner_images_per_s=images / taken,
                bare_images_per_s=bare_steps * len(self.batch['inputs']) / bare,
                train_s=taken,
                val_s=0.0,
            )
        )

    def _bare_step(self) -> None:
        wrapper = self.runner.optim_wrapper
        with wrapper.optim_context(self.runner.model):
            loss = self.runner.model(**self.batch, mode='loss')['loss']
        wrapper.optimizer.zero_grad()
        wrapper.backward(loss)
        wrapper.step()
        wrapper.zero_grad()

    def _time_validation(self) -> None:
        taken = seconds(self._validate, self.device)
        self.rounds[-1]['val_s'] = taken


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
        inside = '.dataset' if is_in_memory(cfg.train_dataloader) else ''
        options[f'train_dataloader.dataset{inside}.indices'] = images
    loaders = ('train_dataloader', 'val_dataloader')
    prepare_config(cfg, options, loaders, in_memory=in_memory)
    runner = build_runner(cfg, loaders)
    throughput = Throughput(runner)
    runner.train()
    rounds = throughput.rounds[1:]
    ratios = [r['runner_images_per_s'] / r['bare_images_per_s'] for r in rounds]
    middle = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
    return dict(
        machine=machine(throughput.device),
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
    parser.add_argument(
        '--epochs',
        type=at_least(1),
        default=3,
        help='epochs to time, after one to warm up (3)',
    )
    parser.add_argument('--images', type=at_least(1), help='images of an epoch (all)')
    parser.add_argument('--compile', action='store_true', help='compile the backbone')
    parser.add_argument(
        '--capture',
        action='store_true',
        help='replay whole steps (GPU; sets --in-memory)',
    )
    parser.add_argument('--amp', action='store_true', help='compute in bfloat16')
    parser.add_argument(
        '--in-memory', action='store_true', help='keep the images in memory'
    )
    parser.add_argument(
        '--threads', type=at_least(1), default=1, help='threads of torch (1)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        metavar='KEY=VALUE',
        help='override settings of the config',
    )
    parser.add_argument(
        '--out',
        type=writable,
        default='work_dirs/runner_throughput.json',
        help='JSON file for the results (work_dirs/runner_throughput.json)',
    )
    return parser.parse_args()


def main() -> None:
    """Measures, prints and writes the report."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as work_dir, one_line_errors():
        cfg = load_config(args.config, work_dir, 'none')
        if args.compile:
            set_hook(cfg, 'compile', type='CompileHook')
        if args.amp:
            cfg.optim_wrapper.type = 'Bf16OptimWrapper'
        if args.capture:
            set_captured_loop(cfg)
        in_memory = args.in_memory or args.capture
        options = parse_options(args.cfg_options) or {}
        report = measure(cfg, args.epochs, args.images, options, in_memory)
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
