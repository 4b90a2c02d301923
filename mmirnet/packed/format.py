"""The packed file: a network as data, its weights as bits.

A safetensors file whose metadata holds one JSON text under ``mmirnet``::

    {"version": 4,
     "input": {"channels": 3, "height": 224, "width": 224,
               "mean": [...], "std": [...],
               "order": "rgb", "read": {...}, "steps": [...]},
     "head": {"scores": "softmax", "threshold": null, "topk": null},
     "classes": ["...", ...] or null,
     "source": "sha256 of the weights that were packed",
     "graph": [{"op": "conv2d", "src": ["input"], "dst": "conv1",
                "stride": 2, "padding": 3}, ...]}

The graph is an ordered list: an operation reads the outputs of earlier operations, and
the output of the last one is the logits. The tensors of an operation are named after
its ``dst``: ``conv1.weight``. Each operation has a file in :mod:`mmirnet.packed.ops`,
which defines its fields and tensors.

Signs are uint64 of shape (out, words), 64 in a word, a set bit for +1. A kernel, stride
or dilation is one integer or [vertical, horizontal], a padding one integer or
[top, left, bottom, right].

``mean`` and ``std`` are in the order of the network's channels. ``order``, ``read`` and
``steps`` define how an image file becomes pixels, see
:mod:`mmirnet.packed.preparation`. ``head`` defines how logits become scores:
``softmax`` for one class per image, ``sigmoid`` for any number of classes, which are
those of at least ``threshold`` or the best ``topk``.

Versions of the format:

1. There is no ``head``, and ``input`` has no ``order``, ``read`` and ``steps``. They
   are read as softmax and :func:`mmirnet.packed.preparation.default`.
2. The scales of binary layers are powers of two (``exponent``). There is no ``prelu``.
3. Binary layers have any scale, thresholds and offsets, and there is ``prelu``.
4. There are operations on 8-bit integers (:mod:`mmirnet.packed.ops.int8`).

A network is written in the earliest version from 2 on that supports it, so that earlier
releases can read the file.

The metadata also has ``sha256``, see :func:`digest`. It reveals damage on a disk or a
network, but no forgery.

A packed file is not trusted: :func:`read` checks all fields against each other before
it allocates memory for the network.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PackedFileError
from . import preparation
from .fields import Reject, integer, need
from .limits import MAX_ACTIVATION_BYTES, MAX_FILE_BYTES, MAX_OPERATIONS, MAX_SIDE
from .ops import OPERATIONS, shape_of
from .ops.lowering import Lowered
from .ops.operation import Shape

VERSION = 4
#: One class an image.
SOFTMAX = {'scores': 'softmax', 'threshold': None, 'topk': None}
# Tensors that only files from version 3 on have.
_NEW_ROLES = {'scale', 'threshold', 'offset', 'affine_input'}
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
    shapes: dict[str, Shape] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=SOFTMAX.copy)

    def operation_tensors(self, operation: dict[str, Any]) -> dict[str, np.ndarray]:
        """Returns the tensors of an operation by role, as in the file."""
        roles = OPERATIONS[operation['op']].roles
        names = {r: f'{operation["dst"]}.{r}' for r in roles}
        return {r: self.tensors[n] for r, n in names.items() if n in self.tensors}

    def arrays(self, operation: dict[str, Any]) -> dict[str, np.ndarray]:
        """Returns the float32 arrays that an operation computes with, by role."""
        return self._ask(OPERATIONS[operation['op']].arrays, operation)

    def signs(self, operation: dict[str, Any]) -> np.ndarray:
        """Returns a binary layer's filters as bits (out, height, width, channels)."""
        return self._ask(OPERATIONS[operation['op']].signs, operation)

    def lower(self, operation: dict[str, Any]) -> Lowered:
        """Returns what the runtime does for an operation."""
        return self._ask(OPERATIONS[operation['op']].lower, operation)

    def _ask(self, part: Callable, operation: dict[str, Any]) -> Any:
        inputs = [self.shapes[name] for name in operation['src']]
        return part(operation, inputs, self.operation_tensors(operation))


_INPUT = ('channels', 'height', 'width', 'mean', 'std', 'order', 'read', 'steps')


