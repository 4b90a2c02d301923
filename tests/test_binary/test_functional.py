import copy
import itertools
import math
import pickle

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmirnet.binary import (
    binary_sign,
    binary_weight,
    ede,
    estimator_statistics,
    hardtanh,
    libra_pb,
    sign,
)
from mmirnet.binary.functional import WeightRule, _sign_again, binary_conv2d
from mmirnet.errors import ConfigError

ESTIMATOR_FORMULAS = {
    'ede': lambda x, t, k: k * t * (1 - torch.tanh(t * x) ** 2),
    'ste': lambda x, t, k: (x.abs() <= 1).to(x.dtype),
    'approx_sign': lambda x, t, k: torch.where(
        x.abs() < 1, torch.where(x < 0, 2 + 2 * x, 2 - 2 * x), 0
    ),
}
NAN, INF = math.nan, math.inf
RULES = [
    WeightRule(standardize, scale, estimator, balance)
    for standardize, balance in [(True, True), (False, True), (False, False)]
    for scale in ('shift', 'mean', None)
    for estimator in ESTIMATOR_FORMULAS
]
SCHEDULE = [(1e-3, 1e3), (0.1, 10.0), (1.0, 1.0), (10.0, 1.0)]


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def random_weight(*shape, dtype=torch.float64):
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=dtype) * 0.1 + 0.03


class TestSchedule:
    @given(st.floats(1e-4, 1), st.floats(1.01, 1e3), st.floats(0, 1), st.floats(0, 1))
    def test_monotone_within_its_bounds(self, t_min, t_max, p, q):
        p, q = sorted((p, q))
        (t0, k0), (t1, k1) = ede(p, t_min, t_max), ede(q, t_min, t_max)
        assert t_min * (1 - 1e-12) <= t0 <= t1 * (1 + 1e-12)
        assert t1 <= t_max * (1 + 1e-12)
        assert k0 >= k1 >= 1

    def test_values_of_the_paper(self):
        assert ede(0) == (0.1, 10)
        assert ede(0.25) == pytest.approx((10**-0.5, 10**0.5))
        assert ede(0.75) == pytest.approx((10**0.5, 1))
        assert ede(0, 1e-3)[1] == pytest.approx(1000)

    @given(st.floats(1e-9, 1e-3))
    def test_continuous_where_t_is_one(self, step):
        before, after = ede(0.5 - step), ede(0.5 + step)
        assert before[0] < 1 < after[0]
        # k = max(1/t, 1) meets 1 from above and stays
        assert before[1] - 1 < 10 * step
        assert after[1] == 1

    @pytest.mark.parametrize('bounds', [(0, 1), (-1, 1), (1, 1), (2, 1), (1, math.inf)])
    def test_refuses_bounds(self, bounds):
        with pytest.raises(ValueError, match='0 < t_min < t_max'):
            ede(0.5, *bounds)


class TestSign:
    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
    def test_zero_is_positive(self, dtype):
        x = torch.tensor([-2.0, -1e-38, -0.0, 0.0, 1e-38, 2.0], dtype=dtype)
        assert sign(x).tolist() == [-1, -1, 1, 1, 1, 1]
        assert sign(x).dtype == dtype

    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('function', [sign, _sign_again])
    @pytest.mark.parametrize('compiled', [False, True])
    def test_nan_stays_nan(self, dtype, function, compiled):
        # 40 numbers: vectorised loops and what they leave over
        x = torch.tensor([NAN, 1, -1, 0, INF, -INF, -0.0, NAN] * 5, dtype=dtype)
        if compiled:
            function = torch.compile(function)
        expected = torch.tensor([NAN, 1, -1, 1, 1, -1, 1, NAN] * 5, dtype=dtype)
        assert torch.equal(function(x).nan_to_num(7), expected.nan_to_num(7))


