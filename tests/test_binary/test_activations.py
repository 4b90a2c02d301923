import math

import pytest
import torch

from mmirnet.binary import WeightRule, hardtanh

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
