"""Colours and axes that all pictures share, and files of pictures."""

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
    """Colours of a picture: background, text, lines in between, and curves."""

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
#: Their sky blue, orange, green, purple, yellow.
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
    """What is drawn inside has the colours that come with it."""
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
    """A figure with its axes in an array (rows, columns)."""
    figure = Figure(figsize=(WIDTH, height), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        tidy(axis, style)
    return figure, axes


def tidy(axis: Axes, style: Style) -> None:
    """Gives an axis the colours of the style, and no frame."""
    # Ticks are made when the figure is saved, outside of its style.
    axis.tick_params(which='both', color=style.rule, labelcolor=style.ink)
    axis.spines[['top', 'right']].set_visible(False)
    axis.grid(True)


def log_scale(axis: Axes) -> None:
    """Logarithmic y with plain numbers, at 2 and 5 too within two powers of ten."""
    axis.set_yscale('log')
    low, high = axis.get_ylim()
    axis.yaxis.set_major_formatter('{x:g}')
    axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if high < 100 * low else ()))
    axis.yaxis.set_minor_formatter('{x:g}')


def short_number(value: float) -> str:
    """Three digits."""
    return f'{value:.3g}'


def save(figures: dict[str, Figure], folder: str | Path) -> list[Path]:
    """Writes figures as PNG files.

    Args:
        figures (dict[str, Figure]): By name.
        folder (str | Path): Where to; made if it is not there.

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
    """Writes a figure as SVG whose text is text; the same one gives the same file.

    Args:
        figure (Figure): The figure.
        path (str | Path): The file.
    """
    with rc_context({'svg.hashsalt': 'mmirnet', 'svg.fonttype': 'none'}):
        figure.savefig(path, format='svg', metadata={'Date': None})
