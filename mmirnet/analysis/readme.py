"""Writes tables and plots of results into the pages that show them."""

import json
import os
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config

from . import plots
from .paper import paper_accuracy, twins
from .results import (
    best,
    budget,
    by_budget,
    by_config,
    costs_device,
    mean,
    read_costs,
    read_results,
)

#: Generated parts of a page: two comments, with a function and its arguments.
_MARK = re.compile(
    r'(?P<begin><!-- generated: (?P<what>\w+)(?P<words>[^\n]*) -->\n).*?'
    r'(?P<end><!-- end -->)',
    re.DOTALL,
)
_NOT_RUN = 'not run here yet'
_NO_RUNS = f'*{_NOT_RUN.capitalize()}.*'
_TOO_FEW = '*A picture takes the results of two networks or more.*'


def results_of(folder: Path) -> dict[str, list[dict]]:
    """Reads the results of a folder of configs, best mean first."""
    return by_config(read_results(folder / 'results.jsonl'))


def description(config: str | Path) -> str:
    """Returns the first comment of a config up to a colon or full stop."""
    text = Path(config).read_text()
    (comment,) = re.findall(r'\A# (.+?)[.:;]\s', text, re.DOTALL)
    return comment.replace('\n# ', ' ')


def _spread(values: Sequence[float]) -> str:
    """Formats mean and standard deviation."""
    deviation = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.2f}{deviation}'


def _last(lines: list[dict]) -> str:
    return _spread([line['accuracy'] for line in lines])


def _name(page: Path, folder: Path, name: str) -> str:
    """Links a config. The pages of the documentation link nothing outside of it."""
    if page.name != 'README.md':
        return f'`{name}`'
    path = os.path.relpath(folder / f'{name}.py', page.parent)
    return f'[{name}]({path})'


def _markdown(rows: Iterable[dict[str, str]]) -> str:
    """Formats rows, header to cell, without the columns that are empty."""
    rows = list(rows)
    if not rows:
        return _NO_RUNS
    header = [key for key in rows[0] if any(row[key] for row in rows)]
    head, *body = (
        f'| {" | ".join(row[key] for key in header)} |'
        for row in [{key: key for key in header}, *rows]
    )
    return '\n'.join([head, f'|{"---|" * len(header)}', *body])


def table(page: Path, folders: list[Path], names: list[str]) -> str:
    """Formats an ablation: results with size and speed, best first.

    Args:
        page (Path): The page, for links.
        folders (list[Path]): Folder with the configs, their ``results.jsonl`` and, if
            measured, ``costs.json``.
        names (list[str]): Names of the configs. Empty means all with results.

    Returns:
        str: A Markdown table with a row per config with results.
    """
    (folder,) = folders
    measured = read_costs(folder)
    return _markdown(
        {
            'config': _name(page, folder, name),
            'what it is': description(folder / f'{name}.py'),
            'accuracy in %': _last(lines),
            'seeds': str(len(lines)),
            **_cost_cells(measured.get(name)),
        }
        for name, lines in results_of(folder).items()
        if not names or name in names
    )


def _cost_cells(cost: dict | None) -> dict[str, str]:
    step = cost and cost.get('step_ms')
    return {
        'packed size': f'{cost["packed_bytes"] / 1e3:.1f} kB' if cost else '',
        'runtime, one image': f'{cost["runtime_us"]:.0f} µs' if cost else '',
        'training step': f'{step:.0f} ms' if step else '',
    }


def accuracy(page: Path, folders: list[Path], names: list[str]) -> str:
    """Formats accuracies beside those of the paper and of full precision.

    Args:
        page (Path): The page, for links.
        folders (list[Path]): Folder with the configs and their results.
        names (list[str]): Names of the configs in order. Empty means all, in order of
            their accuracy, then of their names.

    Returns:
        str: A Markdown table with a row per config, also for those without results. A
        config has another row for fewer epochs if only these have a full-precision
        twin.
    """
    (folder,) = folders
    results = by_budget(read_results(folder / 'results.jsonl'))
    others = sorted({path.stem for path in folder.glob('*.py')} - results.keys())
    return _markdown(
        {
            'config': _name(page, folder, name),
            'paper': _paper(name),
            'last epoch': _last(group) if group else _NOT_RUN,
            'best epoch': _best(group),
            **_twin_cells(name, group, results),
            'seeds': str(len(group) or ''),
            'epochs': _epochs(folder, group),
        }
        for name in names or [*results, *others]
        for group in _shown(name, results)
    )


def _shown(name: str, results: dict[str, dict[int, list[dict]]]) -> list[list[dict]]:
    """Returns the longest runs of a config, and the longest that have twins."""
    longest, *shorter = results.get(name, {0: []}).values()
    if _twins(name, longest, results):
        return [longest]
    return [longest, *(g for g in shorter if _twins(name, g, results))][:2]


def _twins(
    name: str, lines: list[dict], results: dict[str, dict[int, list[dict]]]
) -> dict[str, list[dict]]:
    """Returns runs of full-precision twins with the same epochs and images."""
    return {
        twin: group
        for twin in twins(name)
        for group in results.get(twin, {}).values()
        if lines and _conditions(group) == _conditions(lines)
    }


