"""Every recipe against its formulas, over shapes, types, modes and mistakes."""

import copy
import math
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import recipes as formulas
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmirnet import binary
from mmirnet.binary import (
    FILTER_MEAN,
    RECIPES,
    SCHEDULES,
    Recipe,
    binary_layers,
    register_recipe,
    schedule_at,
    set_schedule,
)
from mmirnet.errors import ConfigError

pytestmark = pytest.mark.filterwarnings('ignore:.*constant first value')
CASES = [
    pytest.param(name, moving, id=f'{name}-{"-".join(map(str, moving.values()))}')
    for name in formulas.RECIPES
    for moving in formulas.MOVING.get(name, [{}])
]
BITS = [(True, True), (True, False), (False, True)]  # weight, input


def layer_of(name, *args, moving=None, dtype=torch.float64, linear=False, **kwargs):
    """A layer with learned numbers that are not the ones it starts with."""
    torch.manual_seed(0)
    kind = getattr(binary, f'{name}{"Linear" if linear else "Conv2d"}')
    layer = kind(*args, **kwargs).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.randn_like(layer.weight) * 0.6 + 0.1)
        for key in ('shift', 'beta_a', 'alpha'):
            if hasattr(layer, key):
                getattr(layer, key).normal_(std=0.3)
        if hasattr(layer, 'alpha_a'):
            layer.alpha_a.fill_(0.7)
    if moving:
        move(layer, moving)
    return layer


def move(layer, moving):
    if layer.schedule.numbers:
        set_schedule(layer, layer.schedule.name, *moving.values())


def formula(layer, name, x, moving):
    """What the layer should give, by its formulas in float64."""
    p = formulas.parameters(layer, moving)
    qx = formulas.INPUTS[name](x, p) if layer.binarize_input else x
    if layer.binarize_weight:
        qw = formulas.WEIGHTS[name](layer.weight, p)
    else:
        qw = torch.sin(p.omega * layer.weight) if name == 'BiPer' else layer.weight
        qw = qw * p.alpha if hasattr(p, 'alpha') else qw
    geometry = layer.stride, layer.padding, layer.dilation, layer.groups
    return F.conv2d(qx, qw, layer.bias, *geometry)


def gradients(y, layer, x, seed=1):
    torch.manual_seed(seed)
    grad = torch.randn(y.shape, dtype=y.dtype)
    named = dict(layer.named_parameters(), x=x)
    found = torch.autograd.grad(y, [*named.values()], grad, allow_unused=True)
    return {k: v for k, v in zip(named, found, strict=True) if v is not None}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-6, atol=1e-6, msg=key)


