"""Plots of experiments: accuracy by epoch, and against size and speed."""

import statistics
from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterMathtext, LogLocator, MaxNLocator

from .style import DASHES, Style, new_axes, styled


def accuracy_curves(runs: dict[str, np.ndarray], dark: bool = False) -> Figure:
    """Plots the accuracy of several configs during training, each with several seeds.

    Args:
        runs (dict[str, np.ndarray]): For each label, accuracy in % after each epoch,
            (seeds, epochs). At most five. If they have different numbers of epochs, the
            axis is the share of the run, as learning rates depend on it.
        dark (bool): Whether the background is dark. Defaults to False.

    Returns:
        Figure: A thick line of medians and thin lines of the seeds per config. Single
        evaluations with very low accuracy are outside the axes, but no median of a last
        epoch is.

    Example:
        >>> figure = accuracy_curves({'IR-Net': np.array([[60, 79], [72, 81]])})
        >>> figure.axes[0].lines[-1].get_ydata().tolist()
        [66.0, 80.0]
    """
    with styled(dark) as style:
        figure, ((axis,),) = new_axes(1, 1, 3.4, style)
        # strict=True: a sixth line would repeat a colour.
        used = style.curves[: len(runs)], DASHES[: len(runs)]
        differ = len({values.shape[1] for values in runs.values()}) > 1

        def places(values: np.ndarray) -> np.ndarray:
            number = values.shape[1]
            return np.arange(1, number + 1) * (100 / number if differ else 1)

        for values, colour in zip(runs.values(), used[0], strict=True):
            axis.plot(places(values), values.T, color=colour, linewidth=0.5, alpha=0.5)
        for (label, values), colour, dash in zip(runs.items(), *used, strict=True):
            median = np.median(values, 0)
            axis.plot(places(values), median, color=colour, linestyle=dash, label=label)
        every = np.concatenate([values.flatten() for values in runs.values()])
        ends = [np.median(values[:, -1]) for values in runs.values()]
        limits = min(np.quantile(every, 0.1), *ends) - 1, every.max() + 1
        across = 'share of the run (%)' if differ else 'epoch'
        axis.set(xlabel=across, ylabel='test accuracy (%)', ylim=limits)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
        figure.legend(loc='outside lower center', ncols=2, fontsize='small')
    return figure


def accuracy_and_costs(
    accuracies: dict[str, Sequence[float]],
    costs: dict[str, dict[str, float]],
    dark: bool = False,
    hollow: Collection[str] = (),
    groups: dict[str, Collection[str]] | None = None,
) -> Figure:
    """Plots accuracy against size and speed.

    Args:
        accuracies (dict[str, Sequence[float]]): For each config, accuracy in % of each
            seed.
        costs (dict[str, dict[str, float]]): Values by label of the axis and by config.
        dark (bool): Whether the background is dark. Defaults to False.
        hollow (Collection[str]): Configs with a ring instead of a dot, which are in
            full precision.
        groups (dict[str, Collection[str]] | None): Configs of a colour each, by their
            label in the legend. At most five. One or None means no legend.

    Returns:
        Figure: A panel per cost with medians on lines from the lowest to the highest
        accuracy. The last panel names the configs.
    """
    medians = {name: statistics.median(a) for name, a in accuracies.items()}
    names = sorted(accuracies, key=medians.get)
    y = [medians[name] for name in names]
    height, limits = max(4.2, 0.19 * len(names) + 1), _limits(y)
    with styled(dark) as style:
        widths = [1] * (len(costs) - 1) + [2]
        figure, (axes,) = new_axes(
            1, len(costs), height, style, sharey=True, width_ratios=widths
        )
        groups = groups or {'all': names}
        # strict=True: a sixth group would repeat a colour.
        used = dict(zip(groups, style.curves[: len(groups)], strict=True))
        colours = [used[g] for n in names for g in groups if n in groups[g]]
        fills = [
            style.paper if name in hollow else colour
            for name, colour in zip(names, colours, strict=True)
        ]
        for axis, (label, values) in zip(axes, costs.items(), strict=True):
            x = [values[name] for name in names]
            ranges = [(min(accuracies[n]), max(accuracies[n])) for n in names]
            axis.vlines(x, *zip(*ranges, strict=True), color=colours, lw=0.8)
            axis.scatter(x, y, 16, fills, edgecolors=colours, linewidths=1, zorder=3)
            axis.set(xlabel=label, ylim=limits)
            _scale(axis, x)
        axes[0].set_ylabel('test accuracy (%)')
        line = 0.19 / height * (limits[1] - limits[0])  # height of a text line
        _name_points(axis, names, x, y, _apart(y, line, limits), style.rule)
        if len(groups) > 1:
            _explain(figure, used, style)
    return figure


def _explain(figure: Figure, colours: dict[str, str], style: Style) -> None:
    """Adds a legend of the groups and of the ring."""
    kinds = {label: (colour, colour) for label, colour in colours.items()}
    kinds['full precision'] = style.ink, style.paper
    dots = [
        Line2D([], [], ls='', marker='o', ms=4, color=edge, mfc=fill, label=label)
        for label, (edge, fill) in kinds.items()
    ]
    where = dict(loc='outside lower center', ncols=len(dots), fontsize='small')
    figure.legend(handles=dots, **where)


def _scale(axis: Axes, x: Sequence[float]) -> None:
    """Scales the horizontal axis: linear for similar values, or else logarithmic."""
    if max(x) < 4 * min(x):
        axis.set_xlim(0, 1.15 * max(x))
        return
    axis.set_xscale('log')
    wide = max(x) > 100 * min(x)
    axis.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 3)))
    axis.xaxis.set_major_formatter(LogFormatterMathtext() if wide else '{x:g}')
    axis.xaxis.set_minor_formatter('')
    axis.margins(x=0.15)


def _name_points(
    axis: Axes,
    names: Sequence[str],
    x: Sequence[float],
    y: Sequence[float],
    places: Sequence[float],
    colour: str,
) -> None:
    """Writes names in a column at the right, with a line from each to its point."""
    linear = axis.get_xscale() == 'linear'
    right = max(x) * (1.15 if linear else (max(x) / min(x)) ** 0.06)
    room = 2 if linear else (max(x) / min(x)) ** 0.6
    axis.set_xlim(right=right * room)
    for name, place, *point in zip(names, places, x, y, strict=True):
        arrow = dict(arrowstyle='-', color=colour, lw=0.6, relpos=(0, 0.5))
        axis.annotate(
            name,
            point,
            (right, place),
            fontsize='x-small',
            va='center',
            arrowprops=arrow,
            bbox=dict(facecolor=axis.get_facecolor(), edgecolor='none', pad=0.5),
        )


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns the limits of an axis for increasing values, at least 2 apart."""
    low, high = values[0], values[-1]
    margin = max(0.06 * (high - low), (2 - high + low) / 2, 0.06)
    return low - margin, high + margin


def _apart(
    values: Sequence[float], step: float, limits: tuple[float, float]
) -> np.ndarray:
    """Moves increasing values within limits to be at least a step apart.

    adjustText would also move the labels horizontally.
    """
    places = np.array(values, float)
    for _ in range(1000):
        overlap = step - np.diff(places)
        if (overlap < 1e-6 * step).all():
            break
        push = np.maximum(overlap, 0) / 2
        places[:-1] -= push
        places[1:] += push
        places = places.clip(*limits)
    return places
