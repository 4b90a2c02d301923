"""Weights and inputs of a recipe: forward, gradients, and the same by operators."""

import torch
from torch import Tensor

from ..errors import ConfigError
from .estimators import ESTIMATORS, check_float, sign, sign_again, sign_by_operators
from .modes import differentiated
from .recipe import RECIPES, InputRule, Quantized, Recipe
from .weights import (
    SCALES,
    WeightRule,
    check_filters,
    filter_dims,
    in_float,
    make_filters,
    quantize,
    weight_by_operators,
    weight_vjp,
)

#: Libra-PB with options, or the name of a recipe.
Rule = WeightRule | str


def check_weight(weight: Tensor, rule: Rule, owner: str) -> None:
    """Refuses weights that the rule cannot binarise.

    Args:
        weight (Tensor): (out, ...), the latent weight.
        rule (Rule): The rule.
        owner (str): Name of the layer, for the message.

    Raises:
        ConfigError: If the weights are no floats, or a filter has too few of them.
    """
    if isinstance(rule, WeightRule):
        check_filters(weight, rule.balance, owner)
        return
    check_float('weight', weight)
    smallest = RECIPES[rule].smallest
    if weight.dim() < 2 or weight.shape[1:].numel() < smallest:
        raise ConfigError(
            f'{owner} needs filters of {smallest} weights or more, got weight shape '
            f'{tuple(weight.shape)}; keep this layer in full precision'
        )


def _per_filter(values: Tensor, w: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (w.dim() - 1))


def _in_channels_last(weight: Tensor) -> bool:
    # 1x1 filters lie in both formats; a view back and forth would change their strides,
    # from which convolutions choose their kernels.
    return (
        weight.dim() == 4
        and not weight.is_contiguous()
        and weight.is_contiguous(memory_format=torch.channels_last)
    )


def _as_stored(values: Tensor, weight: Tensor) -> Tensor:
    """Returns a view with the dimensions in the order of the weight's memory.

    Otherwise the compiler reduces and multiplies in different orders and needs three
    kernels a layer instead of one.
    """
    return values.permute(0, 2, 3, 1) if _in_channels_last(weight) else values


def _as_given(values: Tensor, weight: Tensor) -> Tensor:
    """Undoes :func:`_as_stored`."""
    return values.permute(0, 3, 1, 2) if _in_channels_last(weight) else values


def scale_in_signs(rule: Rule) -> bool:
    """Whether the scale is a power of two, or none, and multiplies the signs."""
    if not isinstance(rule, WeightRule):
        return False
    scale = SCALES[rule.scale]
    return scale is None or scale.exact


def quantize_weight(
    weight: Tensor, alpha: Tensor | None, t: Tensor, k: Tensor, rule: Rule, real: bool
) -> Quantized:
    """Computes the binary weight of a rule, or the real one.

    Args:
        weight (Tensor): (out, ...), the latent weight.
        alpha (Tensor | None): (out,), the learned scale, if the recipe has one.
        t (Tensor): First number of the schedule, 0-dim.
        k (Tensor): Second number of the schedule, 0-dim.
        rule (Rule): Libra-PB with options, or the name of a recipe.
        real (bool): Leave the weights real.

    Returns:
        Quantized: Signs (or real weights), scale and offset. Scales that are powers of
        two are part of the signs: there they cost nothing and are exact.
    """
    if isinstance(rule, WeightRule):
        if real:
            return Quantized(weight, None)
        filters = make_filters(_as_stored(weight, weight), rule)
        if scale_in_signs(rule):
            return Quantized(_as_given(quantize(filters, weight.dtype), weight), None)
        return Quantized(_as_given(sign(filters.centred), weight), filters.scale)
    recipe, w = RECIPES[rule], in_float(weight)
    scale = _per_filter(alpha, w) if recipe.scale == 'learned' else None
    if real:
        return Quantized(recipe.real.of(w, t, k), scale)
    if recipe.functions is not None:
        return recipe.functions.quantize(w, t, k)
    if scale is None and recipe.scale is not None:
        scale = recipe.scale.of(w)
    return Quantized(sign(recipe.latent.of(w, t, k)), scale)


def dequantize(q: Quantized, dtype: torch.dtype) -> Tensor:
    """Computes the binary weight as one tensor: scale * signs + offset."""
    values = q.signs if q.scale is None else q.signs * q.scale
    return (values if q.offset is None else values + q.offset).to(dtype)


