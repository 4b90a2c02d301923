import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import EveryOperation, dyadic_images, mixed_network, warm_up
from PIL import Image
from torch import nn

from mmirnet.errors import ConfigError
from mmirnet.models.blocks import make_stage
from mmirnet.packed import Simulation, pack, preparation
from mmirnet.packed.bits import pack_bits
from mmirnet.packed.format import Packed, check
from mmirnet.packed.limits import MAX_OPERATIONS
from mmirnet.runtime import Session, instruction_sets, plan

ISAS = instruction_sets()
LIMITS = dict(deadline=None, max_examples=40)


def binary_network(signs, exponent, x_channels, kernel, stride, padding, size, tail=()):
    """An image as it is -> sign -> one binary convolution -> `tail` -> its values.

    The image comes through a convolution with the identity, which is exact. It has up
    to 64 channels; more are these once more.
    """
    height, width = size
    image = min(x_channels, 64)
    eye = np.eye(image, dtype=np.float32)[np.arange(x_channels) % image]
    eye = eye[..., None, None]
    graph = [
        dict(op='conv2d', src=['input'], dst='copy', stride=1, padding=0),
        dict(
            op='binary_conv2d',
            src=['copy'],
            dst='conv',
            kernel=kernel,
            stride=stride,
            padding=padding,
            binarize_input=True,
        ),
        *tail,
    ]
    out = len(signs)
    out_size = [(side + 2 * padding - kernel) // stride + 1 for side in size]
    features = out * out_size[0] * out_size[1]
    graph += [dict(op='linear', src=[graph[-1]['dst']], dst='values')]
    window = kernel * kernel * x_channels
    tensors = {
        'copy.weight': eye,
        'conv.signs': pack_bits((signs > 0).transpose(0, 2, 3, 1).reshape(out, window)),
        'conv.exponent': exponent,
        'values.weight': np.eye(features, dtype=np.float32),
    }
    spec = dict(
        channels=image,
        height=height,
        width=width,
        mean=[0.0] * image,
        std=[1.0] * image,
        **preparation.default(image, height, width),
    )
    names = {'U64': np.uint64, 'I8': np.int8, 'F32': np.float32}
    dtypes = {
        n: next(k for k, v in names.items() if t.dtype == v) for n, t in tensors.items()
    }
    return Packed(spec, graph, tensors, dtypes=dtypes)


def random_case(seed, channels, out, kernel):
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (out, channels, kernel, kernel)).astype('f4')
    exponent = rng.integers(-3, 3, out).astype(np.int8)
    return rng, signs, exponent


# Words full, nearly full and just begun; blocks of pixels whole and cut; rows
# and columns outside on one side, on both, and all but one.
SHAPES = [
    # in, out, kernel, stride, padding, height, width
    (64, 64, 3, 1, 1, 7, 7),
    (64, 64, 3, 2, 1, 8, 8),
    (16, 16, 3, 1, 1, 9, 5),
    (1, 1, 3, 1, 1, 4, 4),
    (63, 65, 3, 1, 1, 5, 6),
    (64, 48, 3, 1, 0, 6, 15),
    (33, 31, 1, 2, 0, 7, 7),
    (20, 70, 5, 1, 2, 3, 3),
    (20, 17, 5, 3, 4, 2, 9),
    (7, 9, 7, 2, 3, 1, 1),
    (12, 130, 3, 1, 2, 1, 2),
    (60, 5, 2, 1, 1, 3, 4),
    # Wider than the strip whose sums are kept; pairs of words, of taps, and one alone.
    (16, 16, 3, 1, 1, 6, 40),
    (32, 32, 3, 1, 1, 5, 50),
    (16, 32, 3, 2, 1, 9, 70),
    (30, 20, 3, 2, 1, 6, 67),
    (96, 64, 3, 1, 1, 5, 35),
    (130, 20, 2, 2, 0, 6, 9),
    (16, 8, 2, 1, 0, 4, 33),
    (10, 9, 1, 1, 0, 3, 34),
]


