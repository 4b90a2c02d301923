"""ONNX export, for compatibility: binary layers compute in floating point."""

import os
from typing import Any

import numpy as np

from ..errors import MissingPackageError
from ..files import write_atomic
from .format import Packed
from .ops import OPERATIONS

# The oldest opset that today's tools still test.
OPSET = 17


class Graph:
    """The nodes of an exported network, to which each operation adds its own.

    Attributes:
        shapes (dict): Shapes (channels, height, width) of the packed network's values.
        flat (set[str]): Names of the values that are (N, features) in ONNX. The others
            are maps, (N, C, H, W).
        nodes (list): The nodes in order.
        constants (dict): The constants by name.
    """

    def __init__(self, shapes: dict[str, tuple[int, int, int]]):
        self.shapes = shapes
        self.flat: set[str] = set()
        self.nodes: list = []
        self.constants: dict[str, Any] = {}

    def constant(self, name: str, array: np.ndarray) -> str:
        """Adds a constant and returns its name."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(array)
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes) -> str:
        """Adds a node and returns the name of its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def features(self, name: str) -> str:
        """Returns the name of a value as (N, features)."""
        if name in self.flat:
            return name
        return self.node('Flatten', [name], f'{name}.flat')

    def maps(self, name: str) -> str:
        """Returns the name of a value as (N, C, H, W)."""
        if name not in self.flat:
            return name
        shape = self.constant(f'{name}.shape', np.array([-1, *self.shapes[name]]))
        return self.node('Reshape', [name, shape], f'{name}.maps')

    def signs(self, source: str, output: str, threshold: str | None = None) -> str:
        """Adds the sign of a value: -1 or +1.

        Args:
            source (str): Name of the value.
            output (str): Start of the names of the new nodes.
            threshold (str, optional): Name of the constant from which on the sign is
                +1. Defaults to zero.

        Returns:
            str: Name of the signs.
        """
        # ONNX's Sign gives 0 for 0.
        threshold = threshold or self.constant('zero', np.float32(0))
        operands = [source, threshold]
        positive = self.node('GreaterOrEqual', operands, f'{output}.positive')
        one, minus = np.float32(1), np.float32(-1)
        signs = [self.constant('plus', one), self.constant('minus', minus)]
        return self.node('Where', [positive, *signs], f'{output}.sign')

    def follow(self, source: str, output: str) -> None:
        """Marks the output of an elementwise operation as flat if its input is."""
        if source in self.flat:
            self.flat.add(output)


def to_onnx(packed: Packed):
    """Converts a packed network to ONNX, with standard operators.

    The batch size is dynamic. The input is float32 (N, C, H, W), already normalised.

    Args:
        packed (Packed): A checked network.

    Returns:
        onnx.ModelProto: The model.

    Raises:
        MissingPackageError: If onnx is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError as error:
        raise MissingPackageError(
            'ONNX export needs onnx: pip install onnx onnxruntime'
        ) from error

    graph = Graph(packed.shapes)
    for op in packed.graph:
        OPERATIONS[op['op']].to_onnx(graph, op, packed.arrays(op))
    spec = packed.input
    shape = ['batch', spec['channels'], spec['height'], spec['width']]
    logits = graph.features(packed.graph[-1]['dst'])
    classes = packed.shapes[packed.graph[-1]['dst']][0]
    made = helper.make_graph(
        graph.nodes,
        'mmirnet',
        [helper.make_tensor_value_info('input', TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ['batch', classes])],
        list(graph.constants.values()),
    )
    # IR version 8 goes with this opset: older runtimes refuse newer ones.
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=8
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def export(packed: Packed, path: str | os.PathLike) -> None:
    """Writes a packed network as an ONNX file, see :func:`to_onnx`."""
    write_atomic(path, to_onnx(packed).SerializeToString())


def largest_difference(
    packed: Packed, path: str | os.PathLike, images: np.ndarray
) -> float:
    """Compares each layer of an exported file with that of the packed network.

    The input of a layer is ONNX Runtime's output of the layer before. A comparison of
    logits is not possible: if a sum is almost zero, its last bit decides a sign, and
    all later values of a correct file differ.

    Args:
        packed (Packed): The network.
        path (str | os.PathLike): Its export.
        images (np.ndarray): float32 (N, C, H, W), already normalised.

    Returns:
        float: The largest difference, relative to the largest value of its layer.

    Raises:
        ImportError: If ONNX Runtime is not installed.
    """
    import onnx
    import onnxruntime
    import torch

    from .simulation import Simulation

    model = onnx.load(path)
    names = [op['dst'] for op in packed.graph]
    kind = onnx.TensorProto.FLOAT
    given = {output.name for output in model.graph.output}
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, kind, None)
        for name in names
        if name not in given
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider']
    )
    outputs = session.run(names, {'input': images})
    values = dict(zip(names, map(torch.from_numpy, outputs), strict=True))
    values['input'] = torch.from_numpy(images)
    simulation = Simulation(packed)
    largest = 0.0
    for i, op in enumerate(packed.graph):
        wanted = simulation.operation(i, *(values[name] for name in op['src']))
        scale = wanted.abs().max().clamp_min(1e-30)
        got = values[op['dst']].reshape(wanted.shape)
        difference = (got - wanted).abs().max() / scale
        largest = max(largest, difference.item())
    return largest
