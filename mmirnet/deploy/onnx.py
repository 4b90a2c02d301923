"""ONNX export, for compatibility: its binary layers compute in float."""

import os
from pathlib import Path

import numpy as np

from ..errors import MissingPackageError
from .engine import binary_weight
from .format import Packed

# Sign in ONNX gives 0 for 0, so +-1 comes from a comparison. Version 17 is the
# oldest opset that today's tools still test.
OPSET = 17


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
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise MissingPackageError(
            'ONNX export needs onnx: pip install onnx onnxruntime'
        ) from error

    nodes, constants = [], {}

    def constant(name: str, array: np.ndarray) -> str:
        constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def convolution(op: dict, source: str, weight: np.ndarray) -> None:
        node(
            'Conv',
            [source, constant(f'{op["dst"]}.weight', weight)],
            op['dst'],
            strides=[op['stride']] * 2,
            pads=[op['padding']] * 4,
        )

    for op in packed.graph:
        kind, sources, output = op['op'], op['src'], op['dst']
        tensors = packed.operation_tensors(op)
        channels = packed.shapes[sources[0]][0]
        if kind == 'conv2d':
            convolution(op, sources[0], tensors['weight'])
        elif kind == 'binary_conv2d':
            source = sources[0]
            if op['binarize_input']:
                zero = constant('zero', np.float32(0))
                positive = node('GreaterOrEqual', [source, zero], f'{output}.positive')
                signs = [
                    constant('plus', np.float32(1)),
                    constant('minus', np.float32(-1)),
                ]
                source = node('Where', [positive, *signs], f'{output}.sign')
            weight = binary_weight(op, tensors, channels).transpose(0, 3, 1, 2)
            convolution(op, source, weight)
        elif kind == 'linear':
            flat = node('Flatten', [sources[0]], f'{output}.flat')
            weights = [constant(f'{output}.weight', tensors['weight'])]
            if 'bias' in tensors:
                weights.append(constant(f'{output}.bias', tensors['bias']))
            node('Gemm', [flat, *weights], output, transB=1)
        elif kind == 'affine':
            ones = np.ones(channels, np.float32)
            values = [*tensors['affine'], 0 * ones, ones]
            names = [constant(f'{output}.{i}', v) for i, v in enumerate(values)]
            node('BatchNormalization', [sources[0], *names], output, epsilon=0.0)
        elif kind == 'hardtanh':
            bounds = [
                constant('minus', np.float32(-1)),
                constant('plus', np.float32(1)),
            ]
            node('Clip', [sources[0], *bounds], output)
        elif kind == 'relu':
            node('Relu', sources, output)
        elif kind == 'add':
            node('Add', sources, output)
        elif kind == 'max_pool2d':
            node(
                'MaxPool',
                sources,
                output,
                kernel_shape=[op['kernel']] * 2,
                strides=[op['stride']] * 2,
                pads=[op['padding']] * 4,
            )
        elif kind == 'average_pool':
            node('GlobalAveragePool', sources, output)
        elif kind == 'flatten':
            node('Flatten', sources, output)
        elif kind == 'pad_shortcut':
            cut = node(
                'Slice',
                [
                    sources[0],
                    constant('corner', np.array([0, 0])),
                    constant('end', np.array([2**31 - 1] * 2)),
                    constant('sides', np.array([2, 3])),
                    constant(f'{output}.step', np.array([op['stride']] * 2)),
                ],
                f'{output}.cut',
            )
            pads = np.array([0, op['before'], 0, 0, 0, op['after'], 0, 0])
            node('Pad', [cut, constant(f'{output}.pads', pads)], output)
        else:
            raise AssertionError(kind)

    spec = packed.input
    shape = ['batch', spec['channels'], spec['height'], spec['width']]
    logits = packed.graph[-1]['dst']
    classes = packed.shapes[logits][0]
    graph = helper.make_graph(
        nodes,
        'mmirnet',
        [helper.make_tensor_value_info('input', TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ['batch', classes])],
        list(constants.values()),
    )
    # IR version 8 goes with this opset: older runtimes refuse newer ones.
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=8
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def export(packed: Packed, path: str | os.PathLike) -> None:
    """Writes a network as ONNX, see :func:`to_onnx`."""
    Path(path).write_bytes(to_onnx(packed).SerializeToString())


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

    from .packing import Simulation

    model = onnx.load(path)
    names = [op['dst'] for op in packed.graph]
    kind = onnx.TensorProto.FLOAT
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, kind, None) for name in names[:-1]
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
        difference = (values[op['dst']] - wanted).abs().max() / scale
        largest = max(largest, difference.item())
    return largest
