"""What ``binary_conv2d`` and ``binary_linear`` share: signs, and scales of filters.

``signs`` are uint64 of shape (out, words), a set bit for +1, in the order of the
window. Each filter's scale is a power of two or any number, so that exactly one of two
tensors is there: ``exponent``, int8, log2 of the scale, or ``scale``, float32. Both are
(out,). A power of two is exact wherever it is multiplied. Any other scale is multiplied
with the sum of products, S, which rounds once. Then comes ``bias``, which rounds once
more.

With ``binarize_input`` the layer reads the signs of its input: +1 where it is at least
``threshold``, float32 (in,), which is 0 where it is not there. S is then an integer,
exact in any order.

``offset``, float32 (out,), is added to each weight, which is then ``scale`` * sign +
``offset``. With ``binarize_input``, ``affine_input`` (alpha, beta) goes with it: the
input is alpha * (sign + beta), and the padding around it 0. With B, the sum of the
input's signs in the window, W, the sum of the filter's signs inside of the image, and
N, the number of those, the layer gives, each operation rounded::

    k = (alpha * beta) * (scale * W + offset * N)
    y = S * (alpha * scale) + (B * (alpha * offset) + k)
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..bits import scaled_signs
from ..fields import boolean, need
from ..limits import MAX_BINARY_WINDOW, MAX_EXPONENT

#: Roles of the tensors that either of the two may have.
OPTIONAL = ('exponent', 'scale', 'threshold', 'offset', 'affine_input', 'bias')
_MAX_SCALE = 2.0**MAX_EXPONENT


def check_words(signs: np.ndarray, window: int) -> None:
    """Checks that words of signs are those of a window.

    Args:
        signs: (out, words).
        window: How many signs a filter has.

    Raises:
        Reject: If they are not.
    """
    need(
        signs.ndim == 2 and signs.size > 0 and signs.shape[1] == -(-window // 64),
        f'signs {signs.shape} do not fit a window of {window}',
    )
    if window % 64:
        need(
            not (signs[:, -1] >> np.uint64(window % 64)).any(),
            'signs beyond the end of the window',
        )


def check_signs(
    fields: dict, window: int, channels: int, tensors: dict[str, np.ndarray]
) -> None:
    """Checks the tensors of a binary layer.

    Args:
        fields: Of the layer.
        window: How many signs a filter has.
        channels: Of its input.
        tensors: Its ``signs`` and what goes with them.

    Raises:
        Reject: If they do not fit.
    """
    signs = tensors['signs']
    need(window <= MAX_BINARY_WINDOW, 'binary window too large')
    check_words(signs, window)
    boolean(fields, 'binarize_input')
    out = len(signs)
    need(
        ('exponent' in tensors) != ('scale' in tensors),
        'exactly one of the tensors exponent and scale is needed',
    )
    if 'exponent' in tensors:
        exponent = tensors['exponent']
        need(
            exponent.shape == (out,)
            and np.abs(exponent.astype(int)).max() <= MAX_EXPONENT,
            f'exponent: {out} values within +-{MAX_EXPONENT} expected',
        )
    _check_affine(fields, out, channels, tensors)


def _check_affine(
    fields: dict, out: int, channels: int, tensors: dict[str, np.ndarray]
) -> None:
    """Checks what stands for real numbers around the signs, and what goes together."""
    binary = fields['binarize_input']
    for role in ('threshold', 'affine_input'):
        need(
            role not in tensors or binary,
            f'{role}: only with binarize_input',
        )
    offset, affine = 'offset' in tensors, 'affine_input' in tensors
    need(not offset or 'scale' in tensors, 'offset: only with scale')
    need(
        offset == affine or not binary,
        'offset and affine_input: with binarize_input both are there or neither',
    )
    counts = dict(scale=out, offset=out, affine_input=2, threshold=channels)
    for role, count in counts.items():
        if role not in tensors:
            continue
        values = tensors[role]
        need(
            values.shape == (count,) and bool(np.isfinite(values).all()),
            f'{role}: {count} finite values expected',
        )
        need(
            role == 'threshold' or np.abs(values).max() <= _MAX_SCALE,
            f'{role}: values within +-2**{MAX_EXPONENT} expected',
        )


def threshold(tensors: dict[str, np.ndarray]) -> np.ndarray | None:
    """From which input on a bit is set, by channel; None where that is 0."""
    found = tensors.get('threshold')
    return found if found is not None and found.any() else None


def arrays(fields: dict, bits: np.ndarray, tensors: dict[str, np.ndarray]) -> dict:
    """What a binary layer computes with.

    Args:
        fields: Of the layer.
        bits: 0 and 1 of its filters, (out, ...).
        tensors: Its tensors.

    Returns:
        ``weight`` as its product takes it, and the tensors that come in beside it.
    """
    found = {role: array for role, array in tensors.items() if role != 'signs'}
    exponent = found.pop('exponent', np.zeros(len(bits), np.int8))
    weight = scaled_signs(bits, exponent)
    if 'offset' in found and not fields['binarize_input']:
        each = -1, *[1] * (bits.ndim - 1)
        weight = weight * found.pop('scale').reshape(each)
        weight = weight + found.pop('offset').reshape(each)
    return dict(weight=weight, **found)


def simulate(
    fields: dict,
    x: Any,
    product: Callable,
    weight: Any,
    bias: Any = None,
    scale: Any = None,
    threshold: Any = None,
    offset: Any = None,
    affine_input: Any = None,
) -> Any:
    """A binary layer in torch.

    Args:
        fields: Of the layer.
        x: (N, C, H, W) or (N, features).
        product: (x, weight, bias) -> the layer of real numbers.
        weight: This and the others as :func:`arrays` gives them.
        bias: Of each filter.
        scale: Of each filter.
        threshold: Of each channel of the input.
        offset: Of each filter.
        affine_input: Alpha and beta.
    """
    from ...binary.estimators import sign

    def each(values):
        return values.reshape(-1, *[1] * (x.dim() - 2))

    binary = fields['binarize_input']
    if not binary and scale is None:
        return product(x, weight, bias)
    if threshold is not None:
        # The difference of two floats is below 0 only where the first is smaller.
        x = x - each(threshold)
    x = sign(x) if binary else x
    y = product(x, weight, None)
    if affine_input is not None:
        alpha = affine_input[0]
        k = border(product, x.shape[1:], weight, scale, offset, affine_input)
        signs = product(x, weight.new_ones(1, *weight.shape[1:]), None)
        y = y * each(alpha * scale) + (signs * each(alpha * offset) + k)
    elif scale is not None:
        y = y * each(scale)
    return y if bias is None else y + each(bias)


def border(
    product: Callable,
    shape: tuple[int, ...],
    weight: Any,
    scale: Any,
    offset: Any,
    affine_input: Any,
) -> Any:
    """What a layer with ``affine_input`` adds whatever its input is, in torch.

    It differs where a part of the window lies outside of the image.

    Args:
        product: (x, weight, bias) -> the layer of real numbers.
        shape: Of one input.
        weight: This and the others as :func:`arrays` gives them.
        scale: Of each filter.
        offset: Of each filter.
        affine_input: Alpha and beta.
    """
    inside = weight.new_ones(1, *shape)
    signs = product(inside, weight, None)
    count = product(inside, weight.new_ones(1, *weight.shape[1:]), None)
    each = -1, *[1] * (len(shape) - 1)
    alpha, beta = affine_input
    return (alpha * beta) * (scale.reshape(each) * signs + offset.reshape(each) * count)


def add_nodes(
    graph: Any,
    fields: dict,
    source: str,
    arrays: dict[str, np.ndarray],
    add_product: Callable,
    product: Callable,
    shape: tuple[int, ...],
) -> None:
    """Adds the nodes of a binary layer.

    Args:
        graph: A :class:`mmirnet.packed.onnx.Graph`.
        fields: Of the layer.
        source: The name of its input.
        arrays: As :func:`arrays` gives them.
        add_product: (role, source, weight, bias, output) adds the node of the layer of
            real numbers, whose constants are named after the role.
        product: The same in torch: (x, weight, bias) -> the layer.
        shape: Of one input.
    """
    output, weight = fields['dst'], arrays['weight']
    bias, scale = arrays.get('bias'), arrays.get('scale')
    if not fields['binarize_input'] and scale is None:
        add_product('weight', source, weight, bias, output)
        return

    def constant(role, values):
        each = -1, *[1] * (len(shape) - 1)
        return graph.constant(f'{output}.{role}', values.reshape(each))

    if fields['binarize_input']:
        threshold = arrays.get('threshold')
        if threshold is not None:
            threshold = constant('threshold', threshold)
        source = graph.signs(source, output, threshold)
    steps = []
    if 'affine_input' in arrays:
        alpha = arrays['affine_input'][0]
        steps.append(('Mul', constant('scale', alpha * scale)))
        ones = np.ones((1, *weight.shape[1:]), np.float32)
        add_product('ones', source, ones, None, f'{output}.signs')
        factor = constant('offset', alpha * arrays['offset'])
        name = graph.node('Mul', [f'{output}.signs', factor], f'{output}.spread')
        k = _border_array(product, shape, arrays)
        name = graph.node(
            'Add', [name, graph.constant(f'{output}.k', k)], f'{output}.rest'
        )
        steps.append(('Add', name))
    elif scale is not None:
        steps.append(('Mul', constant('scale', scale)))
    if bias is not None:
        steps.append(('Add', constant('bias', bias)))
    # Sums of signs are exact where nothing else is among them.
    names = [f'{output}.sums', f'{output}.scaled', f'{output}.biased']
    names = [*names[: len(steps)], output]
    add_product('weight', source, weight, None, names[0])
    for i, (kind, operand) in enumerate(steps):
        graph.node(kind, [names[i], operand], names[i + 1])


def _border_array(
    product: Callable, shape: tuple[int, ...], arrays: dict[str, np.ndarray]
) -> np.ndarray:
    import torch

    names = 'weight', 'scale', 'offset', 'affine_input'
    tensors = [torch.from_numpy(np.array(arrays[n], order='C')) for n in names]
    return border(product, shape, *tensors).numpy()
