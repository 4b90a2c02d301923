"""The forms of a binary layer: what is checked, and that all ways to run it agree."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from binary_graphs import layer_tensors, op, packed_network, real, simulated

from mmirnet.errors import PackedFileError
from mmirnet.packed import read, write
from mmirnet.packed.format import version_of
from mmirnet.runtime import Session

WINDOW = dict(kernel=3, stride=1, padding=1)
FORMS = ['exponent', 'scale', 'terms']


def layer(kind='binary_conv2d', form='scale', binarize=True, seed=0, **tensors):
    """An image of 5 channels -> one binary layer -> its values as logits."""
    rng = np.random.default_rng(seed)
    linear = kind == 'binary_linear'
    shape = (5, 1, 1) if linear else (5, 6, 7)
    attributes = {} if linear else WINDOW
    window = (1, 1, 5) if linear else (3, 3, 5)
    found = layer_tensors(rng, form, 8, *window)
    if not binarize:
        found.pop('affine_input', None)
    found |= tensors
    found = {f'y.{role}': a for role, a in found.items() if a is not None}
    graph = [op('y', kind, 'input', binarize_input=binarize, **attributes)]
    return packed_network([*graph, op('logits', 'vector', 'y')], found, shape)


def eighths(rng, *shape):
    return (rng.integers(-12, 13, shape) / 8).astype(np.float32)


def ways(form, binarize, seed=0):
    """A layer with all tensors of its form, numbers that no order of sums rounds."""
    rng = np.random.default_rng(seed)
    # A float convolution may add the bias first.
    free = binarize or form != 'exponent'
    more = dict(bias=real(rng, 8) if free else eighths(rng, 8))
    if binarize:
        more['threshold'] = eighths(rng, 5)
    elif form == 'terms':
        more = dict(scale=eighths(rng, 8), offset=eighths(rng, 8))
    return more


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('binarize', [True, False])
@pytest.mark.parametrize('kind', ['binary_conv2d', 'binary_linear'])
def test_simulation_runtime_and_onnx_agree(kind, binarize, form, tmp_path):
    packed = layer(kind, form, binarize, **ways(form, binarize))
    x = eighths(np.random.default_rng(1), 3, *packed.shapes['input'])
    wanted = simulated(packed, x)
    assert len(np.unique(wanted)) > 8
    np.testing.assert_array_equal(Session(packed, 1).predict(x), wanted)
    write(packed, tmp_path / 'model.safetensors')
    again = read(tmp_path / 'model.safetensors')
    np.testing.assert_array_equal(simulated(again, x), wanted)

    pytest.importorskip('onnxruntime')
    from mmirnet.packed.onnx import export, largest_difference

    export(packed, tmp_path / 'model.onnx')
    assert largest_difference(packed, tmp_path / 'model.onnx', x) <= 1e-6


def test_a_layer_computes_what_its_weights_and_inputs_are():
    """In double, with the weights and the input as real numbers."""
    rng = np.random.default_rng(0)
    bias, threshold = real(rng, 8), eighths(rng, 5)
    packed = layer(form='terms', bias=bias, threshold=threshold)
    x = eighths(rng, 3, 5, 6, 7)
    tensors = {
        role: torch.from_numpy(array.astype('f8'))
        for role, array in packed.operation_tensors(packed.graph[0]).items()
        if role != 'signs'
    }
    signs = packed.signs(packed.graph[0]).transpose(0, 3, 1, 2) * 2.0 - 1
    scale, offset = (tensors[n][:, None, None, None] for n in ('scale', 'offset'))
    weight = scale * torch.from_numpy(signs) + offset
    alpha, beta = tensors['affine_input']
    s = np.where(x >= threshold[:, None, None], 1.0, -1.0)
    y = F.conv2d(alpha * (torch.from_numpy(s) + beta), weight, padding=1)
    y = y + tensors['bias'][:, None, None]
    np.testing.assert_allclose(simulated(packed, x), y.flatten(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kernel', [3, (3, 1)], ids=str)
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('dilation', [1, 2])
def test_other_geometries_with_scale_and_threshold(kernel, groups, dilation):
    rng = np.random.default_rng(0)
    taps = (kernel, kernel) if kernel == 3 else kernel
    tensors = layer_tensors(rng, 'scale', 6, *taps, 4 // groups)
    tensors |= dict(bias=real(rng, 6), threshold=eighths(rng, 4))
    kernel = kernel if kernel == 3 else list(kernel)
    attributes = dict(kernel=kernel, stride=1, padding=0, binarize_input=True)
    attributes |= dict(groups=groups, dilation=dilation)
    graph = [op('y', 'binary_conv2d', 'input', **attributes)]
    # Another reader, with a threshold of its own.
    graph.append(op('z', 'binary_conv2d', 'input', **attributes))
    graph += [op('sum', 'add', 'y', 'z'), op('logits', 'vector', 'sum')]
    tensors = {f'{n}.{role}': a for n in 'yz' for role, a in tensors.items()}
    tensors['z.threshold'] = eighths(rng, 4)
    packed = packed_network(graph, tensors, (4, 7, 8))
    x = eighths(rng, 3, 4, 7, 8)
    wanted = simulated(packed, x)
    np.testing.assert_array_equal(Session(packed, 1).predict(x), wanted)
    assert not np.array_equal(simulated(packed, x - 0.25), wanted)


ONES = np.ones(8, np.float32)
REFUSED = [
    (dict(scale=None), 'exactly one of the tensors exponent and scale'),
    (dict(exponent=np.zeros(8, np.int8)), 'exactly one of the tensors exponent and'),
    (dict(scale=ONES[:7]), 'scale: 8 finite values'),
    (dict(scale=ONES * np.nan), 'scale: 8 finite values'),
    (dict(scale=ONES * 2e9), r'scale: values within \+-2\*\*30'),
    (dict(threshold=ONES), 'threshold: 5 finite values'),
    (dict(threshold=np.full(5, np.inf, np.float32)), 'threshold: 5 finite values'),
    (dict(offset=ONES), 'offset and affine_input: with binarize_input both'),
    (dict(affine_input=ONES[:2]), 'offset and affine_input: with binarize_input both'),
    (dict(offset=ONES, affine_input=ONES[:3]), 'affine_input: 2 finite values'),
    (dict(offset=ONES[None], affine_input=ONES[:2]), 'offset: 8 finite values'),
    (
        dict(offset=ONES, affine_input=ONES[:2], scale=None, exponent=np.int8(8 * [0])),
        'offset: only with scale',
    ),
    (dict(binarize=False, threshold=ONES[:5]), 'threshold: only with binarize_input'),
    (
        dict(binarize=False, offset=ONES, affine_input=ONES[:2]),
        'affine_input: only with binarize_input',
    ),
    (dict(binarize=False, form='exponent', offset=ONES), 'offset: only with scale'),
]


@pytest.mark.parametrize('kind', ['binary_conv2d', 'binary_linear'])
@pytest.mark.parametrize(('change', 'match'), REFUSED)
def test_what_does_not_fit_is_refused(kind, change, match):
    with pytest.raises(PackedFileError, match=rf'graph\[0\]: {match}'):
        layer(kind, **change)


def test_terms_are_for_square_windows_alone():
    for change in (dict(kernel=[3, 1]), dict(dilation=2), dict(groups=2)):
        rng = np.random.default_rng(0)
        groups = change.get('groups', 1)
        taps = tuple(change.get('kernel', (3, 3)))
        tensors = layer_tensors(rng, 'terms', 8, *taps, 4 // groups)
        attributes = dict(WINDOW, padding=0, binarize_input=True) | change
        graph = [op('y', 'binary_conv2d', 'input', **attributes)]
        tensors = {f'y.{role}': array for role, array in tensors.items()}
        with pytest.raises(PackedFileError, match='only with one group'):
            packed_network(graph, tensors, (4, 7, 8))


def test_thresholds_of_a_linear_layer_are_for_one_pixel():
    tensors = layer_tensors(np.random.default_rng(0), 'scale', 8, 2, 2, 3)
    tensors['threshold'] = np.zeros(3, np.float32)
    tensors = {f'y.{role}': array for role, array in tensors.items()}
    graph = [op('y', 'binary_linear', 'input', binarize_input=True)]
    with pytest.raises(PackedFileError, match=r'threshold: only for .* not of 2x2'):
        packed_network(graph, tensors, (3, 2, 2))


@pytest.mark.parametrize('role', ['negative', 'positive'])
def test_slopes_that_do_not_fit(role):
    slopes = dict(negative=np.ones(3, np.float32), positive=np.ones(3, np.float32))
    slopes[role] = np.ones(4, np.float32)
    graph = [op('y', 'prelu', 'input'), op('logits', 'vector', 'y')]
    tensors = {f'y.{name}': array for name, array in slopes.items()}
    with pytest.raises(
        PackedFileError, match=rf'{role} \(4,\) does not fit 3 channels'
    ):
        packed_network(graph, tensors, (3, 2, 2))


def test_the_version_is_the_earliest_that_has_it_all():
    assert version_of(layer(form='exponent')) == 2
    for packed in (layer(), layer(form='terms')):
        assert version_of(packed) == 3
    packed = layer(form='exponent', threshold=np.ones(5, np.float32))
    assert version_of(packed) == 3
    graph = [op('y', 'prelu', 'input'), op('logits', 'vector', 'y')]
    slopes = {'y.negative': np.ones(3, np.float32)}
    assert version_of(packed_network(graph, slopes, (3, 2, 2))) == 3


def test_many_thresholds_of_one_value_are_bounded():
    """Each reader may need signs of its own: they count as activations."""
    channels, count = 64, 300
    rng = np.random.default_rng(0)
    graph, tensors = [], {}
    for i in range(count):
        attributes = dict(kernel=1, stride=64, padding=0, binarize_input=True)
        graph.append(op(f'{i}', 'binary_conv2d', 'input', **attributes))
        found = layer_tensors(rng, 'scale', 1, 1, 1, channels)
        found['threshold'] = real(rng, channels)
        tensors |= {f'{i}.{role}': array for role, array in found.items()}
    with pytest.raises(PackedFileError, match='activations too large in sum'):
        packed_network(graph, tensors, (channels, 200, 200))