class TestFormulas:
    @pytest.mark.parametrize('bits', BITS)
    @pytest.mark.parametrize(('name', 'moving'), CASES)
    def test_forward_and_gradients(self, name, moving, bits):
        options = dict(binarize_weight=bits[0], binarize_input=bits[1])
        layer = layer_of(name, 6, 4, 3, padding=1, moving=moving, **options)
        moving = exact(layer, moving)
        x = torch.randn(3, 6, 5, 4, dtype=torch.float64, requires_grad=True)
        y, wanted = layer(x), formula(layer, name, x, moving)
        torch.testing.assert_close(y, wanted, rtol=1e-6, atol=1e-6)
        assert_same(gradients(y, layer, x), gradients(wanted, layer, x))

    @settings(max_examples=12, deadline=None)
    @given(
        channels=st.integers(1, 4),
        out=st.integers(1, 4),
        groups=st.integers(1, 3),
        kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        stride=st.integers(1, 2),
        padding=st.integers(0, 2),
        dilation=st.integers(1, 2),
        bias=st.booleans(),
    )
    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_geometry(
        self, name, channels, out, groups, kernel, stride, padding, dilation, bias
    ):
        if channels * kernel[0] * kernel[1] < 2:
            channels = 2
        layer = layer_of(
            name,
            channels * groups,
            out * groups,
            kernel,
            stride,
            padding,
            dilation,
            groups,
            bias,
        )
        moving = exact(layer, formulas.MOVING.get(name, [{}])[0])
        size = 2 + dilation * 2
        x = torch.randn(2, channels * groups, size, size + 1, dtype=torch.float64)
        x.requires_grad_()
        y, wanted = layer(x), formula(layer, name, x, moving)
        torch.testing.assert_close(y, wanted, rtol=1e-6, atol=1e-6)
        assert_same(gradients(y, layer, x), gradients(wanted, layer, x))

    @pytest.mark.parametrize('bits', BITS)
    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_a_linear_layer_is_a_convolution_of_one_pixel(self, name, bits):
        options = dict(binarize_weight=bits[0], binarize_input=bits[1])
        linear = layer_of(name, 6, 4, linear=True, **options)
        conv = layer_of(name, 6, 4, 1, **options)
        state = linear.state_dict()
        conv.load_state_dict({**state, 'weight': state['weight'][:, :, None, None]})
        x = torch.randn(5, 6, dtype=torch.float64)
        pixels = conv(x[:, :, None, None]).flatten(1)
        assert torch.equal(linear(x), pixels)
        assert torch.equal(linear(x[:, None]), pixels[:, None])

    @pytest.mark.parametrize(('name', 'moving'), CASES)
    def test_higher_derivatives_begin_with_the_same_gradients(self, name, moving):
        layer = layer_of(name, 4, 3, 3, padding=1, moving=moving)
        x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
        plain = gradients(layer(x), layer, x)
        named = dict(layer.named_parameters(), x=x)
        y = layer(x)
        torch.manual_seed(1)
        grad = torch.randn_like(y)
        graph = torch.autograd.grad(
            y, [*named.values()], grad, create_graph=True, allow_unused=True
        )
        graph = {k: v for k, v in zip(named, graph, strict=True) if v is not None}
        assert_same({k: v.detach() for k, v in graph.items()}, plain)

    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_torch_func(self, name):
        layer = layer_of(name, 4, 3, 3)
        x = torch.randn(2, 4, 4, 4, dtype=torch.float64, requires_grad=True)

        def loss(parameters):
            y = torch.func.functional_call(layer, parameters, (x.detach(),))
            return y.square().sum()

        layer(x).square().sum().backward()
        found = torch.func.grad(loss)(dict(layer.named_parameters()))
        assert_same(found, {k: v.grad for k, v in layer.named_parameters()})


def exact(layer, moving):
    """The moving numbers as the layer has them: rounded to float32."""
    return dict(zip(moving, layer.t_and_k.tolist(), strict=False))


