"""Common part of ``binary_conv2d`` and ``binary_linear``: signs and scales of filters.

``signs`` are uint64 of shape (out, words), a set bit for +1, in the order of the
window. The scale of each filter is a power of two or any number. Exactly one of two
tensors holds it: ``exponent``, int8 (out,), log2 of the scale, or ``scale``, float32
(out,). A multiplication by a power of two is exact, so it may happen anywhere. Other
scales multiply the sum of products, S, which rounds once. ``bias`` is added at the end
and rounds once more.

With ``binarize_input`` the layer reads the signs of its input: +1 where it is at least
``threshold``, float32 (in,), which defaults to 0. S is then an integer, exact in any
order.

``offset``, float32 (out,), is added to each weight, which is then ``scale`` * sign +
``offset``. With ``binarize_input``, an offset needs ``affine_input`` (alpha, beta): the
input is alpha * (sign + beta), and the padding around it 0. The layer then computes,
with a rounding after each operation::

    k = (alpha * beta) * (scale * W + offset * N)
    y = S * (alpha * scale) + (B * (alpha * offset) + k)

B is the sum of the input's signs in the window, W the sum of the filter's signs that
lie inside the image, and N their number.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..bits import scaled_signs
from ..fields import boolean, need
from ..limits import MAX_BINARY_WINDOW, MAX_EXPONENT

#: Roles of the optional tensors of both operations.
OPTIONAL = ('exponent', 'scale', 'threshold', 'offset', 'affine_input', 'bias')
_MAX_SCALE = 2.0**MAX_EXPONENT


def check_words(signs: np.ndarray, window: int) -> None:
    """Checks that packed signs fit the number of weights in a filter.

    Args:
        signs (np.ndarray): uint64 of shape (out, words).
        window (int): Number of weights in a filter.

    Raises:
        Reject: If there are too many or too few words, or set bits after the last
            weight.
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
        fields (dict): The operation's entry in the graph.
        window (int): Number of weights in a filter.
        channels (int): Number of input channels.
        tensors (dict[str, np.ndarray]): The tensors of the layer by role.

    Raises:
        Reject: If they do not fit each other.
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
    """Checks scales, offsets and thresholds, and which of them need each other."""
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
    """Returns the threshold of each input channel, or None if all are 0."""
    found = tensors.get('threshold')
    return found if found is not None and found.any() else None


def arrays(fields: dict, bits: np.ndarray, tensors: dict[str, np.ndarray]) -> dict:
    """Returns the arrays that a binary layer computes with.

    Args:
        fields (dict): The operation's entry in the graph.
        bits (np.ndarray): 0 and 1 of the filters, (out, ...).
        tensors (dict[str, np.ndarray]): The tensors of the layer by role.

    Returns:
        dict[str, np.ndarray]: ``weight`` of the convolution, and the tensors that are
        applied to its output.
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
    """Computes a binary layer in torch.

    Args:
        fields (dict): The operation's entry in the graph.
        x (Tensor): (N, C, H, W) or (N, features).
        product (Callable): (x, weight, bias) -> the convolution or linear layer.
        weight (Tensor): This and the following as returned by :func:`arrays`.
        bias (Tensor, optional): (out,).
        scale (Tensor, optional): (out,).
        threshold (Tensor, optional): (in,).
        offset (Tensor, optional): (out,).
        affine_input (Tensor, optional): Alpha and beta, (2,).

    Returns:
        Tensor: The output.
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
    """Computes k, the part of the output that does not depend on the input, in torch.

    It differs between pixels at the border, where a part of the window lies outside the
    image.

    Args:
        product (Callable): (x, weight, bias) -> the convolution or linear layer.
        shape (tuple[int, ...]): Shape of one input.
        weight (Tensor): This and the following as returned by :func:`arrays`.
        scale (Tensor): (out,).
        offset (Tensor): (out,).
        affine_input (Tensor): Alpha and beta, (2,).

    Returns:
        Tensor: k, (1, out, ...).
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
    """Adds the ONNX nodes of a binary layer.

    Args:
        graph (Graph): A :class:`mmirnet.packed.onnx.Graph`.
        fields (dict): The operation's entry in the graph.
        source (str): Name of the input.
        arrays (dict[str, np.ndarray]): Output of :func:`arrays`.
        add_product (Callable): (role, source, weight, bias, output) adds the node of
            the convolution or linear layer, with constants named after the role.
        product (Callable): The same in torch: (x, weight, bias) -> the output.
        shape (tuple[int, ...]): Shape of one input.
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
    # Sums of signs are exact if scale and bias follow them.
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
