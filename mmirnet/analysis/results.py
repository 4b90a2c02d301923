"""Writes tables and plots of experiments into the README of their configs."""

import json
import os
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..errors import ConfigError
from . import plots

#: Generated parts of a page: two comments, with a function and its arguments.
_MARK = re.compile(
    r'(?P<begin><!-- generated: (?P<what>\w+)(?P<names>[^\n]*) -->\n).*?'
    r'(?P<end><!-- end -->)',
    re.DOTALL,
)


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
    """Groups results by config, with its newest digest only, best mean first."""
    groups: dict[str, list[dict]] = {}
    for line in results:
        group = groups.setdefault(line['config'], [])
        if group and group[0]['digest'] != line['digest']:
            group.clear()
        group.append(line)
    mean = {
        name: statistics.fmean(r['accuracy'] for r in g) for name, g in groups.items()
    }
    return {name: groups[name] for name in sorted(groups, key=lambda n: -mean[n])}


def _results(folder: str | Path) -> dict[str, list[dict]]:
    return by_config(read_results(Path(folder) / 'results.jsonl'))


def description(config: str | Path) -> str:
    """Returns the first comment of a config up to a colon or full stop."""
    text = Path(config).read_text()
    (comment,) = re.findall(r'\A# (.+?)[.:;]\s', text, re.DOTALL)
    return comment.replace('\n# ', ' ')


def _spread(values: Sequence[float]) -> str:
    """Formats mean and standard deviation."""
    deviation = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.2f}{deviation}'


def table(folder: str | Path, *configs: str, links: str = '') -> str:
    """Formats the results of a folder of configs as a Markdown table.

    Args:
        folder (str | Path): Folder with the configs, their ``results.jsonl`` and, if
            measured, ``costs.json``.
        *configs (str): Names of the configs. Defaults to all with results.
        links (str): Path from the page to the folder.

    Returns:
        str: A row per config with results, best first: mean and standard deviation of
        the accuracy over seeds, and size and speed of the network.
    """
    folder = Path(folder)
    measured = read_costs(folder)
    rows = [
        '| config | what it is | accuracy in % | seeds | packed size '
        '| runtime, one image | training step |',
        '|---|---|---|---|---|---|---|',
    ]
    for name, lines in _results(folder).items():
        if configs and name not in configs:
            continue
        cost = measured.get(name)
        cells = [
            f'[{name}]({links}{name}.py)',
            description(folder / f'{name}.py'),
            _spread([line['accuracy'] for line in lines]),
            str(len(lines)),
            f'{cost["packed_bytes"] / 1e3:.1f} kB' if cost else '',
            f'{cost["runtime_us"]:.0f} µs' if cost else '',
            f'{cost["step_ms"]:.0f} ms' if cost else '',
        ]
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows)


def read_costs(folder: str | Path) -> dict[str, dict[str, float]]:
    """Reads size and speed of the networks in a folder of configs.

    Args:
        folder (str | Path): Folder with ``costs.json``, which
            ``tools/benchmarks/ablation_costs.py`` writes.

    Returns:
        dict[str, dict[str, float]]: ``packed_bytes``, ``runtime_us`` and ``step_ms`` by
        config. Empty if not measured.
    """
    path = Path(folder) / 'costs.json'
    return json.loads(path.read_text())['configs'] if path.exists() else {}


def curves(folder: str | Path, picture: str, *configs: str) -> str:
    """Plots the accuracy of some configs over the epochs.

    Args:
        folder (str | Path): Folder with the configs and their results.
        picture (str): Prefix of the files ``PICTURE-light.svg`` and ``-dark.svg``.
        *configs (str): Names of the configs in the order of the legend. Configs without
            results are skipped.

    Returns:
        str: HTML that shows the plot.
    """
    results = _results(folder)
    runs = {
        f'{name}: {_spread([r["accuracy"] for r in results[name]])} %': np.array(
            [r['curve'] for r in results[name]]
        )
        for name in configs
        if name in results
    }
    return _picture(
        Path(folder) / picture,
        f'Test accuracy by epoch; after the last one {", ".join(runs)}',
        lambda dark: plots.accuracy_curves(runs, dark),
    )


def costs(folder: str | Path, picture: str) -> str:
    """Plots the accuracy of a folder's configs against size and speed.

    Args:
        folder (str | Path): Folder with the configs, their results and their costs.
        picture (str): Prefix of the files, as in :func:`curves`.

    Returns:
        str: HTML that shows the plot of all configs with results and costs.
    """
    measured = read_costs(folder)
    accuracies = {
        name: [line['accuracy'] for line in lines]
        for name, lines in _results(folder).items()
        if name in measured
    }
    axes = {
        'packed file (kB)': {n: c['packed_bytes'] / 1e3 for n, c in measured.items()},
        'training step (ms)': {n: c['step_ms'] for n, c in measured.items()},
        'runtime, one image (µs)': {n: c['runtime_us'] for n, c in measured.items()},
    }
    return _picture(
        Path(folder) / picture,
        'Test accuracy against packed size, training step and runtime latency; '
        'the table above has the numbers',
        lambda dark: plots.accuracy_and_costs(accuracies, axes, dark),
    )


def _picture(path: Path, text: str, draw: Callable[[bool], Figure]) -> str:
    """Writes a plot for light and dark pages, and returns HTML that shows it."""
    for dark, shade in enumerate(('light', 'dark')):
        plots.save_svg(draw(bool(dark)), f'{path}-{shade}.svg')
    return (
        '<picture>\n'
        f'<source media="(prefers-color-scheme: dark)" srcset="{path.name}-dark.svg">\n'
        f'<img src="{path.name}-light.svg" alt="{text}">\n'
        '</picture>'
    )


_WRITERS = {'table': table, 'curves': curves, 'costs': costs}


def update_readme(folder: str | Path, readme: str | Path | None = None) -> str:
    """Writes the results into a page, and draws its plots.

    The function replaces the text between ``<!-- generated: WHAT ARGUMENTS... -->`` and
    ``<!-- end -->``. WHAT is ``table``, ``curves`` or ``costs``, the functions of this
    module with these names.

    Args:
        folder (str | Path): Folder with the configs and their results.
        readme (str | Path, optional): The page. Defaults to the folder's README.md. A
            page in another folder can only have tables.

    Returns:
        str: The new text of the page.
    """
    readme = Path(readme or Path(folder) / 'README.md')
    links = os.path.relpath(folder, readme.parent)
    options = {} if links == '.' else dict(links=f'{links}/')

    def write(mark: re.Match) -> str:
        text = _WRITERS[mark['what']](folder, *mark['names'].split(), **options)
        return f'{mark["begin"]}\n{text}\n\n{mark["end"]}'

    text = _MARK.sub(write, readme.read_text())
    readme.write_text(text)
    return text
