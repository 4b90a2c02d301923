"""The packed file: a network as data, its weights as bits.

A safetensors file whose metadata holds one JSON text under ``mmirnet``::

    {"version": 2,
     "input": {"channels": 3, "height": 224, "width": 224,
               "mean": [...], "std": [...],
               "order": "rgb", "read": {...}, "steps": [...]},
     "head": {"scores": "softmax", "threshold": null, "topk": null},
     "classes": ["...", ...] or null,
     "source": "sha256 of the weights that were packed",
     "graph": [{"op": "conv2d", "src": ["input"], "dst": "conv1",
                "stride": 2, "padding": 3}, ...]}

The graph is an ordered list: an operation reads values that stand before it,
and the last one gives the logits. The tensors of an operation are named after
its ``dst``: ``conv1.weight``.

``signs`` of a binary convolution are uint64 of shape (out, words), a set bit for
+1. The bit of window position (y, x) and input channel c has index
``(y * kernel + x) * channels + c``, 64 in a word. ``exponent`` is log2 of each
output channel's scale. An affine holds a BatchNorm as (2, channels): y = x *
affine[0] + affine[1], with one rounding; a scale has one factor and one offset for
all channels.

A kernel, stride or dilation is one integer or [vertical, horizontal], a padding one
integer or [top, left, bottom, right]. With groups a window has channels / groups
channels. The signs of a binary linear layer are in the order of its features.

``mean`` and ``std`` are in the order of the network's channels. ``order``, ``read`` and
``steps`` make its pixels of an image file, see :mod:`mmirnet.packed.preparation`.
``head`` makes scores of logits: ``softmax`` for one class an image, ``sigmoid`` for
any number of them, those of at least ``threshold``, or the best ``topk``. Files of
version 1 have neither: they are read as files of version 2 with
:func:`mmirnet.packed.preparation.default` and softmax.

Beside ``mmirnet`` stands ``sha256``, see :func:`digest`: it finds bits that a disk or a
network turned, not those of somebody who writes a digest to them.

A packed file is untrusted: :func:`read` checks everything against everything before
anything is allocated for it.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import PackedFileError
from . import preparation

VERSION = 2
#: One class an image.
SOFTMAX = {'scores': 'softmax', 'threshold': None, 'topk': None}
# Far above any network of this project, far below what would hurt a machine.
MAX_FILE_BYTES = 1 << 30
MAX_OPERATIONS = 4096
MAX_SIDE = 4096
MAX_CHANNELS = 1 << 16
MAX_ACTIVATION_BYTES = 1 << 30
MAX_EXPONENT = 30
MAX_NUMBER = 1e30
# A binary window's sum has to fit the kernels' 16-bit partial sums.
MAX_BINARY_WINDOW = 65535

_DTYPES = {
    'F32': np.dtype('<f4'),
    'F16': np.dtype('<f2'),
    'BF16': np.dtype('<u2'),
    'U64': np.dtype('<u8'),
    'I8': np.dtype('i1'),
}


@dataclass
class Packed:
    """A checked packed network.

    Attributes:
        input: ``channels``, ``height``, ``width``, ``mean``, ``std``, and how an image
            file is prepared: ``order``, ``read``, ``steps``.
        graph: Operations in order, as in the file.
        shapes: (channels, height, width) of every value.
        tensors: Arrays by name: float32, or uint64 signs and int8 exponents.
        classes: Names of the classes, or None.
        source: Digest of the weights that were packed.
        dtypes: safetensors' names of the tensors' types in the file.
        head: ``scores``, ``threshold``, ``topk``.
    """

    input: dict[str, Any]
    graph: list[dict[str, Any]]
    tensors: dict[str, np.ndarray]
    classes: list[str] | None = None
    source: str = ''
    shapes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=SOFTMAX.copy)

    def operation_tensors(self, operation: dict[str, Any]) -> dict[str, np.ndarray]:
        """The arrays of one operation by their role."""
        names = {r: f'{operation["dst"]}.{r}' for r in _roles(operation['op'])}
        return {r: self.tensors[n] for r, n in names.items() if n in self.tensors}


# --------------------------------------------------------------------------
# What an operation is: its attributes, its tensors, the shape it gives.


class _Reject(ValueError):
    """Why an operation is wrong; `read` adds file and position."""


def _need(condition: bool, why: str) -> None:
    if not condition:
        raise _Reject(why)


def _integer(operation: dict, name: str, low: int, high: int) -> int:
    value = operation.get(name)
    _need(
        type(value) is int and low <= value <= high,
        f'{name} must be an integer in [{low}, {high}], not {value!r}',
    )
    return value


def _number(operation: dict, name: str) -> float:
    value = operation.get(name)
    _need(
        type(value) in (int, float) and abs(value) <= MAX_NUMBER,
        f'{name} must be a number within +-{MAX_NUMBER}, not {value!r}',
    )
    return value


def _boolean(operation: dict, name: str) -> bool:
    _need(type(operation[name]) is bool, f'{name} must be a bool')
    return operation[name]


class Geometry(NamedTuple):
    """How a window moves over an image; pairs are vertical and horizontal."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def square(self) -> bool:
        """Whether one kernel size, one stride and one padding say it all."""
        alike = all(len(set(sides)) == 1 for sides in self[:3])
        return alike and self.dilation == (1, 1) and self.groups == 1

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns from the first to the last that a window sees."""
        height, width = (
            d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)
        )
        return height, width


def geometry(
    operation: dict, kernel: tuple[int, int] | None = None, most: int = MAX_SIDE
) -> Geometry:
    """The window of an operation, from its attributes.

    Args:
        operation: A convolution or a pooling.
        kernel: The sides of the window, where they are no attribute.
        most: The largest kernel.
    """

    def sides(name: str, count: int, low: int, high: int) -> tuple:
        value = operation.get(name)
        if type(value) is not list:
            return (_integer(operation, name, low, high),) * count
        _need(
            len(value) == count
            and all(type(v) is int and low <= v <= high for v in value),
            f'{name} must be {count} integers in [{low}, {high}], not {value!r}',
        )
        return tuple(value)

    kernel = kernel or sides('kernel', 2, 1, most)
    dilation = sides('dilation', 2, 1, 64) if 'dilation' in operation else (1, 1)
    groups = operation.get('groups', 1)
    if 'groups' in operation:
        groups = _integer(operation, 'groups', 1, MAX_CHANNELS)
    window = Geometry(kernel, dilation=dilation, groups=groups)
    height, width = window.extent
    if type(operation.get('padding')) is list:
        padding = sides('padding', 4, 0, max(height, width) - 1)
        _need(
            max(padding[::2]) < height and max(padding[1::2]) < width,
            f'padding {list(padding)} is as large as the window',
        )
    else:
        padding = sides('padding', 4, 0, min(height, width) - 1)
    return window._replace(stride=sides('stride', 2, 1, 64), padding=padding)


def _window(shape: tuple, window: Geometry) -> tuple[int, int]:
    top, left, bottom, right = window.padding
    height, width = shape[1] + top + bottom, shape[2] + left + right
    rows, columns = window.extent
    _need(
        height >= rows and width >= columns,
        f'window {rows}x{columns} larger than the image',
    )
    return (
        (height - rows) // window.stride[0] + 1,
        (width - columns) // window.stride[1] + 1,
    )


def _conv2d(operation, inputs, tensors):
    (shape,) = inputs
    weight = tensors['weight']
    _need(weight.ndim == 4 and weight.size > 0, f'weight {weight.shape} is no filter')
    window = geometry(operation, weight.shape[2:])
    _need(
        weight.shape[1] * window.groups == shape[0],
        f'weight {weight.shape} does not fit {shape[0]} input channels',
    )
    _need(len(weight) % window.groups == 0, 'groups of filters differ in size')
    return (len(weight), *_window(shape, window))


def _check_signs(operation, window, tensors):
    signs, exponent = tensors['signs'], tensors['exponent']
    _need(window <= MAX_BINARY_WINDOW, 'binary window too large')
    _need(
        signs.ndim == 2 and signs.size > 0 and signs.shape[1] == -(-window // 64),
        f'signs {signs.shape} do not fit a window of {window}',
    )
    if window % 64:
        _need(
            not (signs[:, -1] >> np.uint64(window % 64)).any(),
            'signs beyond the end of the window',
        )
    _need(
        exponent.shape == signs.shape[:1]
        and np.abs(exponent.astype(int)).max() <= MAX_EXPONENT,
        f'exponent: {len(signs)} values within +-{MAX_EXPONENT} expected',
    )
    _boolean(operation, 'binarize_input')


def _binary_conv2d(operation, inputs, tensors):
    (shape,) = inputs
    window = geometry(operation, most=31)
    _need(
        shape[0] % window.groups == 0 and len(tensors['signs']) % window.groups == 0,
        f'{window.groups} groups do not divide the channels',
    )
    taps = window.kernel[0] * window.kernel[1]
    _check_signs(operation, taps * (shape[0] // window.groups), tensors)
    return (len(tensors['signs']), *_window(shape, window))


def _binary_linear(operation, inputs, tensors):
    _check_signs(operation, prod(inputs[0]), tensors)
    return len(tensors['signs']), 1, 1


def _linear(operation, inputs, tensors):
    (shape,) = inputs
    weight = tensors['weight']
    _need(
        weight.ndim == 2 and weight.size > 0 and weight.shape[1] == prod(shape),
        f'weight {weight.shape} does not fit {prod(shape)} features',
    )
    return weight.shape[0], 1, 1


def _affine(operation, inputs, tensors):
    (shape,) = inputs
    affine = tensors['affine']
    _need(
        affine.shape == (2, shape[0]),
        f'affine {affine.shape} does not fit {shape[0]} channels',
    )
    return shape


def _same(operation, inputs, tensors):
    _need(len(set(inputs)) == 1, f'shapes differ: {inputs}')
    return inputs[0]


def _pool(operation, inputs, most):
    (shape,) = inputs
    window = geometry(operation, most=most)
    size = _window(shape, window)
    # Every window holds a pixel: none lies in the padding alone.
    for side in range(2):
        start = (size[side] - 1) * window.stride[side] - window.padding[side]
        _need(start < shape[1 + side], 'a window lies in the padding alone')
    return (shape[0], *size)


def _max_pool2d(operation, inputs, tensors):
    return _pool(operation, inputs, 64)


def _avg_pool2d(operation, inputs, tensors):
    _boolean(operation, 'include_pad')
    return _pool(operation, inputs, MAX_SIDE)


def _average_pool(operation, inputs, tensors):
    return inputs[0][0], 1, 1


def _flatten(operation, inputs, tensors):
    return inputs[0]  # (C, H, W) still says how the features are ordered


def _vector(operation, inputs, tensors):
    return prod(inputs[0]), 1, 1


def _clamp(operation, inputs, tensors):
    limits = [
        _number(operation, name)
        for name in ('low', 'high')
        if operation[name] is not None
    ]
    _need(bool(limits), 'low and high are both null')
    _need(limits == sorted(limits), f'low and high are in the wrong order: {limits}')
    return inputs[0]


def _scale(operation, inputs, tensors):
    for name in ('factor', 'offset'):
        _number(operation, name)
    return inputs[0]


def _pad_shortcut(operation, inputs, tensors):
    ((channels, height, width),) = inputs
    stride = _integer(operation, 'stride', 1, 64)
    before = _integer(operation, 'before', 0, MAX_CHANNELS)
    after = _integer(operation, 'after', 0, MAX_CHANNELS)
    return before + channels + after, -(-height // stride), -(-width // stride)


@dataclass(frozen=True)
class _Schema:
    shape: Any
    inputs: int = 1
    attributes: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # tensors
    options: tuple[str, ...] = ()  # attributes


_SPREAD = ('dilation', 'groups')

OPERATIONS = {
    'conv2d': _Schema(
        _conv2d, 1, ('stride', 'padding'), ('weight',), ('bias',), _SPREAD
    ),
    'binary_conv2d': _Schema(
        _binary_conv2d,
        1,
        ('kernel', 'stride', 'padding', 'binarize_input'),
        ('signs', 'exponent'),
        ('bias',),
        _SPREAD,
    ),
    'binary_linear': _Schema(
        _binary_linear, 1, ('binarize_input',), ('signs', 'exponent'), ('bias',)
    ),
    'linear': _Schema(_linear, 1, (), ('weight',), ('bias',)),
    'affine': _Schema(_affine, 1, (), ('affine',)),
    'hardtanh': _Schema(_same),
    'relu': _Schema(_same),
    'add': _Schema(_same, 2),
    'max_pool2d': _Schema(_max_pool2d, 1, ('kernel', 'stride', 'padding')),
    'avg_pool2d': _Schema(
        _avg_pool2d, 1, ('kernel', 'stride', 'padding', 'include_pad')
    ),
    'average_pool': _Schema(_average_pool),  # of the whole image
    'flatten': _Schema(_flatten),
    'vector': _Schema(_vector),  # (C, H, W) as C * H * W channels
    'clamp': _Schema(_clamp, 1, ('low', 'high')),
    'scale': _Schema(_scale, 1, ('factor', 'offset')),
    'pad_shortcut': _Schema(_pad_shortcut, 1, ('stride', 'before', 'after')),
}


def _roles(kind: str) -> tuple[str, ...]:
    return OPERATIONS[kind].tensors + OPERATIONS[kind].optional


_TENSOR_DTYPES = {'signs': ('U64',), 'exponent': ('I8',)}
_FLOAT_DTYPES = ('F32', 'F16', 'BF16')


def shape_of(
    operation: dict, shapes: dict, tensors: dict, dtypes: dict
) -> tuple[int, int, int]:
    """Checks an operation, and says which (channels, height, width) it gives.

    Args:
        operation: As in the graph.
        shapes: Of the values that stand before it.
        tensors: As in a file, by name.
        dtypes: safetensors' names of their types.

    Raises:
        ValueError: If something in it is wrong.
    """
    _need(isinstance(operation, dict), 'not an object')
    kind = operation.get('op')
    _need(isinstance(kind, str) and kind in OPERATIONS, f'unknown operation {kind!r}')
    schema = OPERATIONS[kind]
    known = {'op', 'src', 'dst', *schema.attributes}
    _need(
        known <= set(operation) <= known | set(schema.options),
        f'fields must be {sorted(known)}',
    )
    names = operation['src']
    _need(
        isinstance(names, list) and len(names) == schema.inputs,
        f'src must be a list of {schema.inputs}',
    )
    for name in names:
        _need(
            isinstance(name, str) and name in shapes,
            f'src {name!r} is not a value computed before',
        )
    output = operation['dst']
    _need(
        isinstance(output, str) and output not in shapes,
        f'dst {output!r} is no new name',
    )
    arrays = {}
    for role in _roles(kind):
        name = f'{output}.{role}'
        if role in schema.optional and name not in tensors:
            continue
        _need(name in tensors, f'no tensor {name!r}')
        wanted = _TENSOR_DTYPES.get(role, _FLOAT_DTYPES)
        _need(dtypes[name] in wanted, f'{name} is {dtypes[name]}, not {wanted}')
        arrays[role] = tensors[name]
    shape = schema.shape(operation, [shapes[name] for name in names], arrays)
    bias = arrays.get('bias')
    _need(
        bias is None or bias.shape == shape[:1], f'bias does not fit {shape[0]} outputs'
    )
    _need(
        0 < shape[0] <= MAX_CHANNELS and 0 < prod(shape) * 4 <= MAX_ACTIVATION_BYTES,
        f'shape {shape} out of range',
    )
    return tuple(int(side) for side in shape)


_INPUT = ('channels', 'height', 'width', 'mean', 'std', 'order', 'read', 'steps')


def _check_head(head: Any, classes: int) -> None:
    _need(
        isinstance(head, dict) and set(head) == set(SOFTMAX),
        f'fields must be {", ".join(SOFTMAX)}',
    )
    _need(head['scores'] in ('softmax', 'sigmoid'), 'scores must be softmax or sigmoid')
    threshold = head['threshold']
    _need(
        threshold is None or (type(threshold) is float and np.isfinite(threshold)),
        'threshold must be a finite number or null',
    )
    if head['topk'] is not None:
        _integer(head, 'topk', 1, classes)


def _footprint(shape: tuple[int, int, int]) -> int:
    """Bytes of one copy as floats and one as bits, both padded for vectors."""
    return shape[1] * (shape[2] + 62) * (shape[0] + 63) * 5


def _copied(operation: dict) -> list[str]:
    kind, sources = operation['op'], operation['src']
    if kind == 'binary_linear':
        return sources
    if kind == 'binary_conv2d' and not geometry(operation).square:
        return sources
    return ['input'] if 'input' in sources and kind not in ('conv2d', 'linear') else []


def slope_and_offset(packed: Packed, operation: dict) -> np.ndarray:
    """(2, channels) of an affine or a scale."""
    if operation['op'] == 'affine':
        return packed.operation_tensors(operation)['affine']
    channels = packed.shapes[operation['dst']][0]
    values = np.array([[operation['factor']], [operation['offset']]], np.float32)
    return np.repeat(values, channels, 1)


def check(packed: Packed) -> Packed:
    """Checks a network against itself and fills in its shapes.

    Raises:
        PackedFileError: With the field that is wrong.
    """
    field_name = 'input'
    try:
        spec = packed.input
        _need(
            isinstance(spec, dict) and set(spec) == set(_INPUT),
            f'fields must be {", ".join(_INPUT)}',
        )
        channels = _integer(spec, 'channels', 1, 64)
        height = _integer(spec, 'height', 1, MAX_SIDE)
        width = _integer(spec, 'width', 1, MAX_SIDE)
        for name in ('mean', 'std'):
            _need(
                isinstance(spec[name], list)
                and len(spec[name]) == channels
                and all(type(v) is float and np.isfinite(v) for v in spec[name]),
                f'{name} must be {channels} finite numbers',
            )
        _need(all(1e-6 <= abs(v) <= 1e6 for v in spec['std']), 'std must not be zero')
        why = preparation.check(spec, channels)
        _need(why is None, why)
        field_name = 'classes'
        _need(
            packed.classes is None
            or (
                isinstance(packed.classes, list)
                and all(isinstance(name, str) for name in packed.classes)
            ),
            'must be a list of names or null',
        )
        field_name = 'source'
        _need(isinstance(packed.source, str), 'must be a text')
        field_name = 'graph'
        _need(
            isinstance(packed.graph, list) and 0 < len(packed.graph) <= MAX_OPERATIONS,
            f'must be a list of 1 to {MAX_OPERATIONS} operations',
        )
        shapes = {'input': (channels, height, width)}
        total = 0
        for index, operation in enumerate(packed.graph):
            field_name = f'graph[{index}]'
            shape = shape_of(operation, shapes, packed.tensors, packed.dtypes)
            total += _footprint(shape)
            # The runtime may keep an operand once more, prepared for the operation.
            total += sum(_footprint(shapes[name]) for name in _copied(operation))
            _need(total <= MAX_ACTIVATION_BYTES, 'activations too large in sum')
            shapes[operation['dst']] = shape
        field_name = 'output'
        _need(shape[1:] == (1, 1), f'logits of shape {shape} are no vector')
        _need(
            packed.classes is None or len(packed.classes) == shape[0],
            f'{shape[0]} logits do not fit the classes',
        )
        field_name = 'head'
        _check_head(packed.head, shape[0])
        for name, tensor in packed.tensors.items():
            field_name = f'tensor {name!r}'
            if tensor.dtype == np.float32:
                _need(bool(np.isfinite(tensor).all()), 'holds NaN or infinity')
    except _Reject as error:
        raise PackedFileError(f'{field_name}: {error}') from None
    packed.shapes = shapes
    return packed


# --------------------------------------------------------------------------
# Reading.


def _to_array(dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    array = np.frombuffer(data, _DTYPES[dtype]).reshape(shape)
    if dtype == 'BF16':
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(np.float32) if dtype == 'F16' else array


def digest(text: str, data: bytes) -> str:
    """The digest of a packed file's content, by which damage is found.

    Args:
        text: What stands under ``mmirnet`` in its metadata.
        data: The file, with whatever metadata.

    Returns:
        SHA-256 of the text and of name, type, shape and bytes of every tensor.
    """
    import safetensors

    sha = hashlib.sha256(text.encode())
    for name, entry in sorted(safetensors.deserialize(data)):
        sha.update(f'{name} {entry["dtype"]} {entry["shape"]}'.encode())
        sha.update(entry['data'])
    return sha.hexdigest()


def _parse(data: bytes) -> Packed:
    import safetensors  # an extra, which training does without

    try:
        entries = safetensors.deserialize(data)
    except Exception as error:  # its error type is no stable public name
        raise PackedFileError(f'not a safetensors file: {error}') from None
    header_bytes = int.from_bytes(data[:8], 'little')
    metadata = json.loads(data[8 : 8 + header_bytes]).get('__metadata__') or {}
    if 'mmirnet' not in metadata:
        raise PackedFileError('metadata: no field mmirnet, not a packed network')
    # Files of earlier versions have none.
    if metadata.get('sha256') not in (None, digest(metadata['mmirnet'], data)):
        raise PackedFileError('sha256: the file was damaged after it was packed')
    try:
        spec = json.loads(metadata['mmirnet'])
    except (ValueError, RecursionError) as error:
        raise PackedFileError(f'metadata: mmirnet is not JSON: {error}') from None
    if not isinstance(spec, dict) or 'version' not in spec:
        raise PackedFileError('version: missing')
    if type(spec['version']) is not int or not 1 <= spec['version'] <= VERSION:
        raise PackedFileError(
            f'version: {spec["version"]!r} is not one of the supported 1 to {VERSION}'
        )
    if spec['version'] == 1:
        spec = _from_version_1(spec)
    fields = {'version', 'input', 'classes', 'source', 'graph', 'head'}
    if set(spec) != fields:
        raise PackedFileError(f'metadata: fields must be {sorted(fields)}')
    tensors, dtypes = {}, {}
    for name, entry in entries:
        if entry['dtype'] not in _DTYPES:
            raise PackedFileError(f'tensor {name!r}: type {entry["dtype"]}')
        dtypes[name] = entry['dtype']
        tensors[name] = _to_array(entry['dtype'], entry['shape'], entry['data'])
    return Packed(
        input=spec['input'],
        graph=spec['graph'],
        tensors=tensors,
        classes=spec['classes'],
        source=spec['source'],
        dtypes=dtypes,
        head=spec['head'],
    )


def _from_version_1(spec: dict[str, Any]) -> dict[str, Any]:
    """The same network in the words of version 2."""
    spec = {'head': SOFTMAX.copy(), **spec}
    inputs = spec.get('input')
    size = ('channels', 'height', 'width')
    # Anything else is for `check` to refuse.
    if isinstance(inputs, dict) and all(type(inputs.get(n)) is int for n in size):
        spec['input'] = preparation.default(*(inputs[n] for n in size)) | inputs
    return spec


def read(path: str | os.PathLike) -> Packed:
    """Reads and checks a packed file.

    Args:
        path: A file that :func:`mmirnet.packed.pack` wrote.

    Raises:
        PackedFileError: If anything in the file is not as it should be; the
            text names the file and the field.
        OSError: If the file cannot be read.
    """
    path = Path(path)
    size = path.stat().st_size
    try:
        if size > MAX_FILE_BYTES:
            raise PackedFileError(f'{size} bytes are more than a packed network has')
        return check(_parse(path.read_bytes()))
    except PackedFileError as error:
        raise PackedFileError(f'{path}: {error}') from None
