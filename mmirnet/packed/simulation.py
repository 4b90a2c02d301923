"""A packed network as a torch module that computes what was packed."""

import os

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from . import format
from .format import Packed
from .ops import OPERATIONS


class Simulation(nn.Module):
    """A packed network in torch, layer by layer in floating point.

    It computes the same output as the model that was packed.

    Args:
        packed (Packed): A checked network.
    """

    def __init__(self, packed: Packed):
        super().__init__()
        self.packed = packed
        self.graph = packed.graph
        self.layers = nn.ModuleList()
        for operation in packed.graph:
            layer = nn.Module()
            for role, array in packed.arrays(operation).items():
                tensor = torch.from_numpy(np.array(array, order='C'))
                layer.register_buffer(role, tensor)
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits (N, classes) of normalised images (N, C, H, W).

        Raises:
            ConfigError: If the images have another shape or are not floating point.
        """
        wanted = self.packed.shapes['input']
        fits = torch.jit.is_tracing() or tuple(x.shape[1:]) == wanted
        if not fits or not x.is_floating_point():
            raise ConfigError(
                'images must be normalised floats of shape (N, '
                f'{", ".join(map(str, wanted))}), not {x.dtype} of {tuple(x.shape)}'
            )
        values = {'input': x}
        for i, op in enumerate(self.graph):
            values[op['dst']] = self.operation(i, *(values[v] for v in op['src']))
        return values[self.graph[-1]['dst']].flatten(1)

    def operation(self, index: int, *inputs: Tensor) -> Tensor:
        """Computes one operation of the graph; inputs and output are (N, C, H, W)."""
        op, shapes = self.graph[index], self.packed.shapes
        tensors = dict(self.layers[index].named_buffers())
        # Features have the shape of the maps that they were flattened from.
        inputs = [
            x.reshape(-1, *shapes[name])
            for x, name in zip(inputs, op['src'], strict=True)
        ]
        output = OPERATIONS[op['op']].simulate(op, *inputs, **tensors)
        return output.reshape(-1, *shapes[op['dst']])


def unpack(path: str | os.PathLike) -> Simulation:
    """Loads a packed file as a torch module.

    Args:
        path (str | os.PathLike): A file written by :func:`mmirnet.packed.write`.

    Returns:
        Simulation: The network in evaluation mode.

    Raises:
        PackedFileError: If the file is damaged or was tampered with.
    """
    return Simulation(format.read(path)).eval()