class TestPackedForm:
    """What a packed file keeps is what the layer computes with, bit for bit."""

    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_weights(self, name):
        layer = layer_of(name, 6, 4, 3, dtype=torch.float32)
        q = layer.quantized()
        assert q.signs.dtype == torch.bool and q.signs.shape == layer.weight.shape
        weight = torch.where(q.signs, 1.0, -1.0)
        for part, combine in ((q.scale, torch.mul), (q.offset, torch.add)):
            if part is not None:
                assert part.shape == (4,)
                weight = combine(weight, part[:, None, None, None])
        assert torch.equal(weight, layer.binary_weight().detach())
        assert torch.equal(layer.latent() >= 0, q.signs)

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.half])
    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_latent_weights_in_half(self, name, dtype):
        layer = layer_of(name, 32, 4, 3, dtype=dtype)
        latent = layer.latent()
        assert torch.equal(latent, copy.deepcopy(layer).float().latent())
        assert torch.equal(latent >= 0, layer.quantized().signs)

    @pytest.mark.parametrize('name', [n for n in formulas.RECIPES if n != 'AdaBin'])
    def test_the_scale_follows_an_exact_sum(self, name):
        layer = layer_of(name, 70, 4, 3, padding=1, bias=True, dtype=torch.float32)
        x = torch.randn(2, 70, 5, 5)
        q, threshold = layer.quantized(), layer.input_threshold()
        low = 0 if threshold is None else threshold[:, None, None]
        signs = torch.where(x >= low, 1.0, -1.0).double()
        sums = F.conv2d(signs, torch.where(q.signs, 1.0, -1.0).double(), padding=1)
        wanted = sums.float()
        if q.scale is not None:
            wanted = wanted * q.scale[:, None, None]
        assert torch.equal(layer(x), wanted + layer.bias[:, None, None])

    @pytest.mark.parametrize('groups', [1, 2])
    def test_four_terms_of_adabin(self, groups):
        layer = layer_of(
            'AdaBin', 6, 4, 3, padding=1, groups=groups, dtype=torch.float32
        )
        x = torch.randn(2, 6, 5, 5)
        q, (alpha, beta) = layer.quantized(), layer.input_affine()
        assert torch.equal(layer.input_threshold(), beta.expand(6))
        signs = torch.where(x >= beta, 1.0, -1.0)
        weight, options = torch.where(q.signs, 1.0, -1.0), dict(padding=1)
        ones = torch.ones_like(x)
        sums = F.conv2d(signs, weight, groups=groups, **options)
        box, count = (
            F.conv2d(v, torch.ones_like(weight), groups=groups, **options)
            for v in (signs, ones)
        )
        own = F.conv2d(ones, weight, groups=groups, **options)
        scale, offset = q.scale[:, None, None], q.offset[:, None, None]
        constant = (alpha * beta) * (scale * own + offset * count)
        wanted = sums * (alpha * scale) + (box * (alpha * offset) + constant)
        assert torch.equal(layer(x), wanted + layer.bias[:, None, None])

    def test_a_turned_input_is_refused(self):
        layer = layer_of('AdaBin', 6, 4, 3)
        layer.alpha_a.data.fill_(-0.5)
        with pytest.raises(ValueError, match=r'alpha_a=-0\.5 turns signs'):
            layer.input_threshold()

    def test_real_weights_are_refused(self):
        layer = layer_of('ReAct', 6, 4, 3, binarize_weight=False)
        with pytest.raises(ValueError, match='has real weights'):
            layer.quantized()


class TestDegenerateFilters:
    WEIGHTS = {
        'constant': torch.full((3, 4, 3, 3), 0.3),
        'constant negative': torch.full((3, 4, 3, 3), -1 / 3),
        'zero': torch.zeros(3, 4, 3, 3),
        'tiny': torch.full((3, 4, 3, 3), 1e-42),
        'one of many': F.pad(torch.ones(3, 1, 1, 1), (0, 2, 0, 2, 0, 3)),
    }

    @pytest.mark.parametrize('weight', WEIGHTS.values(), ids=WEIGHTS)
    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_everything_is_finite(self, name, weight):
        layer = layer_of(name, 4, 3, 3, dtype=torch.float32)
        layer.weight.data.copy_(weight)
        x = torch.randn(2, 4, 5, 5, requires_grad=True)
        for image in (x, 0 * x, torch.ones_like(x).requires_grad_()):
            y = layer(image)
            assert y.isfinite().all()
            for key, value in gradients(
                y, layer, x if image is not x else image
            ).items():
                assert value.isfinite().all(), key

    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_filters_of_one_weight(self, name):
        def build():
            return layer_of(name, 4, 4, 1, groups=4, dtype=torch.float32)

        if formulas.SMALLEST.get(name, 1) > 1:
            with pytest.raises(ValueError, match='keep this layer in full precision'):
                build()
        else:
            x = torch.randn(2, 4, 1, 1, requires_grad=True)
            layer = build()
            found = gradients(layer(x), layer, x)
            assert all(value.isfinite().all() for value in found.values())

    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_nan_stays_visible(self, name):
        layer = layer_of(name, 4, 3, 3, dtype=torch.float32)
        x = torch.randn(1, 4, 3, 3)
        x[0, 0, 0, 0] = math.nan
        assert layer(x).isnan().all()
        layer.weight.data[0, 0, 0, 0] = math.nan
        assert layer(torch.randn(1, 4, 3, 3))[0, 0].isnan().all()


