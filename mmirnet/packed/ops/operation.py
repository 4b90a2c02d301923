"""What an operation of a packed network is, and the registry of all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..fields import need
from ..limits import MAX_ACTIVATION_BYTES, MAX_CHANNELS
from .lowering import Lowered

#: (channels, height, width) of a value.
Shape = tuple[int, int, int]
#: The tensors of one operation by their role.
Arrays = dict[str, np.ndarray]

_DTYPES = {'signs': ('U64',), 'exponent': ('I8',), 'weight_int8': ('I8',)}
_FLOAT_DTYPES = ('F32', 'F16', 'BF16')


def _as_in_the_file(fields: dict, inputs: list[Shape], tensors: Arrays) -> Arrays:
    return tensors


def _copies_the_image(fields: dict, tensors: Arrays) -> list[str]:
    return ['input'] if 'input' in fields['src'] else []


@dataclass(frozen=True)
class Operation:
    """An operation, as its file registers it.

    In what follows ``fields`` is the operation's entry in the graph, ``inputs`` are the
    shapes of what it reads, ``tensors`` its arrays in the file by their role.

    Attributes:
        name: As ``op`` in the graph.
        shape: (fields, inputs, tensors) -> the shape of its output. Raises
            :class:`~mmirnet.packed.fields.Reject` for what cannot be.
        simulate: ``(fields, *images, **arrays)`` -> its output in torch. Images are
            (N, C, H, W); what is flat comes so too, and may go as (N, features).
        to_onnx: (graph, fields, arrays) adds its nodes to a
            :class:`mmirnet.packed.onnx.Graph`; the last gives the value ``dst``.
        lower: (fields, inputs, tensors) -> what the runtime does, see
            :mod:`mmirnet.packed.ops.lowering`.
        attributes: Fields that it needs beside ``op``, ``src`` and ``dst``.
        options: Fields that it may have.
        tensors: Roles of the tensors that it needs.
        optional: Roles of those that it may have.
        operands: How many values it reads.
        version: The first version of packed files that has it.
        arrays: (fields, inputs, tensors) -> the float32 arrays that `simulate`,
            `to_onnx` and the runtime's float layers compute with. By default those of
            the file.
        signs: (fields, inputs, tensors) -> the bits (out, height, width, channels) of
            the filters of a binary layer. None for what is not binary.
        copied: (fields, tensors) -> names of the values of which the runtime may keep
            a copy, prepared for this operation. By default the image.
    """

    name: str
    shape: Callable[[dict, list[Shape], Arrays], Shape]
    simulate: Callable
    to_onnx: Callable[[Any, dict, Arrays], None]
    lower: Callable[[dict, list[Shape], Arrays], Lowered]
    attributes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    operands: int = 1
    version: int = 1
    arrays: Callable[[dict, list[Shape], Arrays], Arrays] = _as_in_the_file
    signs: Callable[[dict, list[Shape], Arrays], np.ndarray] | None = None
    copied: Callable[[dict, Arrays], list[str]] = _copies_the_image

    @property
    def roles(self) -> tuple[str, ...]:
        """Of all tensors that it needs or may have."""
        return self.tensors + self.optional


#: Every operation by its name.
OPERATIONS: dict[str, Operation] = {}


def register(operation: Operation) -> None:
    """Makes an operation part of the format."""
    OPERATIONS[operation.name] = operation


def same_shape(fields: dict, inputs: list[Shape], tensors: Arrays) -> Shape:
    """The shape of an operation on single elements: all its inputs have it.

    Raises:
        Reject: If they differ.
    """
    need(len(set(inputs)) == 1, f'shapes differ: {inputs}')
    return inputs[0]


def shape_of(
    fields: dict, shapes: dict[str, Shape], tensors: Arrays, dtypes: dict[str, str]
) -> Shape:
    """Checks an operation, and says which (channels, height, width) it gives.

    Args:
        fields: As in the graph.
        shapes: Of the values that stand before it.
        tensors: As in a file, by name.
        dtypes: safetensors' names of their types.

    Raises:
        Reject: If something in it is wrong.
    """
    need(isinstance(fields, dict), 'not an object')
    kind = fields.get('op')
    need(isinstance(kind, str) and kind in OPERATIONS, f'unknown operation {kind!r}')
    operation = OPERATIONS[kind]
    known = {'op', 'src', 'dst', *operation.attributes}
    need(
        known <= set(fields) <= known | set(operation.options),
        f'fields must be {sorted(known)}',
    )
    names = fields['src']
    need(
        isinstance(names, list) and len(names) == operation.operands,
        f'src must be a list of {operation.operands}',
    )
    for name in names:
        need(
            isinstance(name, str) and name in shapes,
            f'src {name!r} is not a value computed before',
        )
    output = fields['dst']
    need(
        isinstance(output, str) and output not in shapes,
        f'dst {output!r} is no new name',
    )
    arrays = _tensors_of(operation, output, tensors, dtypes)
    shape = operation.shape(fields, [shapes[name] for name in names], arrays)
    bias = arrays.get('bias')
    need(
        bias is None or bias.shape == shape[:1], f'bias does not fit {shape[0]} outputs'
    )
    need(
        0 < shape[0] <= MAX_CHANNELS and 0 < prod(shape) * 4 <= MAX_ACTIVATION_BYTES,
        f'shape {shape} out of range',
    )
    channels, height, width = map(int, shape)
    return channels, height, width


def _tensors_of(
    operation: Operation, output: str, tensors: Arrays, dtypes: dict[str, str]
) -> Arrays:
    arrays = {}
    for role in operation.roles:
        name = f'{output}.{role}'
        if role in operation.optional and name not in tensors:
            continue
        need(name in tensors, f'no tensor {name!r}')
        wanted = _DTYPES.get(role, _FLOAT_DTYPES)
        need(dtypes[name] in wanted, f'{name} is {dtypes[name]}, not {wanted}')
        arrays[role] = tensors[name]
    return arrays
