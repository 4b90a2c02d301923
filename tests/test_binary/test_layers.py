import copy
import io
import itertools
import math
import warnings

import pytest
import reference
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from mmirnet.binary import (
    Hardtanh,
    IRConv2d,
    IRLinear,
    binary_layers,
    ede,
    set_ede,
    sign,
)
from mmirnet.binary.quantisation import quantize_weight, quantized_vjp
from mmirnet.binary.weights import WeightRule
from mmirnet.errors import ConfigError

aten = torch.ops.aten
RULES = list(itertools.product([True, False], ['shift', 'mean', None], ['ede', 'ste']))


def relative(a, b):
    return (
        (a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)
    ).item()


def same_conv(**kwargs):
    """Our layer and the transcription with the same float64 weights, t and k."""
    torch.manual_seed(0)
    ours = IRConv2d(**kwargs).double()
    theirs = reference.ReferenceConv2d(**kwargs).double()
    theirs.load_state_dict(ours.state_dict())
    set_ede(ours, 0.7, 1.5)
    theirs.t.fill_(0.7)
    theirs.k.fill_(1.5)
    return ours, theirs


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_forward_and_gradients_equal_the_transcription(data):
    groups = data.draw(st.sampled_from([1, 2, 4]))
    kernel = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    # Three weights or more: of two, mean|w_std| is 2^-0.5, where rounding decides s.
    in_per_group = data.draw(st.integers(-(-3 // (kernel[0] * kernel[1])), 4))
    kwargs = dict(
        in_channels=groups * in_per_group,
        out_channels=groups * data.draw(st.integers(1, 3)),
        kernel_size=kernel,
        stride=data.draw(st.tuples(st.integers(1, 3), st.integers(1, 2))),
        padding=data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
        dilation=data.draw(st.integers(1, 2)),
        groups=groups,
        bias=data.draw(st.booleans()),
        binarize_input=data.draw(st.booleans()),
    )
    ours, theirs = same_conv(**kwargs)
    size = data.draw(st.tuples(st.integers(7, 10), st.integers(7, 10)))
    batch = data.draw(st.integers(0, 2))
    x = torch.randn(batch, kwargs['in_channels'], *size, dtype=torch.double)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    y1, y2 = ours(x1), theirs(x2)
    assert torch.allclose(y1, y2, rtol=0, atol=1e-12)
    grad = torch.randn_like(y1)
    y1.backward(grad)
    y2.backward(grad)
    assert relative(x1.grad, x2.grad) < 1e-6
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert relative(a.grad, b.grad) < 1e-6


def test_float32_gradients_equal_the_transcription_in_float64():
    ours = IRConv2d(32, 32, 3, padding=1, bias=False)
    theirs = reference.ReferenceConv2d(32, 32, 3, padding=1, bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(8, 32, 14, 14)
    x1, x2 = x.clone().requires_grad_(), x.double().requires_grad_()
    grad = torch.randn(8, 32, 14, 14)
    ours(x1).backward(grad)
    theirs(x2).backward(grad.double())
    assert relative(x1.grad, x2.grad) < 1e-5
    assert relative(ours.weight.grad, theirs.weight.grad) < 1e-5


@pytest.mark.parametrize('standardize, scale, estimator', RULES)
def test_weights_take_two_values_a_filter(standardize, scale, estimator):
    conv = IRConv2d(4, 6, 3, standardize=standardize, scale=scale, estimator=estimator)
    q = conv.binary_weight()
    assert all(len(f.unique()) == 2 and f.sum().isfinite() for f in q)
    assert torch.equal(q.sign(), sign(conv.weight - conv.weight.mean((1, 2, 3), True)))
    conv(torch.randn(2, 4, 5, 5)).sum().backward()
    assert conv.weight.grad.isfinite().all()


@pytest.mark.parametrize('kernel', [3, 4, (2, 5)])
@pytest.mark.parametrize('dilation', [1, 2])
def test_padding_same(kernel, dilation):
    conv = IRConv2d(3, 4, kernel, padding='same', dilation=dilation)
    x = torch.randn(2, 3, 9, 9)
    plain = F.conv2d(
        sign(x), conv.binary_weight(), conv.bias, padding='same', dilation=dilation
    )
    assert torch.allclose(conv(x), plain, atol=1e-5)


@pytest.mark.parametrize('mode', ['reflect', 'replicate', 'circular'])
def test_padding_mode(mode):
    conv = IRConv2d(3, 4, 3, padding=(2, 1), padding_mode=mode)
    x = torch.randn(2, 3, 9, 9)
    padded = F.pad(sign(x), (1, 1, 2, 2), mode=mode)
    plain = F.conv2d(padded, conv.binary_weight(), conv.bias)
    assert torch.allclose(conv(x), plain, atol=1e-5)


def test_padded_taps_count_nothing():
    conv = IRConv2d(1, 1, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight[:] = torch.arange(9.0).reshape(1, 1, 3, 3)
    y = conv(torch.zeros(1, 1, 1, 1))  # sign(0) = +1 meets the centre alone
    assert y.abs().item() == conv.binary_weight()[0, 0, 1, 1].abs()


def test_memory_layouts_and_strides_agree():
    conv = IRConv2d(8, 8, 3, padding=1)
    x = torch.randn(2, 8, 6, 12)
    plain = conv(x)
    assert torch.equal(
        conv(x.flip(3)[..., ::2].contiguous()), conv(x.flip(3)[..., ::2])
    )
    last = conv.to(memory_format=torch.channels_last)(
        x.contiguous(memory_format=torch.channels_last)
    )
    assert torch.allclose(last, plain, atol=1e-5)
    last.sum().backward()
    assert conv.weight.grad.isfinite().all()


def test_an_image_without_a_batch():
    conv = IRConv2d(3, 4, 3)
    x = torch.randn(3, 8, 8)
    assert torch.equal(conv(x), conv(x[None])[0])


@pytest.mark.parametrize('layer', [IRConv2d(3, 4, 3), IRLinear(3, 4)])
def test_empty_batch(layer):
    shape = (0, 3, 5, 5) if isinstance(layer, IRConv2d) else (0, 3)
    x = torch.zeros(shape, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == shape
    assert (layer.weight.grad == 0).all()


class TestAutocast:
    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_conv_runs_in_half_and_statistics_in_float32(self, dtype):
        conv = IRConv2d(16, 16, 3, padding=1, bias=False)
        x = torch.randn(2, 16, 8, 8, requires_grad=True)
        with torch.autocast('cpu', dtype=dtype):
            y = conv(x)
            assert y.dtype == dtype
            # mean and deviation in half precision would flip some signs
            with torch.autocast('cpu', enabled=False):
                expected = conv(x)
        assert torch.equal(y.float(), expected)  # integers that half precision holds
        y.float().sum().backward()
        assert x.grad.dtype == conv.weight.grad.dtype == torch.float32
        autocast_grad = conv.weight.grad.clone()
        conv.weight.grad = None
        expected.sum().backward()
        assert relative(autocast_grad, conv.weight.grad) < 2e-2

    def test_linear(self):
        layer = IRLinear(16, 4)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert layer(torch.randn(2, 16)).dtype == torch.bfloat16


class TestState:
    @pytest.mark.parametrize(
        'make', [lambda c: c(3, 8, 3), lambda c: c(6, 8, 3, groups=2)]
    )
    def test_state_dict_is_that_of_the_plain_layer(self, make):
        plain, binary = make(nn.Conv2d), make(IRConv2d)
        plain.load_state_dict(binary.state_dict())
        binary.load_state_dict(plain.state_dict())
        assert list(binary.state_dict()) == list(plain.state_dict())

    def test_same_positional_signature_as_conv2d(self):
        args = (4, 8, 3, 2, 1, 1, 2, False, 'zeros')
        plain, binary = nn.Conv2d(*args), IRConv2d(*args)
        for name in nn.Conv2d.__constants__:
            assert getattr(plain, name) == getattr(binary, name), name

    def test_fresh_layer_starts_at_the_schedule(self):
        assert IRConv2d(3, 3, 3).ede.tolist() == pytest.approx(ede(0))

    def test_t_and_k_travel_with_the_module(self):
        net = nn.Sequential(IRConv2d(3, 3, 3), IRLinear(4, 4))
        set_ede(net, 2.0)
        for twin in (copy.deepcopy(net), copy.deepcopy(net).double()):
            for _, layer in binary_layers(twin):
                assert layer.ede.tolist() == [2, 1]
        meta = net.to('meta')
        assert meta[0].ede.device.type == 'meta'
        buffer = io.BytesIO()
        torch.save(net.state_dict(), buffer)
        assert not any('ede' in key for key in net.state_dict())

    @pytest.mark.parametrize(
        'wrap',
        [nn.DataParallel, torch.optim.swa_utils.AveragedModel, torch.compile],
        ids=['DataParallel', 'AveragedModel', 'compile'],
    )
    def test_set_ede_reaches_through_wrappers(self, wrap):
        net = wrap(nn.Sequential(nn.Conv2d(3, 3, 1), IRConv2d(3, 3, 3)))
        set_ede(net, 0.5)
        ((_, layer),) = binary_layers(net)
        assert layer.ede.tolist() == [0.5, 2]
        set_ede(net, 0.5, 7)
        assert layer.ede.tolist() == [0.5, 7]

    @pytest.mark.parametrize(
        't, k',
        [
            (0, None),
            (-1, None),
            (math.nan, None),
            (math.inf, None),
            (1, 0),
            (1, math.inf),
        ],
    )
    def test_set_ede_refuses(self, t, k):
        with pytest.raises(ValueError, match='positive t and k'):
            set_ede(IRConv2d(3, 3, 3), t, k)


class TestConstruction:
    @pytest.mark.parametrize(
        'make',
        [
            lambda: IRConv2d(4, 4, 1, groups=4),
            lambda: IRConv2d(1, 4, 1),
            lambda: IRLinear(1, 4),
        ],
    )
    def test_filter_of_one_weight(self, make):
        with pytest.raises(ValueError, match=r'two weights or more .* full precision'):
            make()

    @pytest.mark.parametrize(
        'kwargs, message',
        [
            (dict(estimator='sted'), "estimator must be one of .*'ste'.*'sted'"),
            (dict(scale='max'), "scale must be one of .*'mean'.*'max'"),
            (dict(binarize_input='no'), "binarize_input must be one of .*, got 'no'"),
            (dict(standardize='false'), 'standardize must be one of'),
            (dict(balance=None), 'balance must be one of'),
        ],
    )
    @pytest.mark.parametrize('layer', [IRConv2d, IRLinear])
    def test_unknown_choice(self, layer, kwargs, message):
        args = (4, 4, 3) if layer is IRConv2d else (4, 4)
        with pytest.raises(ValueError, match=message):
            layer(*args, **kwargs)

    def test_repr_names_bits_and_rule(self):
        text = repr(IRConv2d(4, 4, 3, binarize_input=False, scale=None))
        assert 'W/A bits=1/32' in text and 'scale=None' in text


@pytest.mark.parametrize('dtype', [torch.double, torch.half, torch.int64])
@pytest.mark.parametrize('binarize_input', [True, False])
def test_inputs_of_another_type_are_refused(dtype, binarize_input):
    for layer, shape in (
        (IRConv2d(4, 4, 3, binarize_input=binarize_input), (1, 4, 5, 5)),
        (IRLinear(4, 4, binarize_input=binarize_input), (1, 4)),
    ):
        with pytest.raises(ConfigError, match=r'cast one|must be floating point'):
            layer(torch.ones(shape, dtype=dtype))


class TestForgottenSchedule:
    def test_one_warning_in_training(self):
        conv = IRConv2d(3, 3, 3)
        with pytest.warns(UserWarning, match='EDEHook'):
            conv(torch.randn(1, 3, 5, 5))
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            conv(torch.randn(1, 3, 5, 5))

    @pytest.mark.parametrize(
        'prepare',
        [
            lambda conv: set_ede(conv, 0.1),
            lambda conv: conv.eval(),
            lambda conv: setattr(conv, 'rule', conv.rule._replace(estimator='ste')),
        ],
        ids=['set', 'eval', 'ste'],
    )
    def test_no_warning(self, prepare):
        conv = IRConv2d(3, 3, 3)
        prepare(conv)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            conv(torch.randn(1, 3, 5, 5))


class TestCompile:
    @pytest.fixture
    def counter(self):
        from torch._dynamo.testing import CompileCounter

        torch._dynamo.reset()
        return CompileCounter()

    @pytest.mark.parametrize('binarize_input', [True, False])
    def test_one_graph_for_every_t(self, counter, binarize_input):
        net = nn.Sequential(
            IRConv2d(3, 4, 3, binarize_input=binarize_input), nn.BatchNorm2d(4)
        )
        compiled = torch.compile(net, fullgraph=True, backend=counter)
        for progress in (0, 0.3, 0.9):
            set_ede(net, *ede(progress))
            compiled(torch.randn(2, 3, 6, 6)).sum().backward()
        assert counter.frame_count == 1

    def test_same_values_and_gradients(self):
        torch._dynamo.reset()
        conv = IRConv2d(4, 4, 3, padding=1)
        twin = copy.deepcopy(conv)
        compiled = torch.compile(twin, fullgraph=True, backend='aot_eager')
        for t in (0.2, 3.0):
            set_ede(conv, t)
            set_ede(twin, t)
            x = torch.randn(2, 4, 6, 6)
            x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
            y1, y2 = conv(x1), compiled(x2)
            assert torch.allclose(y1, y2, atol=1e-5)
            y1.square().sum().backward()
            y2.square().sum().backward()
            assert relative(x2.grad, x1.grad) < 1e-5
            assert relative(twin.weight.grad, conv.weight.grad) < 1e-5

    @pytest.mark.parametrize('fullgraph', [False, True])
    def test_functional_gradients(self, fullgraph):
        torch._dynamo.reset()
        net = nn.Sequential(IRConv2d(4, 4, 3), Hardtanh(), IRConv2d(4, 2, 3))
        x = torch.randn(2, 4, 6, 6)
        gradient = torch.func.grad(lambda x: net(x).square().sum())
        compiled = torch.compile(gradient, fullgraph=fullgraph, backend='aot_eager')
        wanted = gradient(x)
        assert wanted.abs().max() > 0
        assert relative(compiled(x), wanted) < 1e-5

    def test_channels_last_all_the_way(self):
        """Torch 2.11 copies gradients that it traces itself to the default format."""
        torch._dynamo.reset()
        graphs = []

        def keep(graph, inputs):
            graphs.append(graph)
            return make_boxed_func(graph.forward)

        net = nn.Sequential(
            IRConv2d(8, 8, 3), nn.BatchNorm2d(8), Hardtanh(), IRConv2d(8, 8, 3)
        ).to(memory_format=torch.channels_last)
        x = torch.randn(2, 8, 9, 9).to(memory_format=torch.channels_last)
        compiled = torch.compile(net, backend=aot_autograd(fw_compiler=keep))
        compiled(x.requires_grad_()).square().sum().backward()
        nodes = [node for graph in graphs for node in graph.graph.nodes]
        assert len(graphs) == 2
        assert not [node for node in nodes if node.target is aten.clone.default]
        backward = aten.convolution_backward.default
        grads = [node.args[0].meta['val'] for node in nodes if node.target is backward]
        assert len(grads) == 2
        for grad in grads:
            assert grad.is_contiguous(memory_format=torch.channels_last)
        # Rows of a reduction over filters are not strewn over the memory.
        over_filters = [
            node.args[0].meta['val']
            for node in nodes
            if node.target is aten.mean.dim and node.args[1] == [1, 2, 3]
        ]
        assert over_filters
        assert all(weight.is_contiguous() for weight in over_filters)


@pytest.mark.parametrize(
    ('shape', 'last'),
    [
        ((8, 4, 3, 3), False),
        ((8, 4, 3, 3), True),
        # These lie in both formats.
        ((8, 4, 1, 1), False),
        ((8, 1, 3, 3), False),
    ],
)
@pytest.mark.parametrize('rule', [WeightRule(), WeightRule(scale='mean')])
def test_binary_weights_and_their_gradients_lie_as_the_weights(shape, last, rule):
    """From strides, convolutions choose their kernels, which round differently."""
    weight = torch.randn(shape)
    if last:
        weight = weight.to(memory_format=torch.channels_last)
    t = k = torch.tensor(1.0)
    q = quantize_weight(weight, None, t, k, rule, False)
    grad, _ = quantized_vjp(torch.randn_like(weight), weight, None, t, k, rule, False)
    assert q.signs.stride() == grad.stride() == weight.stride()


def test_linear_is_a_one_by_one_convolution():
    linear = IRLinear(6, 5)
    conv = IRConv2d(6, 5, 1)
    conv.load_state_dict(
        {
            k: v.reshape(5, 6, 1, 1) if k == 'weight' else v
            for k, v in linear.state_dict().items()
        }
    )
    x = torch.randn(3, 6)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    y1, y2 = linear(x1), conv(x2[..., None, None]).flatten(1)
    assert torch.allclose(y1, y2, atol=1e-6)
    y1.square().sum().backward()
    y2.square().sum().backward()
    assert relative(x1.grad, x2.grad) < 1e-6
    assert relative(linear.weight.grad, conv.weight.grad.flatten(1)) < 1e-6


def test_standardising_needs_balance():
    with pytest.raises(ValueError, match='set standardize=False'):
        IRConv2d(2, 2, 3, balance=False)
    conv = IRConv2d(2, 2, 3, balance=False, standardize=False, scale=None)
    nn.init.constant_(conv.weight, -0.1)
    assert (conv.binary_weight() == -1).all()


@pytest.mark.parametrize('limits', [(-1, 1), (-2, 3)])
def test_hardtanh(limits):
    x = torch.linspace(-4, 4, 33)
    assert torch.equal(Hardtanh(*limits)(x), torch.nn.Hardtanh(*limits)(x))


@pytest.mark.parametrize(
    ('kind', 'sizes', 'x'),
    [(IRConv2d, (2, 3, 3), (1, 2, 4, 4)), (IRLinear, (4, 3), (2, 4))],
)
def test_skip_init(kind, sizes, x):
    layer = nn.utils.skip_init(kind, *sizes, dtype=torch.float64)
    assert layer.ede.tolist() == pytest.approx([0.1, 10])
    nn.init.normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    assert layer(torch.randn(x, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_the_schedule_of_a_layer_in_half_precision_is_not_rounded(dtype):
    conv = IRConv2d(4, 4, 3)
    set_ede(conv, 1e-5, 1e5)
    conv.to(dtype)
    t, k = conv.t_and_k.tolist()
    assert (t, k) == pytest.approx((1e-5, 1e5))
    x = torch.randn(2, 4, 5, 5, dtype=dtype, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad.dtype == conv.weight.grad.dtype == dtype
    assert x.grad.isfinite().all() and conv.weight.grad.isfinite().all()
