"""The operations of a packed network: one file for each.

A file registers an :class:`~mmirnet.packed.ops.operation.Operation`, which holds all
that there is to know of it: its fields and tensors and the shape it gives, what it
computes in torch, its nodes in ONNX, and what the runtime does for it. Format,
simulation, export and runtime are loops that ask the operation.

No file imports torch or onnx before it computes with them: reading a packed file and
running it need numpy alone.
"""

import pkgutil
from importlib import import_module

from .operation import OPERATIONS, Operation, register, shape_of

for _module in pkgutil.iter_modules(__path__):
    import_module(f'{__name__}.{_module.name}')

__all__ = ['OPERATIONS', 'Operation', 'register', 'shape_of']
