"""Runs many configs with several seeds and stores the results as JSON lines."""

import hashlib
import json
import multiprocessing
import shlex
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path

import mmengine
import mmpretrain
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from .. import __version__
from ..analysis.results import read_results
from ..analysis.runs import read_scalars
from ..datasets.copies import cifar10_copy
from ..engine.config import load_config, merge_options
from ..engine.facts import parts
from ..errors import ConfigError, MmirnetError
from .training import train

METRIC = 'accuracy/top1'


def run_all(
    configs: Iterable[str | Path],
    seeds: Sequence[int],
    results: str | Path,
    *,
    work_dir: str | Path = 'work_dirs/experiments',
    jobs: int = 1,
    cfg_options: dict | None = None,
) -> list[dict]:
    """Trains every config with every seed, and appends one JSON line per run.

    Runs with a line in the file are skipped, and interrupted runs continue from their
    last checkpoint. A line contains the digest of the config with everything that it
    inherits, and another one of all but how it is computed; seed, versions and command;
    the accuracy of the last, the best and every epoch; the epochs of the run and of the
    recipe, and the copy of CIFAR-10; the seconds of all iterations, the devices and the
    precisions, across interruptions.

    Args:
        configs (Iterable[str | Path]): Config files.
        seeds (Sequence[int]): Seeds for each config.
        results (str | Path): JSON lines file to append to.
        work_dir (str | Path): Parent of the work folders.
        jobs (int): Number of parallel runs, each in its own process.
        cfg_options (dict, optional): Settings that override those of every config.
            They are part of the digest.

    Returns:
        list[dict]: The new lines.

    Raises:
        ConfigError: If ``jobs`` is not positive, or if a config does not train by
            epochs and validate ``accuracy/top1``.
        MmirnetError: After all runs, if some of them failed; names them.

    Example:
        >>> run_all(['configs/ablation/irnet.py'], [0], 'results.jsonl')
        ... # doctest: +SKIP
    """
    if jobs < 1:
        raise ConfigError(f'--jobs {jobs}: one run at a time or more')
    results = Path(results)
    settings = {str(config): _settings(config, cfg_options) for config in configs}
    for config, values in settings.items():
        _check(config, values)
    tasks = _unfinished(settings, seeds, read_results(results))
    results.parent.mkdir(parents=True, exist_ok=True)
    lines, failed = [], []
    with ThreadPoolExecutor(jobs) as pool:
        runs = {
            pool.submit(_run_alone, *task, str(work_dir), cfg_options): task
            for task in tasks
        }
        for run in as_completed(runs):
            config, seed = runs[run]
            if error := run.exception():
                failed.append(f'{Path(config).stem} seed {seed}: {error}')
                print(f'failed: {failed[-1]}')
                continue
            lines.append(run.result())
            with results.open('a') as file:
                file.write(json.dumps(lines[-1]) + '\n')
            print(
                f'{len(lines)}/{len(tasks)} {lines[-1]["config"]} seed {seed}: '
                f'{lines[-1]["accuracy"]:.2f} %, {lines[-1]["seconds"]:.0f} s'
            )
    if failed:
        raise MmirnetError('; '.join(failed))
    return lines


def _unfinished(
    settings: dict[str, dict], seeds: Sequence[int], lines: list[dict]
) -> list[tuple[str, int]]:
    """Returns config and seed of the runs that have no line yet."""
    done = {(line['config'], line['digest'], line['seed']) for line in lines}
    digests = {config: _sha256(values) for config, values in settings.items()}
    wanted = [(config, seed) for seed in dict.fromkeys(seeds) for config in digests]
    tasks = [
        (config, seed)
        for config, seed in wanted
        if (Path(config).stem, digests[config], seed) not in done
    ]
    print(f'{len(wanted) - len(tasks)} of {len(wanted)} runs are done')
    return tasks


def _check(config: str, settings: dict) -> None:
    """Refuses a config whose runs would have no line, before the first of them."""
    if 'max_epochs' not in (settings.get('train_cfg') or {}):
        raise ConfigError(f'{config}: train_cfg has no max_epochs; runs are of epochs')
    evaluators = settings.get('val_evaluator') or []
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    validates = settings.get('val_cfg') is not None
    if not validates or not any(map(_gives_the_metric, evaluators)):
        raise ConfigError(
            f'{config}: results hold {METRIC}, which its val_evaluator does not give: '
            "add dict(type='Accuracy', topk=(1,))"
        )


def _gives_the_metric(evaluator: dict) -> bool:
    """Whether an evaluator may give it: only MMPretrain's own is known."""
    topk = evaluator.get('topk', 1)
    topk = topk if isinstance(topk, list | tuple) else [topk]
    return evaluator.get('type') != 'Accuracy' or 1 in topk