def _paper(name: str) -> str:
    figure = paper_accuracy(name)
    if figure is None:
        return ''
    return f'{figure.top1}{" (recalled)" * ("recalled" in figure.source)}'


def _best(lines: list[dict]) -> str:
    """Formats accuracy and number of the best epoch."""
    found = [best(line) for line in lines]
    if not found:
        return ''
    epochs = ', '.join(str(epoch) for _, epoch in found)
    return f'{_spread([value for value, _ in found])} ({epochs})'


def _twin_cells(
    name: str, lines: list[dict], results: dict[str, dict[int, list[dict]]]
) -> dict[str, str]:
    """Compares with the full-precision twins that had the same budget and images."""
    fair = _twins(name, lines, results)
    figures = [paper_accuracy(n) for n in (name, *twins(name)[:1])]
    both = len(figures) == 2 and all(figures)
    return {
        'full precision': _each(fair, _last),
        'loss by binarisation': _each(fair, lambda g: f'{mean(g) - mean(lines):.2f}'),
        "paper's loss": f'{figures[1].top1 - figures[0].top1:.1f}' if both else '',
    }


def _conditions(lines: list[dict]) -> tuple:
    return budget(lines[0]), lines[0].get('copy')


def _each(groups: dict[str, list[dict]], text: Callable[[list[dict]], str]) -> str:
    return ', '.join(
        f'{text(lines)} ({name.rpartition("_")[0]})' if len(groups) > 1 else text(lines)
        for name, lines in groups.items()
    )


def _epochs(folder: Path, lines: list[dict]) -> str:
    """Formats epochs of the runs, and of the recipe if these are others."""
    if not lines:
        return ''
    (line, *_), name = lines, lines[0]['config']
    whole = line.get('recipe_epochs')
    if whole is None:  # lines of earlier versions
        whole = Config.fromfile(folder / f'{name}.py').train_cfg.max_epochs
    return f'{budget(line)}' if budget(line) == whole else f'{budget(line)} of {whole}'


def runs(page: Path, folders: list[Path], names: list[str]) -> str:
    """Formats how each result was made.

    Args:
        page (Path): The page, for links.
        folders (list[Path]): Folder with the configs and their results.
        names (list[str]): Names of the configs. Empty means all with results.

    Returns:
        str: A Markdown table with a row per run, for all that :func:`accuracy` shows.
    """
    (folder,) = folders
    results = by_budget(read_results(folder / 'results.jsonl'))
    return _markdown(
        {
            'config': _name(page, folder, name),
            'seed': str(line['seed']),
            'precision': line.get('precision', ''),
            'device': _short_device(line),
            'hours': _hours(line['seconds']) if 'seconds' in line else '',
            'date': line.get('date', ''),
            'data': (line.get('copy') or '').partition(' in ')[0],
            'command': f'`{line["command"]}`' if 'command' in line else '',
        }
        for name in results
        if not names or name in names
        for lines in _shown(name, results)
        for line in lines
    )


def _short_device(line: dict) -> str:
    threads = line.get('threads')
    return f'{line.get("device", "")}{f", threads: {threads}" if threads else ""}'


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f'{hours:.2g}' if hours < 10 else f'{hours:.0f}'


def curves(page: Path, folders: list[Path], names: list[str]) -> str:
    """Plots the accuracy of some configs over the epochs.

    Args:
        page (Path): The page.
        folders (list[Path]): Folder with the configs and their results.
        names (list[str]): Prefix of the files ``PICTURE-light.svg`` and ``-dark.svg``,
            relative to the page, and names of the configs in the order of the legend.
            Configs without results are skipped.

    Returns:
        str: Text that shows the plot.
    """
    (folder,), (picture, *names) = folders, names
    results = results_of(folder)
    lines = {name: results[name] for name in names if name in results}
    if not lines:
        return _NO_RUNS
    endings = {name.rpartition('_')[2] for name in lines}
    labels = _labels(lines, endings.pop() if len(lines) > 1 == len(endings) else '')
    shown = {
        f'{labels[name]}: {_last(group)} %': np.array([r['curve'] for r in group])
        for name, group in lines.items()
    }
    return _picture(
        page,
        picture,
        f'Test accuracy by epoch; after the last one {", ".join(shown)}',
        lambda dark: plots.accuracy_curves(shown, dark),
    )


#: Axes of the plots of costs: key in ``costs.json`` and divisor by label.
_AXES = {
    'packed file (kB)': ('packed_bytes', 1e3),
    'training step (ms)': ('step_ms', 1),
    'runtime, one image (µs)': ('runtime_us', 1),
}


