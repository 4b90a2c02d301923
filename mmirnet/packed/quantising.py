"""Converts float layers of a packed network to layers of 8-bit integers.

Weights become integers of 8 bits, with a scale for each output channel. The input of a
layer becomes bytes. Its range is -1 to 1 after a Hardtanh, and otherwise measured on
images of the caller. The first convolution reads the pixels themselves, and
normalisation becomes part of its weights and of what is added to its sums. Its weights
have 7 bits, so that the sum of two products has 16, and are rounded so that their
errors cancel on images.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch

from ..errors import ConfigError, UnsupportedModelError
from .format import Packed, check, gives_pixels, pixels_of
from .ops.operation import Arrays
from .ops.windows import classes, geometry
from .simulation import Simulation

#: Roles of tensors that do not change.
_KEPT = 'signs', 'bias'
#: Largest weight of pixels: the sum of two products with a byte has 16 bits.
_MOST_OF_PIXELS = 64
#: How alike two neighbouring pixels are, and two channels of one.
_CORRELATION = 0.95
#: Of the spread of images, as their values become whole numbers from 0 to 255.
_MOST_LOST = 0.1
#: Larger filters are rounded weight by weight.
_MOST_TAPS = 1024
_KINDS = {
    'conv2d': 'conv2d_int8',
    'linear': 'linear_int8',
    'binary_conv2d': 'binary_conv2d_int8',
}


def quantise(
    packed: Packed,
    images: Iterable[np.ndarray] = (),
    *,
    ends: bool = True,
    activations: bool = False,
) -> Packed:
    """Converts float layers of a packed network to 8-bit integers.

    Args:
        packed (Packed): A checked network.
        images (Iterable[np.ndarray]): Batches to measure ranges on, float32
            (N, C, H, W), already normalised. They are read only if a range does not
            follow from the network, or if it has no mean and std: then they have to
            be pixels.
        ends (bool): Convert float convolutions and linear layers: the first
            convolution, shortcuts and the classifier. Convolutions with groups stay in
            floating point.
        activations (bool): Convert convolutions with 1-bit weights whose input is not
            binary.

    Returns:
        Packed: The converted network, a new object.

    Raises:
        ConfigError: If images are needed and missing, or if there is no such layer.
        UnsupportedModelError: If the normalised image does not determine the pixels, or
            if the images are not pixels.
    """
    taken = [op for op in packed.graph if _is_taken(packed, op, ends, activations)]
    if not taken:
        what = 'float layer' if ends else 'layer with 1-bit weights and float inputs'
        raise ConfigError(f'the network has no {what} that could compute in 8 bits')
    if any(map(_reads_pixels, taken)) and not _has_normalisation(packed):
        images = _pixels(images)
    ranges = _ranges(packed, taken, images)
    graph, tensors, dtypes = [], dict(packed.tensors), dict(packed.dtypes)
    for op in packed.graph:
        if op not in taken:
            ordered = {'in_order': True} if op['op'] == 'average_pool' else {}
            graph.append(op | ordered)
            continue
        arrays = packed.operation_tensors(op)
        if _reads_pixels(op):
            fields, made = _pixel_conv(packed, op, arrays)
        else:
            fields, made = _integers(op, arrays, *ranges[op['src'][0]])
        graph.append(fields)
        for role in arrays:
            name = f'{op["dst"]}.{role}'
            del tensors[name], dtypes[name]
        for role, array in made.items():
            name = f'{op["dst"]}.{role}'
            tensors[name] = array
            dtypes[name] = {'weight_int8': 'I8', 'signs': 'U64'}.get(role, 'F32')
    return check(replace(packed, graph=graph, tensors=tensors, dtypes=dtypes))


def _is_taken(packed: Packed, op: dict[str, Any], ends: bool, activations: bool):
    if op.get('groups', 1) != 1:
        return False
    if op['op'] == 'binary_conv2d':
        offset = 'offset' in packed.operation_tensors(op)
        return activations and not op['binarize_input'] and not offset
    if _reads_pixels(op) and op.get('dilation', 1) not in (1, [1, 1]):
        return False
    return ends and op['op'] in _KINDS


def _reads_pixels(op: dict[str, Any]) -> bool:
    return op['op'] == 'conv2d' and op['src'] == ['input']


# --------------------------------------------------------------------------
# What layers read.


def _has_normalisation(packed: Packed) -> bool:
    """Whether a network says how pixels become its images: not as they are."""
    std, mean = pixels_of(packed.input)
    return bool((std != 1).any() or (mean != 0).any())


def _pixels(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Images whose first batch shows that they are pixels."""
    images = iter(images)
    first = next(images, None)
    if first is None:
        raise ConfigError(
            '8 bits: the network has no mean and std, and without images it is not '
            'known whether they are pixels; give some, or take fp32 ends'
        )
    # Interpolated pixels lie between whole numbers, images up to 1 lose all of it.
    if np.std(first - np.rint(first).clip(0, 255)) > _MOST_LOST * np.std(first):
        raise UnsupportedModelError(
            f'8 bits: the network has no mean and std, and its images from '
            f'{first.min():.3g} to {first.max():.3g} are no pixels from 0 to 255; pack '
            'it with the mean and std of its images, or take fp32 ends'
        )
    return chain([first], images)


