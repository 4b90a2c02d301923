"""What a recipe is, as data: the weights, their scale, the input and the schedule.

A recipe's file in :mod:`mmirnet.binary.recipes` puts these parts together. One binary
convolution, :func:`~mmirnet.binary.binary_conv2d`, computes all of them.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..errors import ConfigError, check_choice
from .estimators import ESTIMATORS
from .schedules import CONSTANT, Schedule
from .weights import filter_dims, in_float


class Latent(NamedTuple):
    """The value z of a weight w whose sign is the binary weight.

    Attributes:
        formula (str): z as a function of w, as TeX.
        of (Callable): (w, t, k) -> z, differentiable, in the shape of the weight.
        vjp (Callable): (gradient of z, w, t, k) -> gradient of w.
    """

    formula: str
    of: Callable[[Tensor, Tensor, Tensor], Tensor]
    vjp: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class OutputScale(NamedTuple):
    """The scale of a channel's output, a function of the weights.

    Attributes:
        formula (str): The scale as a function of w, as TeX.
        of (Callable): w -> scale of shape (out, 1, ...), or (1, 1, ...) for a layer.
        vjp (Callable): (gradient of the scale, w) -> gradient of w, for recipes that
            differentiate the scale.
    """

    formula: str
    of: Callable[[Tensor], Tensor]
    vjp: Callable[[Tensor, Tensor], Tensor] | None = None


class InputRule(NamedTuple):
    """The value z of an input x whose sign the layer convolves.

    Attributes:
        formula (str): z as a function of x, as TeX.
        parameters (dict): Learned parameters by name, each a start value and whether
            there is one a channel. Two at most.
        signs (Callable): (x, a, b) -> a tensor with the sign of z, for the forward
            pass; a and b are the parameters, or None.
        of (Callable): (x, a, b) -> z, differentiable, for the backward pass.
        vjp (Callable): (gradient of the binary input, gradient of z, x, z, a, b) ->
            gradients of x, a and b, in that order.
        value (Callable | None): (signs, a, b) -> the binary input, if it is not the
            sign alone.
        threshold (Callable | None): (a, b, channels) -> threshold a channel; the sign
            is +1 where x is at least that. None means 0, for a rule without ``signs``
            of its own. Packed networks use it instead of them.
    """

    formula: str
    of: Callable
    vjp: Callable
    parameters: dict[str, tuple[float, bool]] = {}
    signs: Callable = lambda x, a, b: x
    value: Callable | None = None
    threshold: Callable | None = None


class Quantized(NamedTuple):
    """A binary weight: ``scale * signs + offset``."""

    signs: Tensor  # shape of the weight; real if the weights are not binarised
    scale: Tensor | None  # (out, 1, ...) or (1, 1, ...)
    offset: Tensor | None = None  # (out, 1, ...)


class WeightFunctions(NamedTuple):
    """Functions of a recipe whose weights are more than a scaled sign.

    Attributes:
        quantize (Callable): (w, t, k) -> Quantized.
        vjp (Callable): (gradient of the binary weight, w, t, k) -> gradient of w.
        curve (Callable): (w, t, k) -> a differentiable function with that gradient.
        latent (Callable): w -> the values whose signs are the binary weights.
    """

    quantize: Callable
    vjp: Callable
    curve: Callable
    latent: Callable


def _same(w: Tensor, t: Tensor, k: Tensor) -> Tensor:
    return w


def _sign_times(mean: Callable[[Tensor], int]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda grad, w: grad / mean(w) * w.sign()


#: z = w.
PLAIN = Latent('w', _same, lambda grad, w, t, k: grad)

#: The mean absolute weight of each filter.
FILTER_MEAN = OutputScale(
    r'\mathrm{mean}|w|',
    lambda w: w.abs().mean(filter_dims(w), keepdim=True),
    _sign_times(lambda w: w[0].numel()),
)
#: The mean absolute weight of the layer.
LAYER_MEAN = OutputScale(
    r'\mathrm{mean}_{layer}|w|',
    lambda w: w.abs().mean().reshape([1] * w.dim()),
    _sign_times(Tensor.numel),
)

#: z = x.
PLAIN_INPUT = InputRule(
    'x',
    of=lambda x, a, b: x,
    vjp=lambda grad, grad_z, x, z, a, b: (grad_z, None, None),
)


def deviation(values: Tensor) -> tuple[Tensor, Tensor, int]:
    """Centres each filter of weights, or each image of inputs.

    Args:
        values (Tensor): (N, ...), floating point. Half precision is computed in
            float32: a sum of squares can be more than float16 holds.

    Returns:
        tuple[Tensor, Tensor, int]: Centred values; 1 / sqrt(var + 1e-5) of each with
        the unbiased variance, (N, 1, ...); and the n - 1 that it divides by.
    """
    values, dims = in_float(values), filter_dims(values)
    degrees = max(values.shape[1:].numel() - 1, 1)
    centred = values - values.mean(dims, keepdim=True)
    variance = centred.square().sum(dims, keepdim=True) / degrees
    return centred, (variance + 1e-5).rsqrt(), degrees


def _divided(x, a, b):
    return x * deviation(x)[1]


def _divided_vjp(grad, grad_z, x, z, a, b):
    centred, inverse, degrees = deviation(x)
    share = (grad_z * z).sum(filter_dims(x), keepdim=True) * inverse.square() / degrees
    return inverse * grad_z - centred * share, None, None


def _divided_by_constant(x, a, b):
    return x * deviation(x.detach())[1]


def _divided_by_constant_vjp(grad, grad_z, x, z, a, b):
    return grad_z * deviation(x)[1], None, None


#: x divided by its deviation in each image, which its sign does not show (ReCU).
DIVIDED_INPUT = InputRule(
    r'x / \sqrt{\mathrm{var}(x) + 10^{-5}}', of=_divided, vjp=_divided_vjp
)
#: The same with a deviation that is a constant in the backward pass (OvSW).
DIVIDED_BY_CONSTANT_INPUT = InputRule(
    DIVIDED_INPUT.formula, of=_divided_by_constant, vjp=_divided_by_constant_vjp
)


class Recipe(NamedTuple):
    r"""A way to binarise weights and inputs.

    The layer computes ``scale * conv(sign(z_x), sign(z_w))``, with z_x of the input
    rule and z_w of the latent, and the scale behind the sum of integers.

    Attributes:
        name (str): Name of the recipe, and of its layers.
        source (str): Paper.
        latent (Latent): z of a weight.
        estimator (str): Derivative of the weights' sign, of
            :data:`~mmirnet.binary.ESTIMATORS`.
        scale (OutputScale | str | None): The scale; 'learned' for one parameter
            ``alpha`` a channel, None for no scale.
        scale_gradient (str): What the scale is in the backward pass. 'constant': a
            constant factor of the gradient. 'full': a function of the weights, which is
            differentiated. 'through': the gradient of the binary weight, scale
            included, passes to the weight.
        inputs (InputRule): z of an input.
        input_estimator (str): Derivative of the input's sign.
        schedule (Schedule): What moves with training.
        real (Latent): The weights where they are not binarised.
        functions (WeightFunctions | None): In place of latent, estimator and scale.
        smallest (int): Weights that a filter needs at least.
    """

    name: str
    source: str
    latent: Latent = PLAIN
    estimator: str = 'identity'
    scale: OutputScale | str | None = None
    scale_gradient: str = 'constant'
    inputs: InputRule = PLAIN_INPUT
    input_estimator: str = 'ste'
    schedule: Schedule = CONSTANT
    real: Latent = PLAIN
    functions: WeightFunctions | None = None
    smallest: int = 1


_SCALE_GRADIENTS = ('constant', 'full', 'through')
#: All recipes by name.
RECIPES: dict[str, Recipe] = {}


def register_recipe(recipe: Recipe) -> Recipe:
    r"""Registers a recipe by its name.

    Args:
        recipe (Recipe): The recipe.

    Returns:
        Recipe: The same recipe.

    Raises:
        ConfigError: If another recipe has this name, or a part has an unknown value.

    Example:
        >>> mine = register_recipe(Recipe('Mine', 'none', scale=LAYER_MEAN))
        >>> RECIPES.pop('Mine').scale.formula
        '\\mathrm{mean}_{layer}|w|'
    """
    _check(recipe)
    if RECIPES.setdefault(recipe.name, recipe) is not recipe:
        raise ConfigError(f'a recipe {recipe.name!r} is already registered')
    return recipe


def _check(recipe: Recipe) -> None:
    """Refuses misspelt parts, which would be found in the backward pass or never."""
    scale, owner = recipe.scale, f'recipe {recipe.name!r}: '
    check_choice(f'{owner}estimator', recipe.estimator, ESTIMATORS)
    check_choice(f'{owner}input_estimator', recipe.input_estimator, ESTIMATORS)
    check_choice(f'{owner}scale_gradient', recipe.scale_gradient, _SCALE_GRADIENTS)
    if not isinstance(scale, OutputScale):
        check_choice(f'{owner}scale', scale, (None, 'learned'))
    if recipe.scale_gradient == 'full' and getattr(scale, 'vjp', None) is None:
        raise ConfigError(f"{owner}scale_gradient='full' needs a scale with a vjp")
    own_signs = recipe.inputs.signs is not PLAIN_INPUT.signs
    if own_signs and recipe.inputs.threshold is None:
        raise ConfigError(f'{owner}inputs with signs of their own need a threshold')
