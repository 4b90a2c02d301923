"""Plots of the method: EDE and the estimators of sign."""

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...binary import ESTIMATORS, ede, estimator_statistics, sign
from .style import DASHES, Style, log_scale, new_axes, short_number, styled, tidy

#: EDE's t at five points of the paper's schedule.
_SHARPNESS = (0.1, 0.3, 1.0, 3.0, 10.0)
NAMES = {'ste': 'STE (clip)', 'approx_sign': 'approx_sign (Bi-Real Net)'}


def _curve(name: str, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Computes an estimator's curve and its derivative at x."""
    estimator = ESTIMATORS[name]
    t, k = torch.tensor(t), torch.tensor(max(1 / t, 1.0))
    return estimator.curve(x, t, k), estimator.derivative(x, t, k)


def ede_family(dark: bool = False) -> Figure:
    """Plots EDE's curves g(x) = k tanh(tx) and their derivatives, t from 0.1 to 10.

    Args:
        dark (bool): Whether the background is dark. Defaults to False.

    Returns:
        Figure: Two panels: g with sign, and g'.

    Example:
        >>> [axis.get_ylabel() for axis in ede_family().axes]
        ['g(x) = k tanh(t x)', "g'(x) = k t (1 - tanh²(t x))"]
    """
    x = torch.linspace(-2, 2, 801)
    with styled(dark) as style:
        figure, ((left, right),) = new_axes(1, 2, 3.6, style)
        left.plot(x, sign(x), color=style.ink, linewidth=0.8, label='sign')
        for t, colour, dash in zip(_SHARPNESS, style.curves, DASHES, strict=True):
            curve, derivative = _curve('ede', x, t)
            label = f't = {short_number(t)}, k = {short_number(max(1 / t, 1))}'
            left.plot(x, curve, color=colour, linestyle=dash, label=label)
            right.plot(x, derivative, color=colour, linestyle=dash)
        left.set(xlabel='x', ylabel='g(x) = k tanh(t x)')
        right.set(xlabel='x', ylabel="g'(x) = k t (1 - tanh²(t x))")
        figure.legend(loc='outside lower center', ncols=3)
    return figure


def ede_stages(dark: bool = False) -> Figure:
    """Plots EDE at the start, between its stages and at the end, and its schedule.

    Args:
        dark (bool): Whether the background is dark. Defaults to False.

    Returns:
        Figure: Three panels of g with the function that it approximates, and one of t
        and k over the progress of training.

    Example:
        >>> [axis.get_title() for axis in ede_stages().axes[:3]]
        ['start: identity', 'middle: clip', 'end: sign']
    """
    x = torch.linspace(-3, 3, 801)
    shapes = {
        'start: identity': (0.0, x),
        'middle: clip': (0.5, x.clamp(-1, 1)),
        'end: sign': (1.0, sign(x)),
    }
    with styled(dark) as style:
        figure, axes = new_axes(2, 3, 5.2, style)
        for axis, (title, (progress, shape)) in zip(
            axes[0], shapes.items(), strict=True
        ):
            t, k = ede(progress)
            curve, derivative = _curve('ede', x, t)
            axis.plot(
                x, shape, color=style.ink, linewidth=0.8, label='identity, clip, sign'
            )
            axis.plot(x, curve, color=style.curves[0], label='g(x)')
            axis.fill_between(
                x, 0, derivative, color=style.curves[1], alpha=0.35, label="g'(x)"
            )
            axis.set(title=title, xlabel=f'x\nt = {t:.3g}, k = {k:.3g}', ylim=(-3, 3))
        axes[0, 0].set_ylabel("g(x), g'(x)")
        axes[0, 0].legend(loc='upper left', fontsize='small', handlelength=1.2)
        for axis in axes[1]:
            axis.remove()
        schedule = figure.add_subplot(axes[0, 0].get_gridspec()[1, :])
        _draw_schedule(schedule, style)
    return figure


def _draw_schedule(axis: Axes, style: Style) -> None:
    progress = np.linspace(0, 1, 201)
    values = np.array([ede(p) for p in progress])
    for name, column, colour, dash in zip(
        'tk', values.T, style.curves, DASHES, strict=False
    ):
        axis.plot(100 * progress, column, color=colour, linestyle=dash, label=name)
    axis.axvline(50, color=style.rule)
    for x, y, text in (
        (20, 1.0, 'stage 1: from identity to clip,\ngradients reach most weights'),
        (75, 0.3, 'stage 2: from clip to sign,\ngradients reach those near 0'),
    ):
        axis.text(x, y, text, ha='center', va='center', fontsize='small')
    tidy(axis, style)
    axis.set(xlabel='training done (%)', ylabel='t, k', xlim=(0, 100))
    log_scale(axis)
    axis.legend(loc='upper center', ncols=2)


def estimator_errors(dark: bool = False) -> Figure:
    """Plots the distance between each estimator's curve and sign.

    Args:
        dark (bool): Whether the background is dark. Defaults to False.

    Returns:
        Figure: Two panels: the distance at x, and its root mean square for normally
        distributed x over EDE's t.

    Example:
        >>> estimator_errors().axes[1].get_xlabel()
        "EDE's t"
    """
    x = torch.linspace(-2, 2, 801)
    # Midpoints of equally probable intervals of a standard normal distribution.
    normal = torch.special.ndtri((torch.arange(2000) + 0.5) / 2000)
    times = np.geomspace(0.1, 10, 61)
    with styled(dark) as style:
        figure, ((left, right),) = new_axes(1, 2, 3.6, style)
        others = list(zip(NAMES, style.curves[1:3], DASHES[1:3], strict=True))
        right.plot(times, [_rms('ede', normal, t) for t in times], color=style.ink)
        for t, index in zip((0.1, 1.0, 10.0), (0, 3, 4), strict=True):
            error = (sign(x) - _curve('ede', x, t)[0]).abs()
            colour, label = style.curves[index], f'EDE, t = {short_number(t)}'
            left.plot(x, error, color=colour, label=label)
            right.plot(t, _rms('ede', normal, t), 'o', color=colour)
        for name, colour, dash in others:
            error = (sign(x) - _curve(name, x, 1.0)[0]).abs()
            left.plot(x, error, color=colour, linestyle=dash, label=NAMES[name])
        left.set(xlabel='x', ylabel='|sign(x) - g(x)|')

        for name, colour, dash in others:
            right.axhline(_rms(name, normal, 1.0), color=colour, linestyle=dash)
        right.set(
            xlabel="EDE's t",
            xscale='log',
            ylabel='root mean square for x ~ N(0, 1)',
            ylim=(0, None),
        )
        right.xaxis.set_major_formatter('{x:g}')
        figure.legend(loc='outside lower center', ncols=3)
    return figure


def _rms(name: str, x: Tensor, t: float) -> float:
    values = torch.tensor(t), torch.tensor(max(1 / t, 1.0))
    return math.sqrt(estimator_statistics(x, *values, name)['square_error'])


def method_figures(dark: bool = False) -> dict[str, Figure]:
    """Draws all plots of the method, which need no run.

    Args:
        dark (bool): Whether the backgrounds are dark. Defaults to False.

    Returns:
        dict[str, Figure]: The figures by name.

    Example:
        >>> list(method_figures())
        ['ede_family', 'ede_stages', 'estimator_errors']
    """
    return {f.__name__: f(dark) for f in (ede_family, ede_stages, estimator_errors)}
