"""What ``binary_conv2d`` and ``binary_linear`` share: signs, and a scale of each.

``signs`` are uint64 of shape (out, words), a set bit for +1, in the order of the
window. ``exponent`` is int8, log2 of each output channel's scale. With
``binarize_input`` the layer reads the signs of its input: its sums are then integers
times the scale, exact in any order, and the bias is the one rounding.
"""

import numpy as np

from ..fields import boolean, need
from ..limits import MAX_BINARY_WINDOW, MAX_EXPONENT


def check_signs(fields: dict, window: int, tensors: dict[str, np.ndarray]) -> None:
    """Checks the tensors of a binary layer.

    Args:
        fields: Of the layer.
        window: How many signs a filter has.
        tensors: Its ``signs`` and ``exponent``.

    Raises:
        Reject: If they do not fit.
    """
    signs, exponent = tensors['signs'], tensors['exponent']
    need(window <= MAX_BINARY_WINDOW, 'binary window too large')
    need(
        signs.ndim == 2 and signs.size > 0 and signs.shape[1] == -(-window // 64),
        f'signs {signs.shape} do not fit a window of {window}',
    )
    if window % 64:
        need(
            not (signs[:, -1] >> np.uint64(window % 64)).any(),
            'signs beyond the end of the window',
        )
    need(
        exponent.shape == signs.shape[:1]
        and np.abs(exponent.astype(int)).max() <= MAX_EXPONENT,
        f'exponent: {len(signs)} values within +-{MAX_EXPONENT} expected',
    )
    boolean(fields, 'binarize_input')


def with_bias(weight: np.ndarray, tensors: dict[str, np.ndarray]) -> dict:
    """The arrays of a layer of this weight."""
    return dict(weight=weight, **{r: tensors[r] for r in ('bias',) if r in tensors})