class TestSchedules:
    ENDS = {'ede': (0.1, 10.0), 'reste': (1.0, 3.0), 'recu': (0.85, 0.99)}

    @pytest.mark.parametrize('name', ENDS)
    def test_monotone_with_the_right_ends(self, name):
        values = [schedule_at(name, i / 400)[0] for i in range(401)]
        assert values == sorted(set(values))
        assert (values[0], values[-1]) == pytest.approx(self.ENDS[name], rel=1e-12)

    @pytest.mark.parametrize(
        ('name', 'bounds', 'message'),
        [
            ('reste', dict(o_end=0.5), 'o_end'),
            ('reste', dict(o_max=3), 'o_max'),
            ('recu', dict(tau_min=0.99, tau_max=0.9), 'tau_min < tau_max'),
            ('recu', dict(tau_min=0.4), '0.5 < tau_min'),
            ('biper', {}, 'schedule must be one of'),
            ('reste', dict(o_end='3'), "o_end must be a number, got '3'"),
            ('recu', dict(tau_min=None), 'tau_min must be a number, got None'),
            ('ede', dict(t_min='0.1'), "t_min must be a number, got '0.1'"),
        ],
    )
    def test_mistakes(self, name, bounds, message):
        with pytest.raises(ValueError, match=message):
            schedule_at(name, 0.0, **bounds)

    @pytest.mark.parametrize('progress', [-0.1, 1.1, math.nan])
    def test_progress_is_a_fraction(self, progress):
        with pytest.raises(ValueError, match='progress'):
            schedule_at('reste', progress)

    def test_only_layers_of_the_schedule_move(self):
        net = nn.ModuleDict(
            {name: layer_of(name, 4, 4, 3) for name in ('ReSTE', 'ReCU', 'BNN')}
        )
        assert set_schedule(net, 'reste', 2.5) == 1
        assert net['ReSTE'].reste.tolist() == [2.5, 1.0]
        assert net['ReCU'].recu[0].item() == pytest.approx(0.85)

    def test_a_forgotten_hook_is_named(self):
        with pytest.warns(UserWarning, match="schedule='recu'"):
            binary.ReCUConv2d(4, 4, 3)(torch.randn(1, 4, 3, 3))

    def test_layers_without_a_schedule_do_not_warn(self):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            binary.BNNConv2d(4, 4, 3)(torch.randn(1, 4, 3, 3))
            binary.BiPerConv2d(4, 4, 3)(torch.randn(1, 4, 3, 3))

    def test_every_schedule_of_a_recipe_is_registered_or_constant(self):
        for recipe in RECIPES.values():
            moves = recipe.schedule.numbers
            assert not moves or SCHEDULES[recipe.schedule.name] is recipe.schedule


