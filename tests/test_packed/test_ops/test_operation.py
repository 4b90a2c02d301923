"""Every operation of the registry has all its parts, and the parts agree."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from int8_networks import int8_network
from networks import EveryOperation, dyadic_images, mixed_network, warm_up

from mmirnet.packed import Packed, Simulation, ops, pack, preparation
from mmirnet.packed.fields import Reject
from mmirnet.packed.format import check
from mmirnet.packed.ops import OPERATIONS, shape_of
from mmirnet.packed.ops.lowering import Kernel, Lowered
from mmirnet.runtime import Session, session

SHARED = {'__init__', 'binary', 'int8', 'lowering', 'operation', 'windows'}
every_operation = pytest.mark.parametrize('name', sorted(OPERATIONS))


def alone(packed, fields):
    """A network of one operation, whose input is an image; sums in it are exact."""
    kind, sources = fields['op'], fields['src']
    channels, height, width = packed.shapes[sources[0]]
    channels = min(channels, 64)  # as many as an image may have
    graph = [{**fields, 'src': ['input'] * len(sources), 'dst': kind}]
    rounds = OPERATIONS[kind].version < 4  # sums of integers are exact as they are
    tensors = {
        f'{kind}.{role}': np.round(64 * a) / np.float32(64)
        if a.dtype.char == 'f' and rounds
        else a
        for role, a in packed.operation_tensors(fields).items()
    }
    if packed.shapes[fields['dst']][1:] != (1, 1):
        graph.append({'op': 'vector', 'src': [kind], 'dst': 'logits'})
    spec = dict(channels=channels, height=height, width=width)
    spec |= dict(mean=[0.0] * channels, std=[1.0] * channels)
    spec |= preparation.default(channels, height, width)
    if kind == 'pixel_conv2d':
        spec |= {name: packed.input[name] for name in ('mean', 'std')}
    return check(Packed(spec, graph, tensors, dtypes=dtypes_of(tensors)))


def dtypes_of(tensors):
    names = {'f': 'F32', 'b': 'I8', 'L': 'U64', 'Q': 'U64'}
    return {name: names[array.dtype.char] for name, array in tensors.items()}


@pytest.fixture(scope='module')
def examples():
    torch.manual_seed(0)
    found = {}
    networks = [
        pack(warm_up(network, 3, 9, 9), (9, 9))
        for network in (mixed_network(), EveryOperation())
    ]
    for packed in (*networks, int8_network(3, 8, (9, 9), padding=1)):
        for fields in packed.graph:
            if fields['op'] not in found:
                found[fields['op']] = alone(packed, fields)
    return found


def test_one_file_an_operation():
    files = {path.stem for path in Path(ops.__file__).parent.glob('*.py')}
    assert files - SHARED == set(OPERATIONS)


@every_operation
def test_its_file_says_what_it_is(name):
    module = importlib.import_module(f'{ops.__name__}.{name}')
    assert module.__doc__.startswith(f'``{name}``: ')
    assert OPERATIONS[name].name == name


@every_operation
def test_simulation_and_runtime_agree(examples, name):
    packed = examples[name]
    x = dyadic_images(3, *packed.shapes['input'])
    with torch.no_grad():
        wanted = Simulation(packed)(x).numpy()
    assert len(np.unique(wanted)) > 1
    np.testing.assert_array_equal(Session(packed, 1).predict(x), wanted)


@every_operation
def test_simulation_and_onnx_agree(examples, name, tmp_path):
    pytest.importorskip('onnxruntime')
    from mmirnet.packed.onnx import export, largest_difference

    packed = examples[name]
    export(packed, tmp_path / 'model.onnx')
    x = dyadic_images(3, *packed.shapes['input']).numpy()
    assert largest_difference(packed, tmp_path / 'model.onnx', x) <= 1e-6


@every_operation
def test_its_fields_and_tensors_are_checked(examples, name):
    packed, operation = examples[name], OPERATIONS[name]
    (fields, *_), shapes = packed.graph, {'input': packed.shapes['input']}
    tensors = packed.tensors
    assert shape_of(fields, shapes, tensors, packed.dtypes) == packed.shapes[name]
    for field in ('src', 'dst', *operation.attributes):
        less = {key: value for key, value in fields.items() if key != field}
        with pytest.raises(Reject, match='fields must be'):
            shape_of(less, shapes, tensors, packed.dtypes)
    with pytest.raises(Reject, match='fields must be'):
        shape_of({**fields, 'other': 1}, shapes, tensors, packed.dtypes)
    with pytest.raises(Reject, match=f'src must be a list of {operation.operands}'):
        shape_of({**fields, 'src': ['input'] * 3}, shapes, tensors, packed.dtypes)
    for role in operation.tensors:
        less = {key: a for key, a in tensors.items() if key != f'{name}.{role}'}
        with pytest.raises(Reject, match=f"no tensor '{name}.{role}'"):
            shape_of(fields, shapes, less, packed.dtypes)


@every_operation
def test_the_runtime_has_what_it_lowers_to(examples, name):
    packed = examples[name]
    lowered = packed.lower(packed.graph[0])
    assert isinstance(lowered, Lowered)
    if isinstance(lowered, Kernel):
        assert hasattr(session._native.Network, f'add_{lowered.name}')