def _ranges(
    packed: Packed, taken: list[dict], images: Iterable[np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Returns the range of each value that a layer reads, by name."""
    made_by = {op['dst']: op for op in packed.graph}
    names = {op['src'][0] for op in taken if not _reads_pixels(op)}
    found = {name: _stated(name, made_by) for name in names}
    unknown = sorted(name for name, ends in found.items() if ends is None)
    return found | _measured(packed, unknown, images)


def _stated(name: str, made_by: dict[str, dict]) -> tuple[float, float] | None:
    """Returns the range that follows from the operation that made a value, if any."""
    op = made_by.get(name, {'op': 'input'})
    if op['op'] in ('max_pool2d', 'flatten', 'vector', 'average_pool'):
        return _stated(op['src'][0], made_by)
    if op['op'] == 'hardtanh':
        return -1.0, 1.0
    if op['op'] == 'clamp' and None not in (op['low'], op['high']):
        return float(op['low']), float(op['high'])
    return None


def _measured(
    packed: Packed, names: list[str], images: Iterable[np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Measures the smallest and the largest number of each value over all images."""
    if not names:
        return {}
    simulation = Simulation(packed).eval()
    found: dict[str, tuple[float, float]] = {}
    for batch in images:
        values = {'input': torch.from_numpy(batch)}
        with torch.inference_mode():
            for i, op in enumerate(packed.graph):
                inputs = (values[name] for name in op['src'])
                values[op['dst']] = simulation.operation(i, *inputs)
        for name in names:
            low, high = found.get(name, (0.0, 0.0))
            ends = torch.aminmax(values[name])
            found[name] = min(low, ends.min.item()), max(high, ends.max.item())
    if not found:
        raise ConfigError(
            f'8 bits: the range of {names[0]!r} is not known without images; name a '
            'folder of some, or the training set'
        )
    return found


def _input_fields(low: float, high: float) -> dict[str, Any]:
    """Returns the fields that map a range to bytes; 0 stays exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    if -low == high:  # then both limits are exact, too
        scale, zero = 127 / max(high, 1e-20), 128
    else:
        scale = 255 / max(high - low, 1e-20)
        zero = round(-low * scale)
    return dict(input_scale=float(np.float32(scale)), zero_point=zero)


# --------------------------------------------------------------------------
# Layers.


def _scaled(weight: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Scales weights (out, ...) to +-most; also returns the scale of each filter."""
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    scale = np.where(largest > 0, largest, 1).astype(np.float64) / most
    return weight / scale.reshape(-1, *[1] * (weight.ndim - 1)), scale


def _rounded(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds weights (out, ...) to +-127; also returns the scale of each filter."""
    scaled, scale = _scaled(weight, 127)
    return np.rint(scaled).astype(np.int8), scale


def _rounded_for_pixels(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds weights (out, in, height, width) and returns the scale of each filter.

    The weights are rounded one after the other, and later ones compensate the error of
    earlier ones, because neighbouring pixels are correlated (`GPTQ
    <https://arxiv.org/abs/2210.17323>`_): with H = E[x y] of two pixels x and y, the
    error e of weight j is added to weight i > j as e * U[j, i] / U[j, j], where U is
    the upper Cholesky factor of the inverse of H.
    """
    scaled, scale = _scaled(weight, _MOST_OF_PIXELS)
    rest = scaled.reshape(len(weight), -1)
    if rest.shape[1] <= _MOST_TAPS:
        rest = rest.copy()
        inverse = np.linalg.inv(_likeness(weight.shape[1:]))
        factor = np.linalg.cholesky(inverse).T
        for j in range(rest.shape[1]):
            whole = np.rint(rest[:, j]).clip(-_MOST_OF_PIXELS, _MOST_OF_PIXELS)
            error = (rest[:, j] - whole) / factor[j, j]
            rest[:, j] = whole
            rest[:, j + 1 :] -= np.outer(error, factor[j, j + 1 :])
    return np.rint(rest).astype(np.int8).reshape(weight.shape), scale


def _likeness(shape: tuple[int, int, int]) -> np.ndarray:
    """Returns the correlation of pixels in a window, which falls with distance."""
    channel, row, column = (i.ravel() for i in np.indices(shape))
    apart = np.hypot(row[:, None] - row, column[:, None] - column)
    apart += channel[:, None] != channel
    return _CORRELATION**apart + 1e-4 * np.eye(len(row))


def _integers(
    op: dict[str, Any], arrays: Arrays, low: float, high: float
) -> tuple[dict[str, Any], Arrays]:
    fields = {name: value for name, value in op.items() if name != 'binarize_input'}
    fields |= dict(op=_KINDS[op['op']], **_input_fields(low, high))
    made = {role: arrays[role] for role in _KEPT if role in arrays}
    if 'weight' in arrays:
        weight, scale = _rounded(arrays['weight'].astype(np.float64))
        made['weight_int8'] = weight
    elif 'exponent' in arrays:
        scale = np.exp2(arrays['exponent'].astype(np.float64))
    else:
        scale = arrays['scale'].astype(np.float64)
    made['scale'] = (scale / fields['input_scale']).astype(np.float32)
    return fields, made


def _pixel_conv(
    packed: Packed, op: dict[str, Any], arrays: Arrays
) -> tuple[dict[str, Any], Arrays]:
    if not gives_pixels(packed.input):
        raise UnsupportedModelError(
            '8 bits: pixels cannot be told from the normalised image, whose mean '
            f'{packed.input["mean"]} and std {packed.input["std"]} leave too little '
            'of them in float32; take fp32 ends'
        )
    fields = {name: op[name] for name in ('src', 'dst', 'stride', 'padding')}
    std, mean = np.array([packed.input['std'], packed.input['mean']], np.float64)
    weight, scale = _rounded_for_pixels(arrays['weight'] / std[:, None, None])
    scale = scale.astype(np.float32)
    made = dict(weight_int8=weight, scale=scale, pixels=pixels_of(packed.input))
    made['table'] = _table(packed, fields, weight, scale, mean, arrays.get('bias', 0))
    return dict(fields, op='pixel_conv2d'), made


def _table(
    packed: Packed,
    fields: dict[str, Any],
    weight: np.ndarray,
    scale: np.ndarray,
    mean: np.ndarray,
    bias: np.ndarray | int,
) -> np.ndarray:
    """See :mod:`mmirnet.packed.ops.pixel_conv2d`; computed in float64."""
    window = geometry(fields, weight.shape[2:])
    rows, columns = classes(packed.shapes['input'], window)
    taps = np.einsum('oihw,i->ohw', weight.astype(np.float64), mean)
    sums = [
        [taps[:, top:bottom, left:right].sum((1, 2)) for left, right in columns.parts]
        for top, bottom in rows.parts
    ]
    return (bias - np.array(sums) * scale.astype(np.float64)).astype(np.float32)
