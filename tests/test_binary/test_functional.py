import itertools

import pytest
import torch
from quantisers import ESTIMATOR_FORMULAS, INF, NAN, RULES, random_weight

from mmirnet.binary import (
    WeightRule,
    binary_conv2d,
    binary_sign,
    binary_weight,
    estimator_statistics,
    hardtanh,
    libra_pb,
    sign,
)
from mmirnet.errors import ConfigError


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