class TestTraining:
    @pytest.mark.parametrize('bits', BITS)
    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_the_backward_pass_keeps_no_more_than_in_full_precision(self, name, bits):
        options = dict(binarize_weight=bits[0], binarize_input=bits[1])
        layer = layer_of(name, 16, 16, 3, padding=1, dtype=torch.float32, **options)
        plain = nn.Conv2d(16, 16, 3, padding=1)
        small = sum(p.numel() for k, p in layer.named_parameters() if k != 'weight')
        x = torch.randn(8, 16, 12, 12, requires_grad=True)

        def kept(module):
            seen = {}

            def pack(tensor):
                seen[tensor.data_ptr()] = tensor.numel()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                module(x)
            return sum(seen.values())

        assert kept(layer) <= kept(plain) + small + 2  # t and k

    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_compiled_in_one_graph_without_recompilation(self, name):
        torch._dynamo.reset()
        layer = layer_of(name, 8, 4, 3, padding=1, dtype=torch.float32)
        x = torch.randn(2, 8, 6, 6, requires_grad=True)
        compiled = torch.compile(layer, fullgraph=True, backend='aot_eager')
        with torch._dynamo.config.patch(error_on_recompile=True):
            for moving in formulas.MOVING.get(name, [{}]):
                if moving:
                    move(layer, moving)
                y = compiled(x)
                torch.testing.assert_close(y, layer(x), rtol=1e-5, atol=1e-5)
                ours = gradients(y, layer, x)
                theirs = gradients(layer(x), layer, x)
                for key, value in theirs.items():
                    torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.half])
    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_autocast(self, name, dtype):
        layer = layer_of(name, 8, 4, 3, padding=1, dtype=torch.float32)
        x = torch.randn(2, 8, 6, 6, requires_grad=True)
        with torch.autocast('cpu', dtype):
            y = layer(x)
        assert y.dtype == dtype
        # Sums of up to 72 are exact in both types; the scale rounds once.
        torch.testing.assert_close(y.float(), layer(x), rtol=2**-7, atol=2**-4)
        for key, value in gradients(y, layer, x).items():
            assert value.dtype == torch.float32 and value.isfinite().all(), key

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.half, torch.float32])
    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_types(self, name, dtype):
        """The weights' statistics are computed in float32 for the types below it."""
        layer = layer_of(name, 8, 4, 3, padding=1, dtype=dtype)
        twin = copy.deepcopy(layer).double()
        x = torch.randn(2, 8, 6, 6, dtype=dtype, requires_grad=True)
        y = layer(x)
        assert y.dtype == dtype
        eps = torch.finfo(dtype).eps
        # AdaBin's four terms may cancel: each is rounded.
        wanted, near = twin(x.double()), dict(rtol=8 * eps, atol=8 * eps)
        torch.testing.assert_close(y.double(), wanted, **near)
        for key, value in gradients(y, layer, x).items():
            assert value.dtype == dtype and value.isfinite().all(), key

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.half])
    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_gradients_of_large_inputs(self, name, dtype):
        """The sum of their squares is more than half precision holds."""
        layer = layer_of(name, 8, 4, 3, padding=1, dtype=dtype)
        twin = copy.deepcopy(layer).double()
        x = (30 * torch.randn(2, 8, 6, 6)).to(dtype).requires_grad_()
        wide = x.detach().double().requires_grad_()
        found = gradients(layer(x), layer, x)['x']
        wanted = gradients(twin(wide).to(dtype), twin, wide)['x']
        assert (found - wanted).norm() <= 8 * torch.finfo(dtype).eps * wanted.norm()

    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_copies(self, name):
        layer = layer_of(name, 4, 3, 3)
        x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert type(twin) is type(layer)
            assert torch.equal(twin(x), layer(x))

    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_the_state_has_what_is_learned_and_nothing_that_moves(self, name):
        layer = layer_of(name, 4, 3, 3)
        assert set(layer.state_dict()) == {k for k, _ in layer.named_parameters()}

    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_meta_layers_start_like_others(self, name):
        meta = getattr(binary, f'{name}Conv2d')(4, 3, 3, device='meta')
        layer = meta.to_empty(device='cpu')
        layer.reset_parameters()
        start = getattr(binary, f'{name}Conv2d')(4, 3, 3)
        assert torch.equal(layer.t_and_k, start.t_and_k)
        for key in ('shift', 'alpha_a', 'beta_a'):
            if hasattr(layer, key):
                assert torch.equal(getattr(layer, key), getattr(start, key))
        if hasattr(layer, 'alpha'):
            assert layer.alpha.min() >= 0 and layer.alpha.max() < 1

    @pytest.mark.parametrize('name', formulas.RECIPES)
    def test_channels_last(self, name):
        layer = layer_of(name, 8, 4, 3, padding=1)
        twin = copy.deepcopy(layer).to(memory_format=torch.channels_last)
        x = torch.randn(2, 8, 6, 6, dtype=torch.float64, requires_grad=True)
        z = x.detach().to(memory_format=torch.channels_last).requires_grad_()
        torch.testing.assert_close(twin(z), layer(x))
        assert_same(gradients(twin(z), twin, z), gradients(layer(x), layer, x))


