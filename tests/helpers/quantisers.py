"""Formulas and settings that the tests of the quantisers share."""

import math

import torch

from mmirnet.binary import WeightRule

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