def check_binary(
    isa, seed, channels, out, kernel, stride, padding, height, width, threads=1
):
    rng, signs, exponent = random_case(seed, channels, out, kernel)
    packed = check(
        binary_network(
            signs, exponent, channels, kernel, stride, padding, (height, width)
        )
    )
    x = rng.choice(
        np.float32([-2, -1, -0.0, 0.0, 1e-30, 3]), (2, min(channels, 64), height, width)
    )
    engine = Session(packed, threads, isa)
    if threads == 1:
        got = engine.predict(x)
    else:  # threads share an image where there are fewer images
        got = np.concatenate([engine.predict(x[:1]), engine.predict(x[1:])])
    x = x[:, np.arange(channels) % x.shape[1]]
    x_sign = torch.from_numpy(np.where(x >= 0, 1, -1).astype('f8'))
    sums = F.conv2d(x_sign, torch.from_numpy(signs).double(), None, stride, padding)
    wanted = sums * 2.0 ** torch.from_numpy(exponent.astype(int))[:, None, None]
    np.testing.assert_array_equal(got, wanted.flatten(1).numpy())


@pytest.mark.parametrize('threads', [2, 3, 16])
@pytest.mark.parametrize('shape', [*SHAPES, (64, 256, 3, 1, 1, 7, 7)])
def test_threads_share_an_image(shape, threads):
    check_binary(ISAS[0], 1, *shape, threads=threads)


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_sums_are_exact(isa, shape):
    check_binary(isa, 0, *shape)


@pytest.mark.parametrize('isa', ISAS)
def test_sums_of_random_shapes_are_exact(isa):
    @settings(**LIMITS)
    @given(
        st.integers(0, 99),
        st.integers(1, 64),
        st.integers(1, 140),
        st.integers(1, 5),
        st.integers(1, 3),
        st.integers(0, 4),
        st.integers(1, 9),
        st.integers(1, 9),
    )
    def run(seed, channels, out, kernel, stride, padding, height, width):
        padding = min(padding, kernel - 1)
        height = max(height, kernel - 2 * padding)
        width = max(width, kernel - 2 * padding)
        check_binary(isa, seed, channels, out, kernel, stride, padding, height, width)

    run()


@pytest.mark.parametrize('isa', ISAS)
def test_largest_window_does_not_overflow(isa):
    """All signs differ in a window of 65,520 bits, just below 16 bits' limit."""
    channels, kernel = 60, 31
    signs = np.ones((16, channels, kernel, kernel), np.float32)
    packed = check(
        binary_network(signs, np.zeros(16, np.int8), channels, kernel, 1, 0, (31, 31))
    )
    x = -np.ones((1, channels, 31, 31), np.float32)
    got = Session(packed, 1, isa).predict(x)
    assert got.tolist() == [[-channels * kernel**2] * 16]


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('act', ['hardtanh', 'relu', None])
def test_integer_thresholds_equal_the_float_epilogue(isa, act):
    """BatchNorm + activation + sign, with slopes of both signs, zeros and ties."""
    channels = out = 64
    rng, signs, exponent = random_case(1, channels, out, 3)
    affine = rng.normal(size=(2, out)).astype(np.float32)
    affine[0, :16] = 0
    affine[1, 8:24] = 0  # sign(0) and, with any slope, ties at a sum of 0
    affine[:, 24:32] = [[0.5], [-3.0]]  # ties at a sum of 6
    affine[:, 32:40] = [[-0.5], [3.0]]
    exponent[24:40] = 0
    tail = [dict(op='affine', src=['conv'], dst='bn')]
    if act:
        tail.append(dict(op=act, src=['bn'], dst='act'))
    last = tail[-1]['dst']
    tail.append(
        dict(
            op='binary_conv2d',
            src=[last],
            dst='conv2',
            kernel=1,
            stride=1,
            padding=0,
            binarize_input=True,
        )
    )
    packed = binary_network(signs, exponent, channels, 3, 1, 1, (6, 6), tail)
    packed.tensors['bn.affine'] = affine
    packed.tensors['conv2.signs'] = pack_bits(np.eye(64, dtype=np.uint8))
    packed.tensors['conv2.exponent'] = np.zeros(64, np.int8)
    packed.dtypes |= {'bn.affine': 'F32', 'conv2.signs': 'U64', 'conv2.exponent': 'I8'}
    packed = check(packed)
    step = next(s for s in plan.fuse(packed)[0] if s.affine)
    assert step.bits
    assert not step.floats  # so the runtime does take thresholds here
    x = rng.choice(np.float32([-1, 1]), (2, channels, 6, 6))
    got = Session(packed, 1, isa).predict(x)
    with torch.no_grad():
        wanted = Simulation(packed)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(got, wanted)


