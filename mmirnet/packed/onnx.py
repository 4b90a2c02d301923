"""ONNX export, for compatibility: its binary layers compute in float."""

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
        shapes: (channels, height, width) of the packed network's values.
        flat: Names of the values that are (N, features) in ONNX; others are maps.
        nodes: In order.
        constants: By name.
    """

    def __init__(self, shapes: dict[str, tuple[int, int, int]]):
        self.shapes = shapes
        self.flat: set[str] = set()
        self.nodes: list = []
        self.constants: dict[str, Any] = {}

    def constant(self, name: str, array: np.ndarray) -> str:
        """Adds an array and gives its name."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(array)
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes) -> str:
        """Adds a node and gives the name of its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def features(self, name: str) -> str:
        """A value as (N, features)."""
        if name in self.flat:
            return name
        return self.node('Flatten', [name], f'{name}.flat')

    def maps(self, name: str) -> str:
        """A value as (N, C, H, W)."""
        if name not in self.flat:
            return name
        shape = self.constant(f'{name}.shape', np.array([-1, *self.shapes[name]]))
        return self.node('Reshape', [name, shape], f'{name}.maps')

    def signs(self, source: str, output: str, threshold: str | None = None) -> str:
        """-1 and +1 of a value, under a name made of `output`.

        Args:
            source: The value.
            output: What the name is made of.
            threshold: From which value on it is +1, by default from 0.
        """
        # ONNX's Sign gives 0 for 0.
        threshold = threshold or self.constant('zero', np.float32(0))
        operands = [source, threshold]
        positive = self.node('GreaterOrEqual', operands, f'{output}.positive')
        one, minus = np.float32(1), np.float32(-1)
        signs = [self.constant('plus', one), self.constant('minus', minus)]
        return self.node('Where', [positive, *signs], f'{output}.sign')

    def follow(self, source: str, output: str) -> None:
        """Notes that `output`, made element by element, is flat where `source` is."""
        if source in self.flat:
            self.flat.add(output)


def to_onnx(packed: Packed):
    """A packed network as an ``onnx.ModelProto`` of standard operators.

    The batch size is dynamic; input is float (N, C, H, W), already normalised.

    Args:
        packed: A checked network.

    Raises:
        ImportError: If onnx is not installed.
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
    """Writes a network as ONNX, see :func:`to_onnx`."""
    write_atomic(path, to_onnx(packed).SerializeToString())


def largest_difference(
    packed: Packed, path: str | os.PathLike, images: np.ndarray
) -> float:
    """How far any layer of an exported file is from the packed network's.

    Each layer gets what ONNX Runtime gave the layer before. Logits alone would not
    do: where a sum is all but zero, a last bit decides a sign, and everything behind
    it is another number in a file that is right.

    Args:
        packed: The network.
        path: Its export.
        images: float32 (N, C, H, W), already normalised.

    Returns:
        The largest difference, relative to the largest value of its layer.

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
