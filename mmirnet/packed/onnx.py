"""ONNX export, for compatibility: its binary layers compute in float."""

import os

import numpy as np

from ..errors import MissingPackageError
from ..files import write_atomic
from .bits import binary_weight
from .format import Geometry, Packed, geometry, slope_and_offset

# Sign in ONNX gives 0 for 0, so +-1 comes from a comparison. Version 17 is the
# oldest opset that today's tools still test.
OPSET = 17


def _follows(flat: set[str], sources: list[str], output: str) -> set[str]:
    """Whether what is computed element by element is flat as well."""
    return {output} if sources[0] in flat else set()


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

    flat = set()  # values of shape (N, features)

    def features(name: str) -> str:
        return name if name in flat else node('Flatten', [name], f'{name}.flat')

    def maps(name: str) -> str:
        if name not in flat:
            return name
        shape = constant(f'{name}.shape', np.array([-1, *packed.shapes[name]]))
        return node('Reshape', [name, shape], f'{name}.maps')

    def sign_of(source: str, output: str) -> str:
        zero = constant('zero', np.float32(0))
        positive = node('GreaterOrEqual', [source, zero], f'{output}.positive')
        signs = [constant('plus', np.float32(1)), constant('minus', np.float32(-1))]
        return node('Where', [positive, *signs], f'{output}.sign')

    def windows(window: Geometry) -> dict[str, list[int]]:
        return dict(
            kernel_shape=list(window.kernel),
            strides=list(window.stride),
            pads=list(window.padding),
        )

    for op in packed.graph:
        kind, sources, output = op['op'], op['src'], op['dst']
        tensors = packed.operation_tensors(op)
        shape = packed.shapes[sources[0]]
        binary = kind.startswith('binary')
        if binary:
            weight = binary_weight(op, tensors, shape).transpose(0, 3, 1, 2)
            tensors['weight'] = weight
        if kind in ('conv2d', 'binary_conv2d'):
            window = geometry(op, tensors['weight'].shape[2:])
            source = maps(sources[0])
            exact = binary and op['binarize_input']
            if exact:
                source = sign_of(source, output)
            operands = [source, constant(f'{output}.weight', tensors['weight'])]
            # Sums of signs are exact where no bias is among them.
            late = exact and 'bias' in tensors
            if 'bias' in tensors and not late:
                operands.append(constant(f'{output}.bias', tensors['bias']))
            node(
                'Conv',
                operands,
                f'{output}.sums' if late else output,
                **windows(window),
                dilations=list(window.dilation),
                group=window.groups,
            )
            if late:
                bias = constant(f'{output}.bias', tensors['bias'][:, None, None])
                node('Add', [f'{output}.sums', bias], output)
        elif kind in ('linear', 'binary_linear'):
            source = features(sources[0])
            if binary and op['binarize_input']:
                source = sign_of(source, output)
            weight = tensors['weight'].reshape(packed.shapes[output][0], -1)
            operands = [source, constant(f'{output}.weight', weight)]
            if 'bias' in tensors:
                operands.append(constant(f'{output}.bias', tensors['bias']))
            node('Gemm', operands, output, transB=1)
            flat.add(output)
        elif kind in ('affine', 'scale'):
            ones = np.ones(shape[0], np.float32)
            values = [*slope_and_offset(packed, op), 0 * ones, ones]
            names = [constant(f'{output}.{i}', v) for i, v in enumerate(values)]
            # The features of flat maps are no channels of a BatchNorm.
            spread = sources[0] in flat and shape[1:] != (1, 1)
            source = maps(sources[0]) if spread else sources[0]
            node('BatchNormalization', [source, *names], output, epsilon=0.0)
            flat |= set() if spread else _follows(flat, sources, output)
        elif kind == 'relu':
            node('Relu', sources, output)
            flat |= _follows(flat, sources, output)
        elif kind in ('hardtanh', 'clamp'):
            low, high = (-1, 1) if kind == 'hardtanh' else (op['low'], op['high'])
            limits = [
                '' if limit is None else constant(f'{output}.{i}', np.float32(limit))
                for i, limit in enumerate((low, high))
            ]
            node('Clip', [sources[0], *limits], output)
            flat |= _follows(flat, sources, output)
        elif kind == 'add':
            if len({name in flat for name in sources}) > 1:
                sources = [features(name) for name in sources]
                flat.add(output)
            node('Add', sources, output)
            flat |= _follows(flat, sources, output)
        elif kind == 'max_pool2d':
            node('MaxPool', [maps(sources[0])], output, **windows(geometry(op)))
        elif kind == 'avg_pool2d':
            node(
                'AveragePool',
                [maps(sources[0])],
                output,
                **windows(geometry(op)),
                count_include_pad=int(op['include_pad']),
            )
        elif kind == 'average_pool':
            node('GlobalAveragePool', [maps(sources[0])], output)
        elif kind in ('flatten', 'vector'):
            node('Flatten', sources, output)
            flat.add(output)
        elif kind == 'pad_shortcut':
            cut = node(
                'Slice',
                [
                    maps(sources[0]),
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
    logits = features(packed.graph[-1]['dst'])
    classes = packed.shapes[packed.graph[-1]['dst']][0]
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
        got = values[op['dst']].reshape(wanted.shape)
        difference = (got - wanted).abs().max() / scale
        largest = max(largest, difference.item())
    return largest