def quantized_vjp(
    grad: Tensor,
    weight: Tensor,
    alpha: Tensor | None,
    t: Tensor,
    k: Tensor,
    rule: Rule,
    real: bool,
) -> tuple[Tensor, Tensor | None]:
    """Propagates the gradient of a binary weight to the latent weight and alpha.

    Args:
        grad (Tensor): Gradient of scale * signs + offset. May be overwritten.
        weight (Tensor): As for :func:`quantize_weight`.
        alpha (Tensor | None): As for :func:`quantize_weight`.
        t (Tensor): As for :func:`quantize_weight`.
        k (Tensor): As for :func:`quantize_weight`.
        rule (Rule): As for :func:`quantize_weight`.
        real (bool): As for :func:`quantize_weight`.

    Returns:
        tuple[Tensor, Tensor | None]: Gradients of the weight and of alpha.
    """
    if isinstance(rule, WeightRule):
        if not real:
            filters = make_filters(_as_stored(weight, weight), rule)
            grad = weight_vjp(_as_stored(grad, weight), filters, t, k, rule)
            grad = _as_given(grad, weight)
        return grad.to(weight.dtype), None
    recipe, w = RECIPES[rule], in_float(weight)
    grad = grad.to(w.dtype)
    if recipe.functions is not None and not real:
        return recipe.functions.vjp(grad, w, t, k).to(weight.dtype), None
    latent = recipe.real if real else recipe.latent
    z = latent.of(w, t, k)
    values = z if real else sign_again(z)
    grad_z, grad_alpha, grad_scale = grad, None, None
    if recipe.scale == 'learned':
        grad_alpha = (grad * values).sum(filter_dims(w)).to(alpha.dtype)
        grad_z = grad * _per_filter(alpha, w)
    elif recipe.scale is not None and not real:
        if recipe.scale_gradient != 'through':
            scale = recipe.scale.of(w)
            grad_z = grad * scale
        if recipe.scale_gradient == 'full':
            shared = [d for d in range(w.dim()) if scale.shape[d] == 1]
            grad_scale = (grad * values).sum(shared, keepdim=True)
    if not real:
        estimator = ESTIMATORS[recipe.estimator]
        grad_z = estimator.vjp(grad_z, z, t) * estimator.gain(t, k)
    grad_w = latent.vjp(grad_z, w, t, k)
    if grad_scale is not None:
        grad_w = grad_w + recipe.scale.vjp(grad_scale, w)
    return grad_w.to(weight.dtype), grad_alpha


def weight_with_derivatives(
    weight: Tensor,
    alpha: Tensor | None,
    t: Tensor,
    k: Tensor,
    rule: Rule,
    real: bool,
) -> Tensor:
    """Computes the binary weight with operators that have higher derivatives."""
    if isinstance(rule, WeightRule):
        return weight if real else weight_by_operators(weight, t, k, rule)
    recipe, w = RECIPES[rule], in_float(weight)
    q = quantize_weight(weight.detach(), alpha, t, k, rule, real)
    if recipe.functions is not None and not real:
        return _with_curve(dequantize(q, w.dtype), recipe.functions.curve(w, t, k))
    latent = recipe.real if real else recipe.latent
    z = latent.of(w, t, k)
    if real:
        return z if q.scale is None else z * q.scale
    curve = ESTIMATORS[recipe.estimator].curve(z, t.detach(), k.detach())
    if recipe.scale_gradient == 'through' and q.scale is not None:
        return _with_curve(q.signs * q.scale, curve)
    signs, scale = _with_curve(q.signs, curve), q.scale
    if recipe.scale_gradient == 'full' and recipe.scale is not None:
        scale = recipe.scale.of(w)
    return signs if scale is None else signs * scale


def _with_curve(value: Tensor, curve: Tensor) -> Tensor:
    """A value with the derivatives of a curve: the curve minus itself is zero."""
    return value.detach() + (curve - curve.detach())


def input_rule(rule: Rule) -> tuple[InputRule | None, str]:
    """Returns the input rule of a recipe, None for x itself, and its estimator."""
    if isinstance(rule, WeightRule):
        return None, rule.estimator
    recipe: Recipe = RECIPES[rule]
    return recipe.inputs, recipe.input_estimator


def input_signs(x: Tensor, a: Tensor | None, b: Tensor | None, rule: Rule) -> Tensor:
    """Computes the signs of an input: -1 and +1 in the shape of x."""
    inputs, _ = input_rule(rule)
    return sign(x if inputs is None else inputs.signs(x, a, b))


def input_value(
    x: Tensor, a: Tensor | None, b: Tensor | None, rule: Rule, dtype: torch.dtype
) -> Tensor:
    """Computes the binary input again, for the backward pass."""
    inputs, _ = input_rule(rule)
    if inputs is None:
        return sign_again(x).to(dtype)
    signs = sign_again(inputs.signs(x, a, b))
    return (signs if inputs.value is None else inputs.value(signs, a, b)).to(dtype)


def input_gain(t: Tensor, k: Tensor, rule: Rule) -> Tensor | float:
    """The factor of the input's gradient that the weights can take."""
    inputs, name = input_rule(rule)
    if inputs is not None and inputs.value is not None:
        return 1.0  # parameters need the gradient without it
    return ESTIMATORS[name].gain(t, k)


def input_vjp(
    grad: Tensor, x: Tensor, a: Tensor | None, b: Tensor | None, t, k, rule: Rule
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Propagates the gradient of a binary input, times its gain, to x, a and b."""
    inputs, name = input_rule(rule)
    estimator = ESTIMATORS[name]
    if inputs is None:
        return estimator.vjp(grad, x, t), None, None
    z = inputs.of(x, a, b)
    grad = grad.to(z.dtype)
    grad_z = estimator.vjp(grad, z, t)
    if inputs.value is not None:
        grad_z = grad_z * estimator.gain(t, k)
    grad_x, grad_a, grad_b = inputs.vjp(grad, grad_z, x, z, a, b)
    return grad_x.to(x.dtype), grad_a, grad_b


def input_with_derivatives(
    x: Tensor, a: Tensor | None, b: Tensor | None, t: Tensor, k: Tensor, rule: Rule
) -> Tensor:
    """Computes the binary input with operators that have higher derivatives."""
    inputs, name = input_rule(rule)
    if inputs is None:
        return sign_by_operators(x, t, k, name)
    signs = sign(inputs.signs(x, a, b).detach())
    if differentiated(x) or any(p is not None and differentiated(p) for p in (a, b)):
        z = inputs.of(x, a, b)
        curve = ESTIMATORS[name].curve(z, t.detach(), k.detach())
        signs = _with_curve(signs, curve)
    return signs if inputs.value is None else inputs.value(signs, a, b)
