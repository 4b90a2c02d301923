"""Runs of many configs and seeds: started once each, kept as JSON lines."""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import (
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from datetime import date
from pathlib import Path

import mmengine
import mmpretrain
import torch
from mmengine.config import Config

from .. import __version__
from ..analysis.results import read_results
from ..analysis.runs import read_scalars
from ..engine.config import load_config
from ..engine.config_checks import merge_options
from ..engine.speed import device_name
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
    """Trains every config with every seed, and writes a JSON line for each run.

    A run whose line is there is skipped; one that was interrupted goes on from its
    last checkpoint. A line says what it was made from: the digest of the config with
    all that it inherits, the seed, versions, device and time.

    Args:
        configs (Iterable[str | Path]): Config files.
        seeds (Sequence[int]): Seeds of each.
        results (str | Path): The file of JSON lines, which grows.
        work_dir (str | Path): Folder for the runs' own folders.
        jobs (int): Runs at a time, each in a process of its own.
        cfg_options (dict, optional): Settings over every config; part of the digest.

    Returns:
        list[dict]: The new lines.

    Raises:
        ConfigError: If ``jobs`` is 0 or negative.
        MmirnetError: If runs failed, after all others; names them.

    Example:
        >>> run_all(['configs/ablation/irnet.py'], [0], 'results.jsonl')
        ... # doctest: +SKIP
    """
    if jobs < 1:
        raise ConfigError(f'--jobs {jobs}: one run at a time or more')
    results = Path(results)
    done = {(r['config'], r['digest'], r['seed']) for r in read_results(results)}
    digests = {str(config): digest(config, cfg_options) for config in configs}
    wanted = [(config, seed) for seed in seeds for config in digests]
    tasks = [
        (config, seed)
        for config, seed in wanted
        if (Path(config).stem, digests[config], seed) not in done
    ]
    print(f'{len(wanted) - len(tasks)} of {len(wanted)} runs are done')
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


def _run_alone(*task) -> dict:
    """A run in a fresh process: nothing of it is left for the next, nor its crash."""
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as process:
        return process.submit(run_one, *task).result()


def run_one(config: str, seed: int, work_dir: str, cfg_options: dict | None) -> dict:
    """Trains once, and says with what result.

    Args:
        config (str): Config file.
        seed (int): Of everything random.
        work_dir (str): Folder for the run's own folder.
        cfg_options (dict | None): Settings over the config.

    Returns:
        dict: What :func:`run_all` writes as a line.
    """
    name = Path(config).stem
    settings = digest(config, cfg_options)
    folder = Path(work_dir) / f'{name}-seed{seed}-{settings[:8]}'
    options = {'log_level': 'WARNING', **(cfg_options or {}), 'randomness.seed': seed}
    start = time.time()
    runner = train(config, work_dir=str(folder), resume='auto', cfg_options=options)
    scalars, _ = read_scalars(folder)
    curve = [round(value, 2) for value in scalars[METRIC][1]]
    return dict(
        config=name,
        digest=settings,
        seed=seed,
        accuracy=curve[-1],
        curve=curve,
        epochs=runner.max_epochs,
        seconds=round(time.time() - start, 1),
        device=device_name(next(runner.model.parameters()).device),
        threads=torch.get_num_threads(),
        date=date.today().isoformat(),
        versions=dict(
            mmirnet=__version__,
            torch=torch.__version__,
            mmengine=mmengine.__version__,
            mmpretrain=mmpretrain.__version__,
        ),
    )


def digest(config: str | Path, cfg_options: dict | None = None) -> str:
    """SHA-256 of a config with all that it inherits, as 64 hexadecimal digits."""
    cfg: Config = load_config(str(config), '', 'none')
    merge_options(cfg, cfg_options)
    settings = cfg.to_dict()
    for key in ('work_dir', 'launcher', 'filename'):
        settings.pop(key, None)
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