def _check_head(head: Any, classes: int) -> None:
    need(
        isinstance(head, dict) and set(head) == set(SOFTMAX),
        f'fields must be {", ".join(SOFTMAX)}',
    )
    need(head['scores'] in ('softmax', 'sigmoid'), 'scores must be softmax or sigmoid')
    threshold = head['threshold']
    need(
        threshold is None or (type(threshold) is float and np.isfinite(threshold)),
        'threshold must be a finite number or null',
    )
    if head['topk'] is not None:
        integer(head, 'topk', 1, classes)


def pixels_of(spec: dict[str, Any]) -> np.ndarray:
    """Returns what undoes the normalisation, (2, channels), float32: std and mean."""
    return np.array([spec['std'], spec['mean']], np.float32)


def gives_pixels(spec: dict[str, Any]) -> bool:
    """Whether float32 preserves every pixel when the normalisation is undone."""
    std, mean = pixels_of(spec)
    pixels = np.arange(256, dtype=np.float32)[:, None]
    with np.errstate(over='ignore', invalid='ignore'):
        return bool((np.rint((pixels - mean) / std * std + mean) == pixels).all())


def _check_pixels(spec: dict[str, Any], pixels: np.ndarray) -> None:
    need(np.array_equal(pixels, pixels_of(spec)), 'pixels differ from std and mean')
    need(gives_pixels(spec), 'mean and std leave too little of a pixel in float32')


def new_parts(packed: Packed, operation: dict[str, Any]) -> list[str]:
    """Returns the parts of an operation that need version 3, those of other recipes."""
    if operation['op'] == 'prelu':
        return ['prelu']
    return sorted(_NEW_ROLES.intersection(packed.operation_tensors(operation)))


def version_of(packed: Packed) -> int:
    """Returns the earliest version from 2 on that supports a network."""
    return max(
        max(2, OPERATIONS[op['op']].version, 3 if new_parts(packed, op) else 2)
        for op in packed.graph
    )


def _footprint(shape: Shape) -> int:
    """Returns the bytes of a value as floats and as bits, both padded for vectors."""
    return shape[1] * (shape[2] + 62) * (shape[0] + 63) * 5


@contextmanager
def _field(name: str) -> Iterator[None]:
    """Adds the name of a field to the reason why it is rejected."""
    try:
        yield
    except Reject as error:
        raise PackedFileError(f'{name}: {error}') from None


def check(packed: Packed) -> Packed:
    """Checks a network against itself and fills in its shapes.

    Args:
        packed: The network. Its fields may hold anything.

    Returns:
        The same network.

    Raises:
        PackedFileError: If a field is invalid; names the field.
    """
    with _field('input'):
        image = _check_input(packed.input)
    with _field('classes'):
        _check_classes(packed.classes)
    with _field('source'):
        need(isinstance(packed.source, str), 'must be a text')
    shapes = _check_graph(packed, image)
    logits = shapes[packed.graph[-1]['dst']]
    with _field('output'):
        need(logits[1:] == (1, 1), f'logits of shape {logits} are no vector')
        need(
            packed.classes is None or len(packed.classes) == logits[0],
            f'{logits[0]} logits do not fit the classes',
        )
    with _field('head'):
        _check_head(packed.head, logits[0])
    for name, tensor in packed.tensors.items():
        with _field(f'tensor {name!r}'):
            finite = tensor.dtype != np.float32 or bool(np.isfinite(tensor).all())
            need(finite, 'holds NaN or infinity')
    packed.shapes = shapes
    return packed


def _check_input(spec: Any) -> Shape:
    """Checks how images are prepared; returns the shape of an image."""
    need(
        isinstance(spec, dict) and set(spec) == set(_INPUT),
        f'fields must be {", ".join(_INPUT)}',
    )
    channels = integer(spec, 'channels', 1, 64)
    height = integer(spec, 'height', 1, MAX_SIDE)
    width = integer(spec, 'width', 1, MAX_SIDE)
    for name in ('mean', 'std'):
        need(
            isinstance(spec[name], list)
            and len(spec[name]) == channels
            and all(type(v) is float and np.isfinite(v) for v in spec[name]),
            f'{name} must be {channels} finite numbers',
        )
    need(all(1e-6 <= abs(v) <= 1e6 for v in spec['std']), 'std must not be zero')
    why = preparation.check(spec, channels)
    need(why is None, why)
    return channels, height, width