@pytest.fixture(scope='module')
def mixed():
    torch.manual_seed(3)
    model = warm_up(mixed_network(), 3, 13, 10)
    return model, pack(model, (13, 10))


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('threads', [1, 3])
@pytest.mark.parametrize('batch', [0, 1, 2, 7])
def test_batches_and_threads(mixed, isa, threads, batch):
    model, packed = mixed
    x = torch.randn(batch, 3, 13, 10)
    with torch.no_grad():
        wanted = model(x).numpy()
    got = Session(packed, threads, isa).predict(x)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize('isa', ISAS)
@pytest.mark.parametrize('threads', [1, 3])
def test_the_other_operations(isa, threads):
    torch.manual_seed(4)
    model = warm_up(EveryOperation(), 3, 9, 9)
    packed = pack(model, (9, 9))
    x = torch.randn(3, 3, 9, 9)
    with torch.no_grad():
        wanted = model(x).numpy()
    for images in (x, x[:1]):
        got = Session(packed, threads, isa).predict(images)
        np.testing.assert_allclose(got, wanted[: len(images)], atol=1e-4)


def test_uint8_images_are_normalised_as_in_training(mixed):
    _, packed = mixed
    packed = Packed(**vars(packed))
    packed.input = dict(
        packed.input, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
    )
    images = np.random.default_rng(0).integers(0, 256, (4, 13, 10, 3), np.uint8)
    mean, std = (torch.tensor(packed.input[k]).view(3, 1, 1) for k in ('mean', 'std'))
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - mean) / std
    engine = Session(packed, 1)
    np.testing.assert_array_equal(engine.predict(images), engine.predict(x))