@pytest.mark.parametrize('estimator', ESTIMATOR_FORMULAS)
@pytest.mark.parametrize('balance', [True, False])
@pytest.mark.parametrize('scale', ['shift', 'mean', None])
class TestNaN:
    def test_in_a_weight(self, estimator, balance, scale):
        w = random_weight(4, 2, 3, 3).requires_grad_()
        with torch.no_grad():
            w[1, 1, 2, 0] = NAN
        rule = WeightRule(balance, scale, estimator, balance)
        q = binary_weight(w, *torch.tensor([0.1, 10.0]), rule)
        assert q[1, 1, 2, 0].isnan()
        assert q[[0, 2, 3]].isfinite().all()
        y = binary_conv2d(
            torch.randn(2, 2, 5, 5).double(), w, None, *torch.ones(2), rule=rule
        )
        assert y[:, 1].isnan().all() and y[:, [0, 2, 3]].isfinite().all()
        y[:, 1].sum().backward()
        assert w.grad[1].isnan().any() and w.grad[[0, 2, 3]].isfinite().all()

    def test_in_the_input(self, estimator, balance, scale):
        x = torch.randn(2, 2, 5, 5).double()
        x[1, 1, 2, 2] = NAN  # where every filter passes
        w = random_weight(4, 2, 3, 3)
        rule = WeightRule(balance, scale, estimator, balance)
        y = binary_conv2d(x, w, None, *torch.ones(2), rule=rule)
        assert y[1].isnan().all() and y[0].isfinite().all()

    def test_infinity_in_a_balanced_weight(self, estimator, balance, scale):
        w = random_weight(4, 2, 3, 3)
        w[1, 1, 2, 0] = INF
        rule = WeightRule(balance, scale, estimator, balance)
        q = binary_weight(w, *torch.tensor([0.1, 10.0]), rule)
        # Without balance and scale an infinite weight has a sign, as any other.
        assert q[1].isfinite().all() == (not balance and scale is None)


class TestHardtanh:
    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('compiled', [False, True])
    def test_equals_torchs(self, dtype, compiled):
        torch.manual_seed(0)
        edges = torch.tensor([-math.inf, -2, -1, -0.0, 0, 0.999, 1, 1.001, math.inf])
        x = torch.cat([torch.randn(500), edges]).to(dtype)
        ours, theirs = (x.clone().requires_grad_() for _ in range(2))
        grad = torch.randn(len(x)).to(dtype)
        function = torch.compile(hardtanh) if compiled else hardtanh
        y = function(ours)
        y.backward(grad)
        expected = torch.nn.functional.hardtanh(theirs)
        expected.backward(grad)
        assert torch.equal(y, expected)
        assert torch.equal(ours.grad, theirs.grad)

    def test_gradients_keep_the_layout_of_x(self):
        x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
        x.requires_grad_()
        hardtanh(x).backward(torch.ones(2, 8, 4, 4))
        assert x.grad.is_contiguous(memory_format=torch.channels_last)


class TestBinarySign:
    @pytest.mark.parametrize('t, k', SCHEDULE)
    @pytest.mark.parametrize('estimator', ESTIMATOR_FORMULAS)
    @pytest.mark.parametrize(
        'dtype, tol', [(torch.float64, 1e-12), (torch.float32, 1e-6)]
    )
    def test_gradient_is_the_formula(self, estimator, t, k, dtype, tol):
        torch.manual_seed(0)
        edges = torch.tensor([-1 - 1e-6, -1, -0.0, 0, 1, 1 + 1e-6], dtype=dtype)
        x = torch.cat([torch.randn(500, dtype=dtype) * 1.5, edges]).requires_grad_()
        grad = torch.randn(len(x), dtype=dtype)
        t, k = torch.tensor(t).double(), torch.tensor(k).double()
        binary_sign(x, t, k, estimator).backward(grad)
        x64 = x.detach().double()
        expected = grad.double() * ESTIMATOR_FORMULAS[estimator](x64, t, k)
        assert relative(x.grad, expected) < tol

    def test_derivatives_of_derivatives(self):
        x = torch.randn(20, dtype=torch.double, requires_grad=True)
        t, k = torch.tensor([0.7, 2.0]).double()
        (grad,) = torch.autograd.grad(
            binary_sign(x, t, k), x, torch.ones(20).double(), create_graph=True
        )
        (second,) = torch.autograd.grad(grad.sum(), x)
        tanh = torch.tanh(t * x)
        assert torch.allclose(second, -2 * k * t**2 * tanh * (1 - tanh**2))

    def test_unknown_estimator(self):
        with pytest.raises(
            ValueError, match=r"estimator must be one of .*'ede'.*'eda'"
        ):
            binary_sign(torch.ones(1), torch.tensor(1.0), torch.tensor(1.0), 'eda')


