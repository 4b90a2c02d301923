"""The definition of an operation of packed networks, and the registry of all."""

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
#: The tensors of one operation by role, such as ``weight``.
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

    ``fields`` is the operation's entry in the graph, ``inputs`` are the shapes of the
    values that it reads, and ``tensors`` are its arrays in the file by role.

    Attributes:
        name (str): Value of ``op`` in the graph.
        shape (Callable): (fields, inputs, tensors) -> shape of the output. Raises
            :class:`~mmirnet.packed.fields.Reject` if they do not fit each other.
        simulate (Callable): ``(fields, *images, **arrays)`` -> the output in torch.
            Inputs are (N, C, H, W), also those that are flat in the model. A flat
            output may be (N, features).
        to_onnx (Callable): (graph, fields, arrays) adds the nodes to a
            :class:`mmirnet.packed.onnx.Graph`. The output of the last one is ``dst``.
        lower (Callable): (fields, inputs, tensors) -> what the runtime does, see
            :mod:`mmirnet.packed.ops.lowering`.
        attributes (tuple[str, ...]): Required fields besides ``op``, ``src``, ``dst``.
        options (tuple[str, ...]): Optional fields.
        tensors (tuple[str, ...]): Roles of the required tensors.
        optional (tuple[str, ...]): Roles of the optional tensors.
        operands (int): Number of values that it reads.
        version (int): First version of packed files that has it.
        arrays (Callable): (fields, inputs, tensors) -> the float32 arrays that
            ``simulate``, ``to_onnx`` and the runtime's float layers compute with.
            Defaults to the tensors in the file.
        signs (Callable | None): (fields, inputs, tensors) -> bits (out, height, width,
            channels) of a binary layer's filters. None for other operations.
        copied (Callable): (fields, tensors) -> names of the values of which the runtime
            may keep a copy in another layout for this operation. Defaults to the image.
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
        """Roles of all tensors, required and optional."""
        return self.tensors + self.optional


#: All operations by name.
OPERATIONS: dict[str, Operation] = {}


def register(operation: Operation) -> None:
    """Adds an operation to the format."""
    OPERATIONS[operation.name] = operation


def same_shape(fields: dict, inputs: list[Shape], tensors: Arrays) -> Shape:
    """Returns the shape of an elementwise operation, which all inputs share.

    Raises:
        Reject: If the inputs differ in shape.
    """
    need(len(set(inputs)) == 1, f'shapes differ: {inputs}')
    return inputs[0]


def shape_of(
    fields: dict, shapes: dict[str, Shape], tensors: Arrays, dtypes: dict[str, str]
) -> Shape:
    """Checks an operation and returns the shape of its output.

    Args:
        fields (dict): The operation's entry in the graph.
        shapes (dict[str, Shape]): Shapes of all earlier values by name.
        tensors (Arrays): All tensors of the file by name.
        dtypes (dict[str, str]): Their types, as safetensors names them.

    Returns:
        Shape: (channels, height, width).

    Raises:
        Reject: If a field or a tensor is invalid.
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
