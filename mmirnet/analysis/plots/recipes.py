"""Plots of a recipe: its binary weights and inputs, and their derivatives."""

import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import jacrev

from ... import binary
from ...binary import RECIPES, SCHEDULES, BinaryLinear, IRLinear, Schedule
from ...binary.quantisation import input_with_derivatives, weight_with_derivatives
from ...errors import check_choice
from .style import DASHES, new_axes, short_number, styled

#: Points of the training that are drawn.
_PROGRESS = (0.0, 0.5, 1.0)
#: Values of a filter, or of an image, evenly spaced.
_COUNT = 401


def _values(most: float) -> Tensor:
    return torch.linspace(-most, most, _COUNT, dtype=torch.double)


def _layer(recipe: str, progress: float) -> BinaryLinear:
    """A linear layer of one output, whose weights are evenly spaced."""
    kind = IRLinear if recipe == 'IR-Net' else getattr(binary, f'{recipe}Linear')
    layer = kind(_COUNT, 1, bias=False).double()
    layer.weight.data.copy_(_values(1.5))
    layer.t_and_k.copy_(torch.tensor(_schedule(recipe).at(progress)))
    if hasattr(layer, 'alpha'):
        layer.alpha.data.fill_(0.5)
    return layer


def _schedule(recipe: str) -> Schedule:
    return SCHEDULES['ede'] if recipe == 'IR-Net' else RECIPES[recipe].schedule


def _label(recipe: str, progress: float) -> str:
    """The numbers of the schedule at a point of the training, for the legend."""
    schedule = _schedule(recipe)
    numbers = zip(schedule.numbers, schedule.at(progress), strict=False)
    values = ', '.join(f'{name} = {short_number(value)}' for name, value in numbers)
    return f'{100 * progress:.0f} %: {values}'


@functools.cache  # a light and a dark figure have the same curves
def _of_weights(recipe: str, progress: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of a filter, binary weights, and the derivative of each by its own."""
    layer = _layer(recipe, progress)
    alpha, (t, k) = getattr(layer, 'alpha', None), layer.t_and_k.double()
    alpha = None if alpha is None else alpha.detach()

    def output(weight: Tensor) -> Tensor:
        weight = weight[None]
        return weight_with_derivatives(weight, alpha, t, k, layer.rule, False)[0]

    weight = layer.weight[0].detach()
    return weight, output(weight).detach(), jacrev(output)(weight).diagonal()


@functools.cache
def _of_inputs(recipe: str, progress: float) -> tuple[Tensor, Tensor, Tensor]:
    """Values of an image, binary values, and the derivative of each by its own."""
    layer, x = _layer(recipe, progress), _values(2.0)
    rule, parameters = layer.rule, layer.input_values()
    a, b = (None if p is None else p.detach() for p in parameters)
    t, k = layer.t_and_k.double()

    def output(x: Tensor) -> Tensor:
        image = x.reshape(1, -1, 1, 1)
        return input_with_derivatives(image, a, b, t, k, rule).flatten()

    return x, output(x).detach(), jacrev(output)(x).diagonal()


def recipe_curves(recipe: str, dark: bool = False) -> Figure:
    """Plots what a recipe makes of weights and inputs, and the derivatives it uses.

    The curves are computed by the recipe's layer. Weights are one filter, evenly spaced
    from -1.5 to 1.5, inputs one image from -2 to 2. A derivative is that of a value by
    itself: parts that reach all values of a filter or an image through a mean are not
    in it.

    Args:
        recipe (str): A key of :data:`~mmirnet.binary.RECIPES`, or 'IR-Net'.
        dark (bool): Whether the background is dark. Defaults to False.

    Returns:
        Figure: Weights on the left, inputs on the right; values above, derivatives
        below.

    Raises:
        ConfigError: If there is no such recipe.

    Example:
        >>> [axis.get_title() for axis in recipe_curves('BNN').axes[:2]]
        ['weights', 'inputs']
    """
    check_choice('recipe', recipe, ['IR-Net', *RECIPES])
    names = _schedule(recipe).numbers
    with styled(dark) as style:
        figure, axes = new_axes(2, 2, 4.8, style, sharex='col')
        for column, (title, curves) in enumerate(
            (('weights', _of_weights), ('inputs', _of_inputs))
        ):
            value, slope = axes[:, column]
            for progress, colour, dash in zip(
                _PROGRESS if names else (0.0,), style.curves, DASHES, strict=False
            ):
                x, y, derivative = curves(recipe, progress)
                label = _label(recipe, progress)
                value.plot(x, y, drawstyle='steps-mid', color=colour, linestyle=dash)
                slope.plot(x, derivative, color=colour, linestyle=dash, label=label)
            value.set_title(title)
            slope.set_xlabel('w' if title == 'weights' else 'x')
            slope.set_ylim(bottom=min(0, slope.get_ylim()[0]))
        axes[0, 0].set_ylabel('binary value')
        axes[1, 0].set_ylabel('derivative')
        if names:
            handles, labels = axes[1, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc='outside lower center', ncols=3)
    return figure
