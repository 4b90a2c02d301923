"""NaN has no bit: the runtime raises where the simulation in torch gives NaN."""

import numpy as np
import pytest
import torch
from networks import mixed_network, warm_up

from mmirnet.errors import NonFiniteError
from mmirnet.packed import Simulation, pack, preparation
from mmirnet.packed.bits import pack_bits
from mmirnet.packed.format import Packed, check
from mmirnet.runtime import Session, instruction_sets

ISAS = instruction_sets()


@pytest.fixture(scope='module')
def mixed():
    torch.manual_seed(3)
    return pack(warm_up(mixed_network(), 3, 13, 10), (13, 10))


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('threads', [1, 3])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('place', [(0, 0, 0), (1, 7, 3), (2, 12, 9)], ids=str)
def test_an_image_that_is_not_finite_is_named(mixed, isa, threads, value, place):
    x = np.random.default_rng(0).normal(size=(4, 3, 13, 10)).astype(np.float32)
    x[2][place] = x[3, 0, 0, 0] = value
    engine = Session(mixed, threads, isa)
    where = 'channel {}, row {}, column {}; so do 1 more images of 4'.format(*place)
    with pytest.raises(NonFiniteError, match=f'image 2 holds {value} at {where}'):
        engine.predict(x)
    assert np.isfinite(engine.predict(x[:2])).all()


def test_float64_beyond_float32_is_infinite(mixed):
    x = np.zeros((1, 3, 13, 10))
    x[0, 1, 2, 3] = 1e300
    with pytest.raises(NonFiniteError, match='image 0 holds inf at channel 1, row 2'):
        Session(mixed, 1).predict(x)


def op(name, kind, *src, **attributes):
    return dict(op=kind, src=list(src), dst=name, **attributes)


BITS = dict(kernel=3, stride=1, padding=1, binarize_input=True)


def network(channels, between, more=None):
    """Image -> 1x1 identity -> `between` -> binary convolution -> average -> logits."""
    graph = [op('x', 'conv2d', 'input', stride=1, padding=0), *between]
    graph += [
        op('binary', 'binary_conv2d', graph[-1]['dst'], **BITS),
        op('mean', 'average_pool', 'binary'),
        op('logits', 'linear', 'mean'),
    ]
    rng = np.random.default_rng(channels)
    bits = rng.integers(0, 2, (16, 9 * channels), np.uint8)
    tensors = {
        'x.weight': np.eye(channels, dtype='f4')[..., None, None],
        'up.affine': np.float32([[2] * channels, [0] * channels]),
        'down.affine': np.float32([[-2] * channels, [0] * channels]),
        'double.weight': 2 * np.eye(channels, dtype='f4')[..., None, None],
        'spread.weight': np.ones((channels, channels, 1, 1), 'f4'),
        'binary.signs': pack_bits(bits),
        'binary.exponent': np.zeros(16, np.int8),
        'logits.weight': rng.normal(size=(4, 16)).astype('f4'),
    } | (more or {})
    used = {step['dst'] for step in graph}
    tensors = {n: t for n, t in tensors.items() if n.split('.')[0] in used}
    names = {'uint64': 'U64', 'int8': 'I8', 'float32': 'F32'}
    spec = dict(
        channels=channels,
        height=5,
        width=6,
        mean=[0.0] * channels,
        std=[1.0] * channels,
        **preparation.default(channels, 5, 6),
    )
    dtypes = {n: names[str(t.dtype)] for n, t in tensors.items()}
    return check(Packed(spec, graph, tensors, dtypes=dtypes))


