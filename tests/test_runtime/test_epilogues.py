"""What the recipes beside IR-Net need: runtime and simulation agree bit for bit."""

import numpy as np
import pytest
from binary_graphs import (
    layer_tensors,
    op,
    packed_network,
    random_signs,
    real,
    simulated,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mmirnet.errors import NonFiniteError
from mmirnet.runtime import Session, instruction_sets

ISAS = instruction_sets()
FORMS = ['exponent', 'scale', 'terms']


class Builder:
    """A graph that grows by random operations, and the shapes of its values."""

    def __init__(self, seed, channels, height, width):
        self.rng = np.random.default_rng(seed)
        self.image = min(channels, 5), height, width
        # Every channel is one of the image's, or its negative.
        weight = np.zeros((channels, self.image[0], 1, 1), np.float32)
        rows = np.arange(channels)
        weight[rows, rows % self.image[0]] = self.rng.choice([-1, 1], (channels, 1, 1))
        self.graph = [op('x', 'conv2d', 'input', stride=1, padding=0)]
        self.tensors = {'x.weight': weight}
        self.shape = channels, height, width

    @property
    def last(self):
        return self.graph[-1]['dst']

    def add(self, kind, *src, tensors=(), **attributes):
        name = f'{kind}{len(self.graph)}'
        self.graph.append(op(name, kind, *(src or [self.last]), **attributes))
        self.tensors |= {f'{name}.{r}': a for r, a in dict(tensors).items()}
        return name

    def convolve(
        self,
        form,
        out,
        kernel,
        stride,
        padding,
        source=None,
        bias=False,
        threshold=None,
        binarize=True,
    ):
        channels, *sides = self.shape
        tensors = layer_tensors(self.rng, form, out, kernel, kernel, channels)
        if not binarize:
            tensors.pop('affine_input', None)
        if bias:
            tensors['bias'] = real(self.rng, out)
        if threshold is not None:
            tensors['threshold'] = threshold
        window = dict(kernel=kernel, stride=stride, padding=padding)
        name = self.add(
            'binary_conv2d',
            source or self.last,
            tensors=tensors,
            binarize_input=binarize,
            **window,
        )
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
        self.shape = out, *sides
        return name

    def tail(self, parts, residual):
        """What follows the sums, as `parts` name it."""
        channels, rng = self.shape[0], self.rng
        for part in parts:
            if part == 'affine':
                self.add('affine', tensors=dict(affine=real(rng, 2, channels)))
            elif part == 'add':
                self.add('add', self.last, residual)
            elif part == 'shift':
                shift = np.stack([np.ones(channels, np.float32), real(rng, channels)])
                self.add('affine', tensors=dict(affine=shift))
            elif part == 'prelu':
                slopes = rng.uniform(0.1, 2, (2, channels)).astype(np.float32)
                tensors = dict(zip(('negative', 'positive'), slopes, strict=True))
                self.add('prelu', tensors=tensors)
            elif part == 'odd prelu':
                self.add('prelu', tensors=dict(negative=real(rng, channels)))
            else:
                self.add(part)

    def done(self):
        self.add('vector')
        return packed_network(self.graph, self.tensors, self.image)


TAILS = [
    [],
    ['affine'],
    ['affine', 'add', 'hardtanh'],
    ['add', 'relu'],
    ['affine', 'prelu'],
    ['affine', 'odd prelu'],
    ['affine', 'add', 'shift', 'prelu', 'shift'],
    ['shift', 'prelu', 'shift', 'affine', 'add'],
    ['affine', 'add', 'prelu', 'hardtanh'],
    ['prelu', 'add', 'shift', 'shift'],
    ['odd prelu', 'shift', 'prelu'],
    ['affine', 'shift', 'shift', 'prelu', 'shift', 'shift'],
]


def eighths(rng, most, shape):
    """Random multiples of 1/8."""
    return (rng.integers(-most, most + 1, shape) / 8).astype(np.float32)


def images(rng, *shape):
    """Multiples of 1/8, so that thresholds are met exactly."""
    x = eighths(rng, 12, shape)
    return np.where((x == 0) & (rng.random(shape) < 0.5), np.float32(-0.0), x)


def check_network(
    isa, seed, channels, out, kernel, stride, padding, height, width, form, tail
):
    """A binary layer, what follows it, and two readers of that with own thresholds."""
    net = Builder(seed, channels, height, width)
    rng = net.rng
    parts = [part for part in TAILS[tail] if part != 'add' or stride == 1]
    if net.shape[0] != out or 2 * padding + 1 != kernel:
        parts = [part for part in parts if part != 'add']
    threshold = eighths(rng, 8, channels) if seed % 3 else None
    net.convolve(
        FORMS[form], out, kernel, stride, padding, None, seed % 5 == 0, threshold
    )
    net.tail(parts, 'x')
    value, shape = net.last, net.shape
    x = images(rng, 2, *net.image)
    # Thresholds that some values are equal to.
    seen = np.array(simulated(net.done(), x))[0].reshape(shape)
    net.graph.pop()
    names = []
    for i in range(1 + seed % 3):
        net.shape = shape
        thresholds = seen[:, i % shape[1], -1].copy()
        thresholds[::3] = real(rng, len(thresholds[::3]))
        names.append(
            net.convolve(
                FORMS[(form + i) % 3],
                7,
                1,
                1,
                0,
                value,
                threshold=None if i == 1 else thresholds,
            )
        )
    for name in names[1:]:
        net.add('add', net.last, name)
    packed = net.done()
    wanted = simulated(packed, x)
    assert np.isfinite(wanted).all()
    np.testing.assert_array_equal(Session(packed, 1, isa).predict(x), wanted)
    return packed


# Words full, nearly full and just begun; rows and columns outside on every side.
SHAPES = [
    # in, out, kernel, stride, padding, height, width
    (64, 64, 3, 1, 1, 7, 9),
    (130, 130, 3, 1, 1, 4, 5),
    (1, 1, 3, 1, 1, 4, 4),
    (33, 17, 3, 2, 1, 8, 5),
    (5, 70, 5, 3, 4, 2, 9),
    (65, 40, 1, 2, 0, 7, 7),
    (12, 12, 5, 1, 2, 3, 2),
]


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('form', range(3), ids=FORMS)
@pytest.mark.parametrize('tail', range(len(TAILS)))
def test_every_epilogue(isa, form, tail):
    for seed, shape in enumerate(SHAPES):
        check_network(isa, seed + 7 * tail, *shape, form, tail)


# The largest windows and strides, alone and together, and rows of several strips.
EXTREMES = [
    (68, 3, 31, 1, 15, 2, 35),
    (68, 20, 31, 31, 0, 31, 93),
    (9, 20, 2, 64, 0, 3, 200),
    (65535, 2, 1, 64, 0, 1, 150),
    (65535, 2, 1, 1, 0, 1, 5),
    (70, 33, 3, 1, 1, 2, 67),
    (20, 40, 3, 2, 1, 3, 131),
]


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('form', range(3), ids=FORMS)
@pytest.mark.parametrize('shape', EXTREMES)
def test_extreme_shapes(isa, form, shape):
    check_network(isa, 1, *shape, form, 0)


@pytest.mark.parametrize('isa', ISAS)
def test_random_shapes(isa):
    @settings(deadline=None, max_examples=60)
    @given(
        st.integers(0, 99),
        st.integers(1, 130),
        st.integers(1, 130),
        st.integers(1, 5),
        st.integers(1, 3),
        st.integers(0, 4),
        st.integers(1, 9),
        st.integers(1, 9),
        st.integers(0, 2),
        st.integers(0, len(TAILS) - 1),
    )
    def run(seed, channels, out, kernel, stride, padding, height, width, form, tail):
        padding = min(padding, kernel - 1)
        height = max(height, kernel - 2 * padding)
        width = max(width, kernel - 2 * padding)
        check_network(
            isa, seed, channels, out, kernel, stride, padding, height, width, form, tail
        )

    run()


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('slope', [0.0, 0.5])
def test_infinity_times_a_slope_of_zero(isa, slope):
    """Thresholds on integers would hide that NaN."""
    net = Builder(0, 5, 4, 4)
    net.convolve('scale', 8, 3, 1, 1)
    net.tensors[f'{net.last}.scale'] = np.full(8, 1e9, np.float32)
    steep = np.full((2, 8), 3e38, np.float32)
    net.add('affine', tensors=dict(affine=steep))
    net.add('prelu', tensors=dict(negative=np.full(8, slope, np.float32)))
    net.convolve('scale', 3, 1, 1, 0)
    packed, x = net.done(), images(net.rng, 2, *net.image)
    wanted = simulated(packed, x)
    assert np.isnan(wanted).any() == (slope == 0)
    if slope == 0:
        with pytest.raises(NonFiniteError, match='image 0 is finite'):
            Session(packed, 1, isa).predict(x)
    else:
        np.testing.assert_array_equal(Session(packed, 1, isa).predict(x), wanted)


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('form', ['clamp', 'convolution', 'pooling', 'relu'])
def test_a_shortcut_adds_channels_of_zero(isa, form):
    """Lanes that no channel has are not zero behind each of these."""
    rng, between = np.random.default_rng(0), []
    tensors = {'x.weight': np.eye(3, dtype='f4')[..., None, None]}
    if form == 'clamp':
        between = [op('last', 'clamp', 'x', low=0.5, high=2.0)]
    else:
        window = dict(kernel=3, stride=1, padding=1, binarize_input=True)
        between = [op('last', 'binary_conv2d', 'x', **window)]
        tensors['last.signs'] = random_signs(rng, 3, 3, 3, 3)
        tensors['last.exponent'] = np.zeros(3, np.int8)
    if form == 'pooling':
        between += [op('more', 'max_pool2d', 'last', kernel=1, stride=1, padding=0)]
    if form == 'relu':
        between += [op('more', 'relu', 'last')]
    graph = [
        op('x', 'conv2d', 'input', stride=1, padding=0),
        *between,
        op('cut', 'pad_shortcut', between[-1]['dst'], stride=2, before=2, after=20),
        op('logits', 'linear', 'cut'),
    ]
    tensors['logits.weight'] = np.eye(25 * 4, dtype='f4')
    packed = packed_network(graph, tensors, (3, 4, 4))
    x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        Session(packed, 1, isa).predict(x), simulated(packed, x)
    )


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('form', ['floats', 'bits'])
@pytest.mark.parametrize('slope, exponent', [(3e38, 30), (1e-38, -26)])
def test_slopes_at_the_ends_of_floats(isa, form, slope, exponent):
    """A slope times an exponent's power of two would be infinite, or zero."""
    rng, channels = np.random.default_rng(0), 4
    window = dict(kernel=3, stride=1, padding=1, binarize_input=True)
    graph = [
        op('x', 'conv2d', 'input', stride=1, padding=0),
        op('b', 'binary_conv2d', 'x', **window),
        op('n', 'affine', 'b'),
        op('a', 'hardtanh', 'n'),
    ]
    tensors = {
        'x.weight': np.eye(channels, dtype='f4')[..., None, None],
        'b.signs': random_signs(rng, channels, 3, 3, channels),
        'b.exponent': np.full(channels, exponent, np.int8),
        'n.affine': np.float32([[slope] * channels, [0] * channels]),
    }
    if form == 'bits':
        graph.append(op('q', 'binary_conv2d', 'a', **window))
        tensors['q.signs'] = random_signs(rng, channels, 3, 3, channels)
        tensors['q.exponent'] = np.zeros(channels, np.int8)
    graph.append(op('logits', 'linear', graph[-1]['dst']))
    tensors['logits.weight'] = np.eye(channels * 25, dtype='f4')
    packed = packed_network(graph, tensors, (channels, 5, 5))
    x = rng.normal(size=(2, channels, 5, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        Session(packed, 1, isa).predict(x), simulated(packed, x)
    )
