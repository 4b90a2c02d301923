"""Reads the results of experiments, JSON lines that tools/experiments/run.py writes."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path

from ..errors import ConfigError


def read_results(path: str | Path) -> list[dict]:
    """Reads a file of results.

    Args:
        path (str | Path): JSON lines file.

    Returns:
        list[dict]: The lines, or an empty list if the file does not exist.

    Raises:
        ValueError: If a line is not JSON; names it.
    """
    path = Path(path)
    if not path.exists():
        return []
    results = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ConfigError(f'{path}, line {number}: {error}') from None
    return results


def by_config(results: Iterable[dict]) -> dict[str, list[dict]]:
    """Groups results by config, best mean first.

    Of a config with several budgets, the runs with most epochs count.

    Args:
        results (Iterable[dict]): Lines of a file of results.

    Returns:
        dict[str, list[dict]]: The runs of each config, one per seed.
    """
    return {
        name: next(iter(runs.values())) for name, runs in by_budget(results).items()
    }


def by_budget(results: Iterable[dict]) -> dict[str, dict[int, list[dict]]]:
    """Groups results by config, best mean of the most epochs first, and by epochs.

    Of a config with several settings, the newest count, and of several runs with one
    seed. Runs in another precision have the same settings.

    Args:
        results (Iterable[dict]): Lines of a file of results.

    Returns:
        dict[str, dict[int, list[dict]]]: The runs of each config, one per seed, by
        their epochs, most first.
    """
    groups: dict[str, dict[tuple, dict[int, dict]]] = {}
    for line in results:
        runs = groups.setdefault(line['config'], {})
        key = budget(line), line.get('recipe', line['digest'])
        seeds = runs[key] = runs.pop(key, {})  # the newest is last
        seeds[line['seed']] = line
    newest = {
        name: {epochs: list(seeds.values()) for (epochs, _), seeds in runs.items()}
        for name, runs in groups.items()
    }
    ranked = sorted(newest, key=lambda name: -mean(newest[name][max(newest[name])]))
    return {name: dict(sorted(newest[name].items(), reverse=True)) for name in ranked}


def mean(lines: list[dict]) -> float:
    """Returns the mean accuracy of the last epoch over the runs of a config."""
    return statistics.fmean(line['accuracy'] for line in lines)


def budget(line: dict) -> int:
    """Returns the epochs of a run."""
    return line.get('epochs', len(line['curve']))


def best(line: dict) -> tuple[float, int]:
    """Returns accuracy and number of a run's best epoch.

    Args:
        line (dict): A line of the results. Lines of earlier versions have only the
            curve.

    Returns:
        tuple[float, int]: Accuracy in % and epoch.

    Example:
        >>> best(dict(curve=[50.0, 70.0, 60.0]))
        (70.0, 2)
    """
    if 'best' in line:
        return line['best'], line['best_epoch']
    top = max(line['curve'])
    return top, line['curve'].index(top) + 1


def read_costs(folder: str | Path) -> dict[str, dict[str, float]]:
    """Reads size and speed of the networks in a folder of configs.

    Args:
        folder (str | Path): Folder with ``costs.json``, which
            ``tools/benchmarks/ablation_costs.py`` writes.

    Returns:
        dict[str, dict[str, float]]: ``packed_bytes``, ``runtime_us`` and ``step_ms`` by
        config. Empty if not measured.
    """
    return _costs(folder).get('configs', {})


def costs_device(folder: str | Path) -> str:
    """Says where and when :func:`read_costs` was measured; empty if it was not."""
    measured = _costs(folder)
    if 'device' not in measured:
        return ''
    threads = f'threads: {measured["threads"]}'
    words = measured['device'], measured['vector'], threads, measured['date']
    return ', '.join(words)


def _costs(folder: str | Path) -> dict:
    path = Path(folder) / 'costs.json'
    return json.loads(path.read_text()) if path.exists() else {}