def _run_alone(*task) -> dict:
    """Runs in a new process, so that runs do not share state or crashes.

    It ends with its run even where this process was killed: a pool's would wait for
    more, and keep the work folder locked.
    """
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_run, args=(sender, *task))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        raise MmirnetError(
            f'its process ended with exit status {process.exitcode}'
        ) from None
    process.join()
    if isinstance(result, Exception):
        raise result
    return result


def _send_run(sender: Connection, *task) -> None:
    try:
        result = run_one(*task)
    except Exception as error:
        result = error
    sender.send(result)


def run_one(config: str, seed: int, work_dir: str, cfg_options: dict | None) -> dict:
    """Trains once and returns the result.

    Args:
        config (str): Config file.
        seed (int): Seed of the run.
        work_dir (str): Parent of the work folder.
        cfg_options (dict | None): Settings that override those of the config.

    Returns:
        dict: The line that :func:`run_all` writes.
    """
    name, sha = Path(config).stem, digest(config, cfg_options)
    folder = Path(work_dir) / f'{name}-seed{seed}-{sha[:8]}'
    options = {'log_level': 'WARNING', **(cfg_options or {}), 'randomness.seed': seed}
    runner = train(config, work_dir=str(folder), resume='auto', cfg_options=options)
    return dict(
        config=name,
        digest=sha,
        recipe=recipe(config, cfg_options),
        seed=seed,
        **_accuracies(folder),
        epochs=runner.max_epochs,
        recipe_epochs=load_config(str(config), '', 'none').train_cfg.max_epochs,
        precision=_parts_of_the_run(runner, 'precisions'),
        copy=_copy(runner),
        seconds=_seconds(runner),
        device=_parts_of_the_run(runner, 'devices'),
        threads=torch.get_num_threads(),
        date=date.today().isoformat(),
        command=_command(config, seed, cfg_options),
        versions=dict(
            mmirnet=__version__,
            torch=torch.__version__,
            mmengine=mmengine.__version__,
            mmpretrain=mmpretrain.__version__,
        ),
    )


def _accuracies(folder: Path) -> dict:
    """Returns accuracy of the last and of the best epoch, and of all."""
    epochs, values = read_scalars(folder)[0][METRIC]
    curve = [round(value, 2) for value in values]
    best = max(curve)
    return dict(
        accuracy=curve[-1],
        best=best,
        best_epoch=int(epochs[curve.index(best)]),
        curve=curve,
    )


def _copy(runner: Runner) -> str | None:
    """Says which copy of CIFAR-10 the run was validated on; None for other data."""
    return cifar10_copy(parts(runner.val_dataloader.dataset)[0])


def _seconds(runner: Runner) -> float:
    """Sums the time of all iterations, which the checkpoints keep.

    That includes those before an interruption, on whatever machine, but not iterations
    that were lost and repeated.
    """
    scalars = runner.message_hub.log_scalars
    timed = [scalars[f'{phase}/time'].data[0] for phase in ('train', 'val')]
    return round(float(sum(times.sum() for times in timed)), 1)


def _parts_of_the_run(runner: Runner, name: str) -> str:
    """Names the devices or the precisions of a run, with those before interruptions."""
    return ', '.join(runner.message_hub.get_info('made_with')[name])


def _command(config: str, seed: int, cfg_options: dict | None) -> str:
    words = ['python', 'tools/experiments/run.py', str(config), '--seeds', str(seed)]
    if cfg_options:
        words += ['--cfg-options', *(f'{k}={v}' for k, v in cfg_options.items())]
    return shlex.join(words)


def digest(config: str | Path, cfg_options: dict | None = None) -> str:
    """Computes the SHA-256 of a config with everything that it inherits."""
    return _sha256(_settings(config, cfg_options))


def recipe(config: str | Path, cfg_options: dict | None = None) -> str:
    """Computes the SHA-256 of the settings that change more than rounding.

    It is the same for every precision, and compiled, captured or not.
    """
    settings = _settings(config, cfg_options)
    for loop in ('train_cfg', 'val_cfg'):
        settings.get(loop, {}).pop('type', None)
    for key in ('type', 'dtype', 'loss_scale'):
        settings.get('optim_wrapper', {}).pop(key, None)
    for hook in ('tf32', 'compile', 'channels_last', 'checkpoint'):
        settings.get('default_hooks', {}).pop(hook, None)
    return _sha256(settings)


def _settings(config: str | Path, cfg_options: dict | None) -> dict:
    cfg: Config = load_config(str(config), '', 'none')
    merge_options(cfg, cfg_options)
    settings = cfg.to_dict()
    for key in ('work_dir', 'launcher', 'filename'):
        settings.pop(key, None)
    return settings


def _sha256(settings: dict) -> str:
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
