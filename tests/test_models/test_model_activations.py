"""RPReLU and Maxout against their formulas in plain torch."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_activation_layer
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

import mmirnet  # noqa: F401
from mmirnet.analysis.cost.measure import saved_bytes
from mmirnet.errors import ConfigError
from mmirnet.models import Maxout, RPReLU
from mmirnet.models.blocks import build_activation


def literal_rprelu(x, shift_in, weight, shift_out):
    return F.prelu(x + shift_in, weight.flatten()) + shift_out


def literal_maxout(x, positive, negative):
    return positive * F.relu(x) - negative * F.relu(-x)


LITERAL = {RPReLU: literal_rprelu, Maxout: literal_maxout}
EDGES = torch.tensor([-math.inf, -1e-30, -0.0, 0, 1e-30, math.inf])


def drawn(kind, number):
    """An activation with slopes of both signs."""
    act = kind(number)
    for p in act.parameters():
        torch.nn.init.normal_(p)
    return act


def parameters(act, dims):
    shape = (-1, *[1] * (dims - 2)) if act.num_parameters > 1 else [1] * min(dims, 1)
    return [p.detach().clone().view(shape) for p in act.parameters()]


@pytest.fixture(params=LITERAL, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.mark.parametrize(
    ('shape', 'per_channel'),
    [
        ((4, 6), True),
        ((2, 6, 5), True),
        ((3, 6, 4, 5), True),
        ((0, 6, 2, 2), True),
        ((3, 6, 4, 5), False),
        ((7,), False),
        ((), False),
    ],
)
@pytest.mark.parametrize('compiled', [False, True])
def test_values_and_gradients_are_those_of_the_formula(
    kind, shape, per_channel, compiled
):
    act = drawn(kind, 6 if per_channel else 1).double()
    theirs = [p.requires_grad_() for p in parameters(act, len(shape))]
    x = torch.randn(shape, dtype=torch.double)
    if x.dim() > 1 and x.numel():  # where the slope changes
        x.view(-1)[0] = 0 if kind is Maxout else -theirs[0].flatten()[0].item()
    ours_x, their_x = (x.clone().requires_grad_() for _ in range(2))
    grad = torch.randn(shape, dtype=torch.double)
    if compiled:
        torch._dynamo.reset()
        act.compile(fullgraph=True, backend='aot_eager')
    y, expected = act(ours_x), LITERAL[kind](their_x, *theirs)
    assert torch.equal(y, expected)
    y.backward(grad)
    expected.backward(grad)
    assert torch.equal(ours_x.grad, their_x.grad)
    for p, q in zip(act.parameters(), theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad.flatten())


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_edges_and_types(kind, dtype):
    act = drawn(kind, 1).to(dtype)
    x = torch.cat([EDGES, torch.tensor([math.nan])]).to(dtype)
    double = [p.double() for p in parameters(act, 1)]
    y = act(x)
    assert y.dtype == dtype
    expected = LITERAL[kind](x.double(), *double)
    torch.testing.assert_close(y.double(), expected, equal_nan=True, rtol=0.02, atol=0)


def test_a_result_in_half_precision_is_rounded_once(kind):
    """As under autocast: numbers in half precision, parameters in float32."""
    act = drawn(kind, 6)
    x = torch.randn(5, 6, 4, 4).bfloat16().requires_grad_()
    expected = LITERAL[kind](x.float(), *parameters(act, 4)).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        y = act(x)
    assert torch.equal(y, expected)
    y.sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in act.parameters())


@pytest.mark.parametrize('compiled', [False, True])
def test_backward_pass_saves_the_input_alone(kind, compiled):
    act = kind(16)
    x = torch.randn(4, 16, 32, 32, requires_grad=True)
    if compiled:
        torch._dynamo.reset()
        act.compile(fullgraph=True)
        act(x).sum().backward()
    size = x.numel() * x.element_size()
    assert saved_bytes(lambda: act(x), act.parameters()) <= size + 4096


@pytest.mark.parametrize('frozen', ['x', 0, 1])
def test_what_needs_no_gradient_gets_none(kind, frozen):
    act = drawn(kind, 6)
    x = torch.randn(2, 6, 3, 3, requires_grad=frozen != 'x')
    weights = list(act.parameters())
    if frozen != 'x':
        weights[frozen].requires_grad_(False)
    act(x).sum().backward()
    leaves = [x, *weights]
    assert [a.grad is not None for a in leaves] == [a.requires_grad for a in leaves]


def test_gradients_keep_the_layout_of_x(kind):
    x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    y = kind(8)(x)
    y.backward(torch.ones_like(y))
    for tensor in (y, x.grad):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_derivatives_of_second_order_and_functional_ones(kind):
    act = drawn(kind, 3).double()
    x = torch.randn(2, 3, 2, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(act, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(act, x)
    per_image = torch.func.vmap(torch.func.grad(lambda a: act(a[None]).sum()))(x)
    (expected,) = torch.autograd.grad(act(x).sum(), x)
    torch.testing.assert_close(per_image, expected)


def test_copies_traces_and_exports(kind):
    act = drawn(kind, 6).eval()
    x, other = torch.randn(2, 6, 3, 3), torch.randn(2, 6, 3, 3)
    assert torch.equal(copy.deepcopy(act)(x), act(x))
    for compiled in (
        torch.jit.trace(act, x),
        torch.export.export(act, (x,), strict=False).module(),
    ):
        torch.testing.assert_close(compiled(other), act(other))


def test_first_values():
    found = {n: p.tolist() for n, p in RPReLU(2).named_parameters()}
    assert found == dict(shift_in=[0, 0], weight=[0.25] * 2, shift_out=[0, 0])
    act = Maxout(2)
    expected = dict(positive=[1, 1], negative=[0.25] * 2)
    assert {n: p.tolist() for n, p in act.named_parameters()} == expected
    torch.nn.init.zeros_(act.positive)
    act.reset_parameters()
    assert {n: p.tolist() for n, p in act.named_parameters()} == expected


@pytest.mark.parametrize('number', [0, -1, 2.0, True, None, '16'])
def test_a_number_of_parameters_that_is_none_is_refused(kind, number):
    name = kind.__name__
    with pytest.raises(ConfigError, match=f'{name}: num_parameters must be a positive'):
        kind(number)


@pytest.mark.parametrize('shape', [(6,), (2, 5), (2, 5, 6, 6), (6, 3, 3)])
def test_other_channels_are_refused(kind, shape):
    with pytest.raises(ConfigError, match=r'num_parameters=6.*does not have 6 chan'):
        kind(6)(torch.zeros(shape))


def test_integers_are_refused(kind):
    with pytest.raises(ConfigError, match='x must be floating point'):
        kind()(torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(
    ('cfg', 'number'),
    [
        (dict(), 12),
        (dict(num_parameters=1), 1),
        (dict(num_parameters=64), 12),  # whatever the number
        (dict(inplace=True), 12),
    ],
)
@pytest.mark.parametrize('scope', [None, 'mmpretrain', 'mmdet'])
def test_the_backbones_have_one_number_a_channel(kind, cfg, number, scope):
    kinds = [kind.__name__, f'mmengine.{kind.__name__}', kind]
    for given in kinds:
        if scope is None:
            act = build_activation(dict(type=given, **cfg), 12)
        else:
            with DefaultScope.overwrite_default_scope(scope):
                act = build_activation(dict(type=given, **cfg), 12)
        assert type(act) is kind and act.num_parameters == number


def test_any_openmmlab_model_has_one_number(kind):
    name = kind.__name__
    module = ConvModule(4, 8, 3, norm_cfg=dict(type='BN'), act_cfg=dict(type=name))
    assert module.activate.num_parameters == 1
    assert module(torch.randn(2, 4, 8, 8)).shape == (2, 8, 6, 6)
    assert build_activation_layer(dict(type=name, num_parameters=4)).num_parameters == 4
    net = MODELS.build(dict(type='mmpretrain.MobileNetV2', act_cfg=dict(type=name)))
    net(torch.randn(2, 3, 32, 32))[-1].sum().backward()
    assert all(m.num_parameters == 1 for m in net.modules() if isinstance(m, kind))


@pytest.mark.parametrize('number', ['16', 0, -1, 1.5, True])
@pytest.mark.parametrize('kind', ['PReLU', 'RPReLU', 'Maxout'])
def test_numbers_that_are_no_counts_are_refused_in_our_networks(kind, number):
    match = 'act_cfg.num_parameters must be a positive integer, got'
    with pytest.raises(ConfigError, match=match):
        build_activation(dict(type=kind, num_parameters=number), 8)
