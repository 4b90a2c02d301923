"""``scale``: y = factor * x + offset, one factor and one offset for all channels."""

import numpy as np

from ..fields import number
from .affine import simulate, to_onnx
from .lowering import Affine
from .operation import Operation, register


def _shape(fields, inputs, tensors):
    for name in ('factor', 'offset'):
        number(fields, name)
    return inputs[0]


def _arrays(fields, inputs, tensors):
    values = np.array([[fields['factor']], [fields['offset']]], np.float32)
    return {'affine': np.repeat(values, inputs[0][0], 1)}


def _lower(fields, inputs, tensors):
    return Affine(*_arrays(fields, inputs, tensors)['affine'])


register(
    Operation(
        name='scale',
        attributes=('factor', 'offset'),
        shape=_shape,
        arrays=_arrays,
        simulate=simulate,
        to_onnx=to_onnx,
        lower=_lower,
    )
)