# 3e38 overflows when it is doubled, and infinity minus infinity is NaN.
DIFFERENCE = [
    op('up', 'affine', 'x'),
    op('down', 'affine', 'x'),
    op('sum', 'add', 'up', 'down'),
]
OVERFLOWS = {
    'sum': DIFFERENCE,
    'hardtanh': [*DIFFERENCE, op('act', 'hardtanh', 'sum')],
    'relu': [*DIFFERENCE, op('act', 'relu', 'sum')],
    'max_pool': [
        *DIFFERENCE,
        op('pool', 'max_pool2d', 'sum', kernel=2, stride=2, padding=0),
    ],
    'shortcut': [
        *DIFFERENCE,
        op('cut', 'pad_shortcut', 'sum', stride=1, before=0, after=0),
        op('act', 'hardtanh', 'cut'),
    ],
    # Infinity alone has a sign, and a Hardtanh makes it 1.
    'infinity': [op('up', 'affine', 'x')],
    'clamped': [op('up', 'affine', 'x'), op('act', 'hardtanh', 'up')],
    'convolved': [
        op('double', 'conv2d', 'x', stride=1, padding=0),
        op('spread', 'conv2d', 'double', stride=1, padding=0),
        op('act', 'hardtanh', 'spread'),
    ],
}


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('between', OVERFLOWS)
@pytest.mark.parametrize('channels', [3, 20, 64])
def test_overflow_inside_is_as_in_the_simulation(isa, between, channels):
    packed = network(channels, OVERFLOWS[between])
    engine, simulation = Session(packed, 2, isa), Simulation(packed)
    usual = np.random.default_rng(0).normal(size=(channels, 5, 6)).astype('f4')
    for channel in {0, 1, channels // 2, channels - 1}:
        x = np.stack([usual] * 3)
        x[1, channel, 2, 3] = 3e38
        with torch.no_grad():
            wanted = simulation(torch.from_numpy(x)).numpy()
        if between in ('infinity', 'clamped', 'convolved'):
            np.testing.assert_allclose(engine.predict(x), wanted, atol=1e-5)
        else:
            assert np.isnan(wanted).any(1).tolist() == [False, True, False]
            with pytest.raises(
                NonFiniteError, match=r'image 1 is finite, up to 3e\+38'
            ):
                engine.predict(x)


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('first', ['binary_conv2d', 'conv2d'])
@pytest.mark.parametrize('channels', [3, 20, 64])
def test_sums_that_overflow_meet_infinity(isa, first, channels):
    """Where sums cannot become NaN, the kernels do not look for it: here they can."""
    fields = BITS if first == 'binary_conv2d' else dict(stride=1, padding=1)
    between = [
        op('up', 'affine', 'x'),
        op('wide', first, 'x', **fields),
        op('huge', 'affine', 'wide'),
        op('sum', 'add', 'huge', 'up'),
        op('act', 'hardtanh', 'sum'),
    ]
    more = {'huge.affine': np.float32([[-3e38] * channels, [0] * channels])}
    if first == 'binary_conv2d':
        more['wide.signs'] = pack_bits(np.ones((channels, 9 * channels), np.uint8))
        more['wide.exponent'] = np.zeros(channels, np.int8)
    else:
        more['wide.weight'] = np.ones((channels, channels, 3, 3), np.float32)
    packed = network(channels, between, more)
    x = np.ones((3, channels, 5, 6), np.float32)
    x[1, channels - 1, 2, 3] = 3e38
    with torch.no_grad():
        wanted = Simulation(packed)(torch.from_numpy(x)).numpy()
    assert np.isnan(wanted).any(1).tolist() == [False, True, False]
    with pytest.raises(NonFiniteError, match='image 1 is finite'):
        Session(packed, 1, isa).predict(x)


@pytest.mark.parametrize('after', ['sign', 'max_pool2d'])
def test_an_average_of_both_infinities(after):
    pool = dict(kernel=1, stride=1, padding=0)
    between = [
        op('up', 'affine', 'x'),
        op('average', 'average_pool', 'up'),
        op('max', 'max_pool2d', 'average', **pool),
    ]
    packed = network(20, between if after == 'max_pool2d' else between[:2])
    x = np.ones((2, 20, 5, 6), np.float32)
    x[1, 19, 2, 3:5] = 3e38, -3e38
    with torch.no_grad():
        wanted = Simulation(packed)(torch.from_numpy(x)).numpy()
    assert np.isnan(wanted).any(1).tolist() == [False, True]
    with pytest.raises(NonFiniteError, match='image 1 is finite'):
        Session(packed, 1).predict(x)


def test_infinite_logits_are_refused():
    packed = network(3, DIFFERENCE)
    packed.tensors['logits.weight'] = np.full((4, 16), 3e38, np.float32)
    with pytest.raises(NonFiniteError, match='image 0 is finite'):
        Session(packed, 1).predict(np.ones((1, 3, 5, 6), np.float32))