class TestLibraPB:
    def test_equals_the_transcription(self):
        w = random_weight(8, 4, 3, 3)
        ours, theirs = libra_pb(w), reference.libra_pb(w)
        assert relative(ours[0], theirs[0]) < 1e-14
        assert torch.equal(ours[1], theirs[1])

    def test_scale_is_one_for_gauss_and_half_for_heavy_tails(self):
        torch.manual_seed(0)
        assert libra_pb(torch.randn(4, 400))[1].flatten().tolist() == [1] * 4
        heavy = torch.randn(4, 400) ** 7
        assert (libra_pb(heavy)[1] <= 0.5).all()

    def test_scale_variants(self):
        w = random_weight(4, 2, 3, 3)
        w_std, s = libra_pb(w, scale='mean')
        assert torch.allclose(s.flatten(), w_std.abs().mean((1, 2, 3)))
        assert libra_pb(w, scale=None)[1] is None
        balanced, s = libra_pb(w, standardize=False, scale='mean')
        centred = w - w.mean((1, 2, 3), keepdim=True)
        assert torch.allclose(balanced, centred)
        assert torch.allclose(s.flatten(), centred.abs().mean((1, 2, 3)))
        with pytest.raises(ValueError, match=r"scale must be one of .*'shift'.*'half'"):
            libra_pb(w, scale='half')

    def test_plain_sign_is_libra_pb_without_balance(self):
        w = random_weight(4, 2, 3, 3)
        w[0] = w[0].abs()
        kept, s = libra_pb(w, standardize=False, scale='mean', balance=False)
        assert torch.equal(kept, w)
        assert torch.allclose(s.flatten(), w.abs().mean((1, 2, 3)))
        zero, s = libra_pb(torch.zeros(1, 4), standardize=False, balance=False)
        assert (zero == 0).all() and (s == 1).all()

    @given(st.floats(-1e3, 1e3), st.integers(2, 2000))
    def test_constant_filter(self, value, n):
        w = torch.full((3, n), value)
        w_std, s = libra_pb(w)
        assert (w_std == 0).all() and (s == 1).all()

    def test_half_precision_is_computed_in_float32(self):
        w = random_weight(4, 64, 3, 3, dtype=torch.float32).bfloat16()
        w_std, _ = libra_pb(w)
        assert w_std.dtype == torch.float32
        assert relative(w_std, libra_pb(w.double())[0]) < 1e-6


class TestBinaryWeight:
    @pytest.mark.parametrize('t, k', SCHEDULE)
    @pytest.mark.parametrize('estimator', ESTIMATOR_FORMULAS)
    @pytest.mark.parametrize(
        'standardize, balance', [(True, True), (False, True), (False, False)]
    )
    @pytest.mark.parametrize('scale', ['shift', 'mean', None])
    def test_equals_libra_pb_then_sign(
        self, standardize, balance, scale, estimator, t, k
    ):
        """The fused backward against autograd through libra_pb."""
        t, k = torch.tensor(t).double(), torch.tensor(k).double()
        w = random_weight(8, 4, 3, 3).requires_grad_()
        grad = torch.randn_like(w)
        rule = WeightRule(standardize, scale, estimator, balance)
        fused = binary_weight(w, t, k, rule)
        fused.backward(grad)
        fused_grad, w.grad = w.grad, None
        w_std, s = libra_pb(w, standardize, scale, balance)
        literal = binary_sign(w_std, t, k, estimator) * (1 if s is None else s)
        literal.backward(grad)
        assert torch.equal(fused, literal)
        assert relative(fused_grad, w.grad) < 1e-12

    @pytest.mark.parametrize('t, k', SCHEDULE)
    @pytest.mark.parametrize(
        'dtype, tol', [(torch.float64, 1e-6), (torch.float32, 1e-5)]
    )
    def test_equals_the_transcription(self, t, k, dtype, tol):
        t, k = torch.tensor(t).double(), torch.tensor(k).double()
        w = random_weight(16, 16, 3, 3, dtype=dtype).requires_grad_()
        grad = torch.randn_like(w)
        binary_weight(w, t, k).backward(grad)
        w64 = w.detach().double().requires_grad_()
        w_std, s = reference.libra_pb(w64)
        (reference.EDESign.apply(w_std, t, k) * s).backward(grad.double())
        assert relative(w.grad, w64.grad) < tol

    @pytest.mark.parametrize('value', [0.0, 0.1, -1e-6, 1e5])
    def test_constant_filter_has_finite_gradient(self, value):
        w = torch.full((2, 18), value, requires_grad=True)
        t, k = torch.tensor([0.1, 10.0])
        q = binary_weight(w, t, k)
        assert (q == 1).all()
        q.backward(torch.linspace(-1, 1, 36).reshape(2, 18))
        assert w.grad.isfinite().all()
        # and it is not stuck: balanced input gradients pass
        assert w.grad.abs().sum() > 0


def test_only_input_and_weight_are_kept_for_the_backward():
    """As much as nn.Conv2d keeps: nothing is saved twice."""
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    w = torch.randn(4, 8, 3, 3, requires_grad=True)
    t, k = torch.tensor([0.1, 10.0])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda a: kept.append(a) or a, lambda a: a
    ):
        binary_conv2d(x, w, None, t, k)
    assert sum(a.numel() for a in kept if a.dim()) == x.numel() + w.numel()