def _check_classes(classes: Any) -> None:
    is_list = isinstance(classes, list)
    need(
        classes is None or (is_list and all(isinstance(c, str) for c in classes)),
        'must be a list of names or null',
    )


def _check_graph(packed: Packed, image: Shape) -> dict[str, Shape]:
    """Checks all operations; returns the shape of every value."""
    with _field('graph'):
        need(
            isinstance(packed.graph, list) and 0 < len(packed.graph) <= MAX_OPERATIONS,
            f'must be a list of 1 to {MAX_OPERATIONS} operations',
        )
    shapes, total = {'input': image}, 0
    for index, operation in enumerate(packed.graph):
        with _field(f'graph[{index}]'):
            shape = shape_of(operation, shapes, packed.tensors, packed.dtypes)
            total += _footprint(shape)
            # The runtime may keep an operand once more, prepared for the operation.
            tensors = packed.operation_tensors(operation)
            copied = OPERATIONS[operation['op']].copied(operation, tensors)
            total += sum(_footprint(shapes[name]) for name in copied)
            need(total <= MAX_ACTIVATION_BYTES, 'activations too large in sum')
            shapes[operation['dst']] = shape
            if 'pixels' in tensors:
                _check_pixels(packed.input, tensors['pixels'])
    return shapes


# --------------------------------------------------------------------------
# Reading.


def _to_array(dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    array = np.frombuffer(data, _DTYPES[dtype]).reshape(shape)
    if dtype == 'BF16':
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(np.float32) if dtype == 'F16' else array


def digest(text: str, entries: list[tuple[str, dict[str, Any]]]) -> str:
    """Computes the digest of a packed file's content, which reveals damage.

    Args:
        text (str): The text under ``mmirnet`` in the metadata.
        entries (list[tuple[str, dict]]): The tensors of the file, as returned by
            ``safetensors.deserialize``.

    Returns:
        str: SHA-256 of the text and of name, type, shape and bytes of every tensor.
    """
    sha = hashlib.sha256(text.encode())
    for name, entry in sorted(entries):
        sha.update(f'{name} {entry["dtype"]} {entry["shape"]}'.encode())
        sha.update(entry['data'])
    return sha.hexdigest()


def _parse(data: bytes) -> Packed:
    """Reads the parts of a file, which are not checked yet."""
    import safetensors  # an extra, which training does without

    try:
        entries = safetensors.deserialize(data)
    except Exception as error:  # its error type is no stable public name
        raise PackedFileError(f'not a safetensors file: {error}') from None
    header_bytes = int.from_bytes(data[:8], 'little')
    metadata = json.loads(data[8 : 8 + header_bytes]).get('__metadata__') or {}
    if 'mmirnet' not in metadata:
        raise PackedFileError('metadata: no field mmirnet, not a packed network')
    wanted = metadata.get('sha256')  # files of earlier versions have none
    if wanted is not None and wanted != digest(metadata['mmirnet'], entries):
        raise PackedFileError('sha256: the file was damaged after it was packed')
    spec = _parse_spec(metadata['mmirnet'])
    tensors, dtypes = {}, {}
    for name, entry in entries:
        if entry['dtype'] not in _DTYPES:
            raise PackedFileError(f'tensor {name!r}: type {entry["dtype"]}')
        dtypes[name] = entry['dtype']
        tensors[name] = _to_array(entry['dtype'], entry['shape'], entry['data'])
    return Packed(tensors=tensors, dtypes=dtypes, **spec)


def _parse_spec(text: str) -> dict[str, Any]:
    """Reads what stands under ``mmirnet``, in the words of the newest version."""
    try:
        spec = json.loads(text)
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
    del spec['version']
    return spec


def _from_version_1(spec: dict[str, Any]) -> dict[str, Any]:
    """Adds the fields that version 1 does not have."""
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
        path (str | os.PathLike): A file written by :func:`mmirnet.packed.write`.

    Returns:
        Packed: The network.

    Raises:
        PackedFileError: If a field is invalid; names the file and the field.
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
