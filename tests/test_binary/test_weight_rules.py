import copy
import pickle

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from quantisers import ESTIMATOR_FORMULAS, RULES, SCHEDULE, random_weight, relative

from mmirnet.binary import (
    SCALES,
    Scale,
    WeightRule,
    binary_sign,
    binary_weight,
    libra_pb,
    register_scale,
)
from mmirnet.errors import ConfigError


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


def test_a_scale_of_ones_own_is_trained_with():
    half = Scale('half', 'm / 2', 'none', lambda mean: mean / 2)
    register_scale(half)
    try:
        with pytest.raises(ConfigError, match="a scale 'half' is already"):
            register_scale(half._replace(source='another'))
        weight = random_weight(4, 2, 3, 3)
        standardised, s = libra_pb(weight, scale='half')
        wanted = standardised.abs().mean((1, 2, 3), keepdim=True) / 2
        torch.testing.assert_close(s, wanted)
    finally:
        del SCALES['half']
    with pytest.raises(ConfigError, match='scale must be one of'):
        WeightRule(scale='half')