class TestWeightRule:
    @pytest.mark.parametrize(
        'options, message',
        [
            (dict(balance=False), 'set standardize=False'),
            (dict(scale='max'), "scale must be one of .*'mean'.*'max'"),
            (dict(estimator='sted'), "estimator must be one of .*'ste'.*'sted'"),
            (dict(estimator=['ede']), 'estimator must be one of'),
        ],
    )
    def test_refuses(self, options, message):
        with pytest.raises(ConfigError, match=message):
            WeightRule(**options)
        with pytest.raises(ConfigError, match=message):
            WeightRule()._replace(**options)

    def test_the_function_refuses_as_well(self):
        with pytest.raises(ConfigError, match='set standardize=False'):
            libra_pb(torch.randn(2, 4), balance=False)

    @pytest.mark.parametrize('rule', RULES)
    def test_survives_pickle_and_copy(self, rule):
        for twin in (pickle.loads(pickle.dumps(rule)), copy.deepcopy(rule)):
            assert twin == rule and type(twin) is WeightRule


class TestOperands:
    T_K = torch.tensor([0.1, 10.0])

    @pytest.mark.parametrize('dtype', [torch.int64, torch.bool, torch.complex64])
    def test_numbers_without_a_sign_in_floats(self, dtype):
        t, k = self.T_K
        w = torch.randn(4, 2, 3, 3)
        for function in (
            lambda: binary_sign(torch.ones(3).to(dtype), t, k),
            lambda: libra_pb(w.to(dtype)),
            lambda: binary_weight(w.to(dtype), t, k),
            lambda: binary_conv2d(torch.ones(1, 2, 5, 5).to(dtype), w, None, t, k),
        ):
            with pytest.raises(ConfigError, match='must be floating point, got torch'):
                function()

    def test_two_types(self):
        x, w = torch.randn(1, 2, 5, 5).double(), torch.randn(4, 2, 3, 3)
        with pytest.raises(ConfigError, match=r'float64 and the weight torch\.float32'):
            binary_conv2d(x, w, None, *self.T_K)

    def test_filters_of_one_weight(self):
        t, k = self.T_K
        w = torch.randn(4, 1, 1, 1)
        for function in (
            lambda: libra_pb(w),
            lambda: binary_weight(w, t, k),
            lambda: binary_conv2d(torch.randn(1, 1, 5, 5), w, None, t, k),
        ):
            with pytest.raises(ConfigError, match='two weights or more'):
                function()
        plain = WeightRule(standardize=False, scale=None, balance=False)
        assert torch.equal(binary_weight(w, t, k, plain), sign(w))


def conv_of(x, w, t, k, rule):
    return binary_conv2d(x, w, w.mean((1, 2, 3)).detach(), t, k, rule=rule)


FUNCTIONS = {
    'sign': lambda x, w, t, k, rule: sign(x),
    'hardtanh': lambda x, w, t, k, rule: hardtanh(x),
    'binary_sign': lambda x, w, t, k, rule: binary_sign(x, t, k, rule.estimator),
    'libra_pb': lambda x, w, t, k, rule: libra_pb(
        w, rule.standardize, rule.scale, rule.balance
    )[0],
    'binary_weight': lambda x, w, t, k, rule: binary_weight(w, t, k, rule),
    'binary_conv2d': conv_of,
    'w1a32': lambda x, w, t, k, rule: binary_conv2d(
        x, w, None, t, k, rule=rule, binarize_input=False
    ),
    'estimator_statistics': lambda x, w, t, k, rule: estimator_statistics(
        x, t, k, rule.estimator
    )['factor'],
}


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('name', FUNCTIONS)
def test_operands_are_never_written(name, dtype, layout):
    """In the forward pass, with gradients or without, and in the backward pass."""
    x = torch.randn(2, 3, 4, 4).to(dtype).to(memory_format=layout)
    w = torch.randn(4, 3, 3, 3).to(dtype).to(memory_format=layout)
    operands = [x, w, torch.tensor(0.7), torch.tensor(1.5)]
    before = [a.clone() for a in operands]
    versions = [a._version for a in operands]
    needs = [(True, True), (True, False), (False, True), (False, False)]
    for rule, (need_x, need_w) in itertools.product(RULES, needs):
        x.requires_grad_(need_x), w.requires_grad_(need_w)
        with torch.no_grad():
            FUNCTIONS[name](*operands, rule)
        y = FUNCTIONS[name](*operands, rule)
        if y.requires_grad:
            grad = torch.randn_like(y)
            same, version = grad.clone(), grad._version
            inputs = [a for a in (x, w) if a.requires_grad]
            for graph in (False, True):
                torch.autograd.grad(
                    y, inputs, grad, True, create_graph=graph, allow_unused=True
                )
            assert torch.equal(grad, same) and grad._version == version
        assert [a._version for a in operands] == versions
        assert all(map(torch.equal, operands, before))
