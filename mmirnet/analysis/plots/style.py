"""Colours, axes and files of all plots."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import cycler, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator


class Style(NamedTuple):
    """Colours of a plot: background, text, grid lines and curves."""

    paper: str
    ink: str
    rule: str
    curves: tuple[str, ...]


#: Okabe and Ito's blue, vermilion, green, purple, orange.
LIGHT = Style(
    '#ffffff',
    '#1b1f24',
    '#b8bec6',
    ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00'),
)
#: Okabe and Ito's sky blue, orange, green, purple, yellow.
DARK = Style(
    '#14171c',
    '#e8eaed',
    '#4b525c',
    ('#56B4E9', '#E69F00', '#009E73', '#CC79A7', '#F0E442'),
)
DASHES = ('-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1)))
WIDTH = 6.4  # inches


@contextmanager
def styled(dark: bool) -> Iterator[Style]:
    """Applies the colours of the background to everything drawn in the context."""
    style = DARK if dark else LIGHT
    settings = {
        'figure.facecolor': style.paper,
        'axes.facecolor': style.paper,
        'axes.edgecolor': style.rule,
        'axes.labelcolor': style.ink,
        'axes.titlecolor': style.ink,
        'axes.titlesize': 'medium',
        'axes.prop_cycle': cycler(color=style.curves),
        'text.color': style.ink,
        'xtick.color': style.ink,
        'ytick.color': style.ink,
        'grid.color': style.rule,
        'grid.alpha': 0.5,
        'legend.frameon': False,
        'font.size': 10.0,
    }
    with rc_context(settings):
        yield style


def new_axes(
    rows: int, columns: int, height: float, style: Style, **options
) -> tuple[Figure, np.ndarray]:
    """Creates a figure, with its axes in an array (rows, columns)."""
    figure = Figure(figsize=(WIDTH, height), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        tidy(axis, style)
    return figure, axes


def tidy(axis: Axes, style: Style) -> None:
    """Applies the colours of the style to an axis and removes its frame."""
    # Ticks are created when the figure is saved, outside the context of its style.
    axis.tick_params(which='both', color=style.rule, labelcolor=style.ink)
    axis.spines[['top', 'right']].set_visible(False)
    axis.grid(True)


def log_scale(axis: Axes) -> None:
    """Sets a log scale for y with the ticks of :func:`log_ticks`."""
    axis.set_yscale('log')
    log_ticks(axis)


def log_ticks(axis: Axes) -> None:
    """Gives a log scale of y plain numbers, with 2 and 5 for small ranges."""
    low, high = axis.get_ylim()
    axis.yaxis.set_major_formatter('{x:g}')
    axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if high < 100 * low else ()))
    axis.yaxis.set_minor_formatter('{x:g}')


def short_number(value: float) -> str:
    """Formats a number with three digits."""
    return f'{value:.3g}'


def save(figures: dict[str, Figure], folder: str | Path) -> list[Path]:
    """Writes figures as PNG files.

    Args:
        figures (dict[str, Figure]): The figures by name.
        folder (str | Path): Target folder, created if necessary.

    Returns:
        list[Path]: The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f'{name}.png')
        figure.savefig(paths[-1], dpi=150)
    return paths


def save_svg(figure: Figure, path: str | Path) -> None:
    """Writes a figure as a reproducible SVG file that keeps text as text.

    Args:
        figure (Figure): The figure.
        path (str | Path): The file.
    """
    with rc_context({'svg.hashsalt': 'mmirnet', 'svg.fonttype': 'none'}):
        figure.savefig(path, format='svg', metadata={'Date': None})
