import pytest
import torch
from quantisers import ESTIMATOR_FORMULAS, INF, NAN, SCHEDULE, relative

from mmirnet.binary import (
    ESTIMATORS,
    Estimator,
    IRConv2d,
    WeightRule,
    binary_sign,
    binary_weight,
    register_estimator,
    sign,
)
from mmirnet.binary.estimators import sign_again
from mmirnet.errors import ConfigError


class TestSign:
    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
    def test_zero_is_positive(self, dtype):
        x = torch.tensor([-2.0, -1e-38, -0.0, 0.0, 1e-38, 2.0], dtype=dtype)
        assert sign(x).tolist() == [-1, -1, 1, 1, 1, 1]
        assert sign(x).dtype == dtype

    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('function', [sign, sign_again])
    @pytest.mark.parametrize('compiled', [False, True])
    def test_nan_stays_nan(self, dtype, function, compiled):
        # 40 numbers: vectorised loops and what they leave over
        x = torch.tensor([NAN, 1, -1, 0, INF, -INF, -0.0, NAN] * 5, dtype=dtype)
        if compiled:
            function = torch.compile(function)
        expected = torch.tensor([NAN, 1, -1, 1, 1, -1, 1, NAN] * 5, dtype=dtype)
        assert torch.equal(function(x).nan_to_num(7), expected.nan_to_num(7))


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


def test_an_estimator_of_ones_own_is_trained_with():
    """Registered from outside, it is a value of a layer's keyword like any other."""
    cubic = Estimator(
        'cubic',
        'x^2',
        'none',
        lambda t, k: 3.0,
        lambda grad, x, t: grad * x.square(),
        lambda x, t, k: x**3,
    )
    register_estimator(cubic)
    try:
        with pytest.raises(ConfigError, match="an estimator 'cubic' is already"):
            register_estimator(cubic._replace(source='another'))
        layer = IRConv2d(2, 2, 1, bias=False, estimator='cubic')
        x = torch.tensor([0.5, -2.0]).reshape(1, 2, 1, 1).requires_grad_()
        layer(x).sum().backward()
        factor = torch.tensor([0.75, 12.0])
        wanted = layer.binary_weight().sum((0, 2, 3)) * factor
        torch.testing.assert_close(x.grad.flatten(), wanted)
    finally:
        del ESTIMATORS['cubic']
    with pytest.raises(ConfigError, match='estimator must be one of'):
        IRConv2d(2, 2, 1, estimator='cubic')


@pytest.mark.parametrize('balance', [True, False])
def test_an_estimator_may_return_the_gradient_it_gets(balance):
    """Both summands get the same tensor as gradient, which must not be overwritten."""
    line = ESTIMATORS['identity']._replace(name='line', vjp=lambda grad, x, t: grad)
    register_estimator(line)
    try:
        one, grad = torch.tensor(1.0), torch.randn(3, 4)
        found = []
        for estimator in ('line', 'identity'):
            weights = [torch.arange(12.0).view(3, 4).requires_grad_() for _ in 'ab']
            rule = WeightRule(balance, estimator=estimator, balance=balance)
            sum(binary_weight(w, one, one, rule) for w in weights).backward(grad)
            found.append([w.grad for w in weights])
        torch.testing.assert_close(*found)
    finally:
        del ESTIMATORS['line']