REFUSED = {
    'uint8 as CHW': (np.zeros((1, 3, 13, 10), np.uint8), r'\(N, 13, 10, 3\), not \(1'),
    'other size': (np.zeros((1, 10, 13, 3), np.uint8), r'\(N, 13, 10, 3\), not \(1'),
    'float as HWC': (np.zeros((1, 13, 10, 3), np.float32), r'\(N, 3, 13, 10\), not'),
    'one image': (np.zeros((3, 13, 10)), r'one image is images\[None\]'),
    'one uint8 image': (np.zeros((13, 10, 3), np.uint8), r'one image is images\[None'),
    'PIL image': (Image.new('RGB', (10, 13)), r'one image is images\[None\]'),
    'grey PIL image': ([Image.new('L', (10, 13))], r'not \(1, 13, 10\)'),
    'number': (1.5, r'not \(\)'),
    'nothing': ([], r'not \[\], an empty list'),
    'five axes': (np.zeros((1, 1, 3, 13, 10)), r'not \(1, 1, 3, 13, 10\)'),
    'int64': (np.zeros((1, 13, 10, 3), np.int64), 'not int64'),
    'int8': (np.zeros((1, 13, 10, 3), np.int8), 'not int8'),
    'bool': (np.zeros((1, 13, 10, 3), bool), 'not bool'),
    'complex': (np.zeros((1, 3, 13, 10), complex), 'not complex128'),
    'object': (np.zeros((1, 3, 13, 10), object), 'not object'),
    'None': (None, 'not object'),
    'text': ('a.png', 'not <U5'),
    'list of ints': (np.zeros((1, 3, 13, 10), int).tolist(), 'not int64'),
    'two sizes': (
        [np.zeros((3, 13, 10)), np.zeros((3, 13, 9))],
        r'one type and shape, not float64 \(3, 13, 10\) and float64 \(3, 13, 9\)',
    ),
    'two types': (
        [np.zeros((3, 13, 10), np.uint8), torch.zeros(3, 13, 10)],
        'one type and shape, not float32 .* and uint8',
    ),
    'ragged': ([[[1.0], [1.0, 2.0]]], 'one type and shape, not float64'),
    'int tensor': (torch.zeros(1, 3, 13, 10, dtype=torch.int64), 'not int64'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_wrong_images_are_refused(mixed, case):
    images, message = REFUSED[case]
    with pytest.raises((ConfigError, TypeError), match=f'images must .*{message}'):
        Session(mixed[1], 1).predict(images)


LAYOUTS = {
    'float64': lambda x: x.astype(np.float64),
    'big endian': lambda x: x.astype('>f4'),
    'Fortran': np.asfortranarray,
    'channels last': lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(
        0, 3, 1, 2
    ),
    'negative strides': lambda x: x[::-1, :, ::-1, ::-1].copy()[::-1, :, ::-1, ::-1],
    'every second': lambda x: np.repeat(x, 2, 0)[::2],
    'read only': lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    'list of arrays': list,
    'list of lists': lambda x: x.tolist(),
    'tuple of tensors': lambda x: tuple(torch.from_numpy(x)),
    'tensor': torch.from_numpy,
    'tensor with gradient': lambda x: torch.from_numpy(x).requires_grad_(),
    'tensor of channels last': lambda x: torch.from_numpy(x).to(
        memory_format=torch.channels_last
    ),
    'float16': lambda x: x.astype(np.float16),
    'bfloat16': lambda x: torch.from_numpy(x).bfloat16(),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_floats_of_any_layout(mixed, layout):
    x = dyadic_images(2, 3, 13, 10).numpy()
    assert np.abs(x).max() < 8  # so bfloat16 has them too
    engine, before = Session(mixed[1], 1), x.copy()
    got = engine.predict(LAYOUTS[layout](x))
    np.testing.assert_array_equal(got, engine.predict(x))
    np.testing.assert_array_equal(x, before)


PIXELS = {
    'Fortran': np.asfortranarray,
    'negative strides': lambda x: x[:, ::-1].copy()[:, ::-1],
    'read only': lambda x: np.frombuffer(x.tobytes(), np.uint8).reshape(x.shape),
    'PIL images': lambda x: [Image.fromarray(image) for image in x],
    'tensor': torch.from_numpy,
}


@pytest.mark.parametrize('layout', PIXELS)
def test_pixels_of_any_layout(mixed, layout):
    x = np.random.default_rng(0).integers(0, 256, (2, 13, 10, 3), np.uint8)
    engine = Session(mixed[1], 1)
    np.testing.assert_array_equal(engine.predict(PIXELS[layout](x)), engine.predict(x))


def test_unknown_instruction_set(mixed, monkeypatch):
    known = f'is not one of {", ".join(ISAS)}, which this CPU has'
    monkeypatch.setenv('MMIRNET_ISA', 'mmx')
    with pytest.raises(ConfigError, match=f"MMIRNET_ISA: 'mmx' {known}"):
        Session(mixed[1])
    for isa in 'AVX2', '', 5:
        with pytest.raises(ConfigError, match=f'isa: {isa!r} {known}'):
            Session(mixed[1], isa=isa)
    monkeypatch.setenv('MMIRNET_ISA', 'portable')
    assert Session(mixed[1]).isa == 'portable'
    monkeypatch.setenv('MMIRNET_ISA', '')
    assert Session(mixed[1]).isa == ISAS[0]


def test_as_many_operations_as_a_file_may_have():
    graph, last = [dict(op='average_pool', src=['input'], dst='x')], 'x'
    window = dict(kernel=1, stride=1, padding=0, binarize_input=True)
    tensors, dtypes = {}, {}
    for i in range((MAX_OPERATIONS - 1) // 2):  # each pair lives as floats and as bits
        graph.append(dict(op='binary_conv2d', src=[last], dst=f'{i}', **window))
        graph.append(dict(op='add', src=[f'{i}', last], dst=f'{i}+'))
        last = f'{i}+'
        tensors |= {f'{i}.signs': np.ones((1, 1), np.uint64)}
        tensors |= {f'{i}.exponent': np.zeros(1, np.int8)}
        dtypes |= {f'{i}.signs': 'U64', f'{i}.exponent': 'I8'}
    spec = dict(channels=1, height=1, width=1, mean=[0.0], std=[1.0])
    spec |= preparation.default(1, 1, 1)
    packed = check(Packed(spec, graph, tensors, dtypes=dtypes))
    logits = Session(packed, 1).predict(np.zeros((1, 1, 1, 1), np.float32))
    assert logits.tolist() == [[(MAX_OPERATIONS - 1) // 2]]


def test_values_alive_together_never_overlap(mixed):
    steps, logits = plan.fuse(mixed[1])
    places, size = plan.buffers(mixed[1], steps, logits)
    for a in places:
        assert a.offset % 64 == 0
        assert a.offset + a.size <= size
        for b in places:
            together = a.first <= b.last and b.first <= a.last
            apart = a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
            residual = a.offset == b.offset and {a.last, b.last} & {a.first, b.first}
            assert a is b or not together or apart or residual


def test_bi_real_adds_in_place():
    """Its convolutions read bits, so what they are added to gives its memory."""
    args = dict(conv_cfg=dict(type='IRConv2d'), norm_cfg=dict(type='BN'))
    args['act_cfg'] = dict(type='Hardtanh')
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        make_stage('bireal', 3, 16, 16, None, **args),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    )
    packed = pack(warm_up(net, 3, 8, 8), (8, 8))
    steps, logits = plan.fuse(packed)
    places, _ = plan.buffers(packed, steps, logits)
    stream = [p.offset for p in places if p.kind == 'floats' and p.shape == (16, 8, 8)]
    assert len(stream) == 7
    assert len(set(stream)) == 1


def test_engine_needs_no_torch():
    code = (
        'import sys\n'
        "for name in ('torch', 'mmengine', 'mmcv', 'mmpretrain'):\n"
        '    sys.modules[name] = None\n'
        'import importlib.util as u\n'
        'real = u.find_spec\n'
        "u.find_spec = lambda n, *a: None if n == 'mmengine' else real(n, *a)\n"
        'from mmirnet.runtime import instruction_sets\n'
        'print(instruction_sets()[-1])\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == 'portable'


def test_grey_images_need_no_axis_for_their_colour():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    engine = Session(pack(network, (6, 5)), 1)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 5), np.uint8)
    wanted = engine.predict(pixels[..., None])
    np.testing.assert_array_equal(engine.predict(pixels), wanted)
    pictures = [Image.fromarray(image) for image in pixels]
    np.testing.assert_array_equal(engine.predict(pictures), wanted)
    for other in (pixels[0], pixels.transpose(0, 2, 1), pixels.astype(np.float32)):
        with pytest.raises(ConfigError, match='images must have shape'):
            engine.predict(other)


def test_what_is_no_network_and_no_image_is_said():
    with pytest.raises(
        ConfigError, match=r"not 'a\.safetensors'; .*runtime\.load takes"
    ):
        Session('a.safetensors')
    engine = Session(pack(mixed_network().eval(), (9, 9)), 1)
    with pytest.raises(ConfigError, match='an empty list'):
        engine.predict([])