def costs(page: Path, folders: list[Path], names: list[str]) -> str:
    """Plots the accuracy of configs against size and speed.

    Args:
        page (Path): The page.
        folders (list[Path]): Folders with configs, their results and their costs. With
            several, the training step is left out.
        names (list[str]): Prefix of the files, as in :func:`curves`, and an ending of
            the names of configs, which is left out of the labels. Without it, all are
            plotted.

    Returns:
        str: Text that shows the plot of all configs with results and costs, of which
        there have to be two.
    """
    picture, ending = [*names, ''][:2]
    measured = {k: c for f in folders for k, c in read_costs(f).items()}
    runs = {
        name: lines
        for folder in folders
        for name, lines in results_of(folder).items()
        if name in measured and name.endswith(ending)
    }
    if len(runs) < 2:
        return _TOO_FEW if runs else _NO_RUNS
    labels = {name: name.removesuffix(ending).rstrip('_') for name in runs}
    axes = {
        axis: {labels[n]: measured[n][key] / unit for n in runs}
        for axis, (key, unit) in _AXES.items()
        if all(key in measured[n] for n in runs)
    }
    shown = {labels[n]: [line['accuracy'] for line in runs[n]] for n in runs}
    real = {labels[n] for n in runs if {'fp', 'full'} & set(n.split('_'))}
    epochs = {labels[n]: budget(runs[n][0]) for n in runs}
    groups = {
        f'{number} epochs': [label for label in epochs if epochs[label] == number]
        for number in sorted(set(epochs.values()))
    }
    picture = _picture(
        page,
        picture,
        f'Test accuracy against {", ".join(axes)}; rings are networks in full '
        'precision; the table has the numbers',
        lambda dark: plots.accuracy_and_costs(shown, axes, dark, real, groups),
    )
    devices = dict.fromkeys(filter(None, map(costs_device, folders)))
    return '\n\n'.join([picture, *(f'Measured on {d}.' for d in devices)])


def _labels(runs: dict[str, list[dict]], ending: str) -> dict[str, str]:
    """Names without their ending, with the epochs where these differ."""
    epochs = {name: budget(lines[0]) for name, lines in runs.items()}
    differ = len(set(epochs.values())) > 1
    return {
        name: name.removesuffix(ending).rstrip('_')
        + (f' ({epochs[name]} epochs)' if differ else '')
        for name in runs
    }


def models(page: Path, folders: list[Path], names: list[str]) -> str:
    """Formats the index of a zoo.

    Args:
        page (Path): The page, for links.
        folders (list[Path]): The zoo.
        names (list[str]): Endings of the names of the models. Empty means all.

    Returns:
        str: A Markdown table with a row per model.
    """
    (folder,) = folders
    index = json.loads((folder / 'index.json').read_text())['models']
    return _markdown(
        {
            'model': f'`irnet://{name}`',
            'bytes': f'{model["bytes"]:,}',
            'ends': model.get('ends', 'fp32'),
            'simulation, %': _top1(model['metrics']),
            'runtime, %': _top1(model.get('runtime_metrics')),
            'with fp32 ends, %': _top1(model.get('fp32_metrics')),
            'epochs': str(model['epochs']),
            'data': model['dataset'],
            'date': model['date'],
        }
        for name, model in index.items()
        if name.endswith(tuple(names)) or not names
    )


def _top1(metrics: dict[str, float] | None) -> str:
    return f'{metrics["accuracy/top1"]:.2f}' if metrics else ''


def _picture(
    page: Path, picture: str, text: str, draw: Callable[[bool], Figure]
) -> str:
    """Writes a plot for light and dark pages, and returns text that shows it."""
    for dark, shade in enumerate(('light', 'dark')):
        plots.save_svg(draw(bool(dark)), page.parent / f'{picture}-{shade}.svg')
    if page.name != 'README.md':
        shades = ('light', 'dark')
        return '\n'.join(f'![{text}]({picture}-{s}.svg){{.only-{s}}}' for s in shades)
    return (
        '<picture>\n'
        f'<source media="(prefers-color-scheme: dark)" srcset="{picture}-dark.svg">\n'
        f'<img src="{picture}-light.svg" alt="{text}">\n'
        '</picture>'
    )


_WRITERS = {f.__name__: f for f in (table, accuracy, runs, curves, costs, models)}


def update_page(page: str | Path) -> str:
    """Writes the results into a page, and draws its plots.

    The function replaces the text between ``<!-- generated: WHAT WORDS... -->`` and
    ``<!-- end -->``. WHAT is a function of this module. Words that end in a slash are
    its folders, relative to the page; by default it is that of the page. The others are
    its names.

    Args:
        page (str | Path): The page.

    Returns:
        str: The new text of the page.
    """
    page = Path(page)

    def write(mark: re.Match) -> str:
        words = mark['words'].split()
        folders = [page.parent / word for word in words if word.endswith('/')]
        names = [word for word in words if not word.endswith('/')]
        text = _WRITERS[mark['what']](page, folders or [page.parent], names)
        return f'{mark["begin"]}\n{text}\n\n{mark["end"]}'

    text = _MARK.sub(write, page.read_text())
    page.write_text(text)
    return text


def pages(root: str | Path) -> list[Path]:
    """Returns the pages of a checkout with generated parts.

    Args:
        root (str | Path): The checkout.

    Returns:
        list[Path]: README.md, those of the configs, and those of the documentation.
    """
    root = Path(root)
    found = [root / 'README.md', *root.glob('configs/*/README.md')]
    found += root.glob('docs/reference/*.md')
    return [page for page in sorted(found) if _MARK.search(page.read_text())]