class TestArguments:
    def test_something_is_binarised(self):
        with pytest.raises(ValueError, match='binarises nothing'):
            binary.BNNConv2d(4, 4, 3, binarize_input=False, binarize_weight=False)

    @pytest.mark.parametrize('omega', [0, -1.0, math.inf, math.nan, '20', None])
    def test_omega_is_positive(self, omega):
        with pytest.raises(ValueError, match='omega must be a number, more than 0'):
            binary.BiPerConv2d(4, 4, 3, omega=omega)

    def test_libra_pb_is_one_recipe_of_many(self):
        with pytest.raises(ValueError, match='does not compute Libra-PB'):
            layer_of('BNN', 4, 4, 3).libra_pb()

    def test_all_layers_are_found(self):
        net = nn.Sequential(*(layer_of(n, 4, 4, 3) for n in formulas.RECIPES))
        assert len(list(binary_layers(net))) == len(formulas.RECIPES)

    def test_bits(self):
        bits = [
            layer_of('XNOR', 4, 4, 3, binarize_weight=w, binarize_input=a).bits
            for w, a in BITS
        ]
        assert bits == ['1/1', '1/32', '32/1']

    def test_every_recipe_has_its_formulas_here(self):
        assert set(RECIPES) == set(formulas.RECIPES)


@pytest.mark.parametrize('name', RECIPES)
def test_equal_weights_in_either_memory_format(name):
    torch.manual_seed(0)
    layer = getattr(binary, f'{name}Conv2d')(8, 4, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_((4 * layer.weight / layer.weight.std()).round() / 4)
    last = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(layer.quantized().signs, last.quantized().signs)
    for made in (layer, last):
        made(x).square().sum().backward()
    assert torch.allclose(last.weight.grad, layer.weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(estimator='sted'), "'Wrong': estimator must be one of .*'ste'.*'sted'"),
        (dict(input_estimator='sted'), 'input_estimator must be one of'),
        (dict(scale='learnt'), "scale must be one of .*'learned'.*'learnt'"),
        (
            dict(scale=FILTER_MEAN, scale_gradient='ful'),
            'scale_gradient must be one of',
        ),
        (dict(scale=RECIPES['OvSW'].scale, scale_gradient='full'), 'scale with a vjp'),
        (dict(scale='learned', scale_gradient='full'), 'scale with a vjp'),
        (
            dict(inputs=RECIPES['ReAct'].inputs._replace(threshold=None)),
            'signs of their own need a threshold',
        ),
    ],
)
def test_a_recipe_with_a_wrong_part_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        register_recipe(Recipe('Wrong', 'none', **options))
    assert 'Wrong' not in RECIPES


@pytest.mark.parametrize('linear', [False, True])
@pytest.mark.parametrize(('weight', 'input'), BITS)
@pytest.mark.parametrize('name', formulas.RECIPES)
def test_empty_batch(name, weight, input, linear):
    """As those of torch's own layers: a detector may find nothing."""
    bits = dict(binarize_weight=weight, binarize_input=input)
    layer = layer_of(name, 4, 6, *([] if linear else [3]), linear=linear, **bits)
    shape = (0, 4) if linear else (0, 4, 5, 5)
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == ((0, 6) if linear else (0, 6, 3, 3))
    assert x.grad.shape == shape
