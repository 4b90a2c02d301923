import math

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmirnet.binary import (
    binary_sign,
    binary_weight,
    ede,
    hardtanh,
    libra_pb,
    sign,
)
from mmirnet.binary.functional import WeightRule, binary_conv2d

ESTIMATOR_FORMULAS = {
    'ede': lambda x, t, k: k * t * (1 - torch.tanh(t * x) ** 2),
    'ste': lambda x, t, k: (x.abs() <= 1).to(x.dtype),
    'approx_sign': lambda x, t, k: torch.where(
        x.abs() < 1, torch.where(x < 0, 2 + 2 * x, 2 - 2 * x), 0
    ),
}
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
        zero, s = libra_pb(torch.zeros(1, 4), scale='shift', balance=False)
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
