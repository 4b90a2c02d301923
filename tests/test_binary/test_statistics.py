"""Statistics of small layers, by hand."""

import math

import pytest
import torch

from mmirnet import binary
from mmirnet.binary import (
    ESTIMATORS,
    IRConv2d,
    IRLinear,
    bit_entropy,
    estimator_statistics,
    input_statistics,
    libra_pb,
    log2_scales,
    set_ede,
    sign,
    weight_statistics,
)
from mmirnet.errors import ConfigError, NonFiniteError

T, K = torch.tensor(0.5, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)


def test_entropy_of_a_bit():
    share = torch.tensor([0.0, 1 / 8, 1 / 2, 1.0])
    eighth = 3 / 8 + 7 / 8 * math.log2(8 / 7)
    torch.testing.assert_close(bit_entropy(share), torch.tensor([0, eighth, 1, 0]))


@pytest.mark.parametrize('estimator', ESTIMATORS)
def test_the_derivative_is_that_of_the_curve(estimator):
    rule = ESTIMATORS[estimator]
    x = torch.linspace(-1.9, 1.9, 40, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(rule.curve(x, T, K).sum(), x)
    x = x.detach()
    torch.testing.assert_close(slope, rule.derivative(x, T, K))
    assert torch.equal(rule.curve(0 * x, T, K), 0 * x)


def test_estimator_by_hand():
    x = torch.tensor([-2.0, 0.0, 0.5], dtype=torch.float64)
    seen = estimator_statistics(x, T, K, 'ede')
    tanh = [math.tanh(0.5 * v) for v in x.tolist()]
    factor = sum(2.0 * 0.5 * (1 - v**2) for v in tanh) / 3
    signs = [-1, 1, 1]
    error = sum((s - 2.0 * v) ** 2 for s, v in zip(signs, tanh, strict=True)) / 3
    assert seen['factor'].item() == pytest.approx(factor)
    assert seen['square_error'].item() == pytest.approx(error)


def test_inputs_of_a_convolution():
    conv = IRConv2d(3, 2, 1, estimator='ste')
    x = torch.tensor([[-0.5, 0.25], [0.0, 3.0], [-1.0, -1.5]])  # two pixels
    for image in (x.view(1, 3, 1, 2), x.view(3, 2, 1)):
        seen = input_statistics(conv, image)
        assert seen['positive'].tolist() == [0.5, 1, 0]
        assert seen['saturated'].item() == 0.5
        assert seen['factor'].item() == pytest.approx(4 / 6)
        error = (0.5**2 + 0.75**2 + 1) / 6
        assert seen['square_error'].item() == pytest.approx(error)


def test_inputs_of_a_linear_layer():
    seen = input_statistics(IRLinear(3, 2), torch.tensor([[[1.0, -1, 0]], [[1, 2, 0]]]))
    assert seen['positive'].tolist() == [1, 0.5, 1]


def _normalised(x, layer):
    deviation = (x.flatten(1).var(1) + 1e-5).sqrt()
    return x / deviation.view(-1, *[1] * (x.dim() - 1))


LATENT_INPUTS = {
    'ReAct': lambda x, layer: x + layer.shift.view(-1, *[1] * (x.dim() - 2)),
    'AdaBin': lambda x, layer: (x - layer.beta_a) / layer.alpha_a,
    'ReCU': _normalised,
    'OvSW': _normalised,
    'BiPer': _normalised,
}


@pytest.mark.parametrize('kind', ['Conv2d', 'Linear'])
@pytest.mark.parametrize('name', LATENT_INPUTS)
def test_inputs_are_seen_as_the_layer_binarises_them(name, kind):
    layer = getattr(binary, name + kind)(*([4, 2, 1] if kind == 'Conv2d' else [4, 2]))
    for key, values in dict(shift=[-1, 0, 0.5, 2], beta_a=0.5, alpha_a=0.25).items():
        if hasattr(layer, key):
            getattr(layer, key).data.copy_(torch.tensor(values))
    x = 3 * torch.randn(5, 4, 6, 6) if kind == 'Conv2d' else 3 * torch.randn(50, 4)
    z = LATENT_INPUTS[name](x, layer)
    wanted = estimator_statistics(z, T, K, 'approx_sign')
    wanted['positive'] = (z >= 0).float().transpose(0, 1).flatten(1).mean(1)
    wanted['saturated'] = (z.abs() >= 1).float().mean()
    seen = input_statistics(layer, x)
    assert not any(value.requires_grad for value in seen.values())
    torch.testing.assert_close(seen, {k: v.detach() for k, v in wanted.items()})


def test_weights_are_seen_as_the_layer_binarises_them():
    conv = IRConv2d(8, 4, 3, bias=False)
    set_ede(conv, 2.0)
    seen = weight_statistics(conv)
    assert torch.equal(seen['signs'], conv.binary_weight() > 0)
    w, _ = libra_pb(conv.weight.detach())
    shares = seen['signs'].flatten(1).float().mean(1)
    assert seen['entropy'] == bit_entropy(shares).mean()
    tanh = torch.tanh(2 * w)
    torch.testing.assert_close(seen['factor'], (2 * (1 - tanh**2)).mean())
    error = (sign(w) - tanh).square().mean()
    torch.testing.assert_close(seen['square_error'], error)


@pytest.mark.parametrize('scale', ['shift', 'mean', None])
def test_scales(scale):
    conv = IRConv2d(8, 6, 3, scale=scale)
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = 100  # one channel with a heavy tail
    found = log2_scales(conv)
    if scale is None:
        assert found == {}
    else:
        s = libra_pb(conv.weight, scale=scale)[1].flatten()
        for exponent, count in found.items():
            assert count == int((s.log2().round() == exponent).sum())
        assert found[0] == 5
        assert sum(found.values()) == 6


def test_nan_is_seen():
    layer = IRLinear(2, 3, bias=False)
    x = torch.tensor([[math.nan, -2.0], [0.5, 0.5]])
    seen = input_statistics(layer, x)
    assert seen['positive'].isnan().tolist() == [True, False]
    assert seen['factor'].isnan() and seen['square_error'].isnan()
    with torch.no_grad():
        layer.weight[1, 0] = math.nan
    with pytest.raises(NonFiniteError, match='NaN or infinite'):
        log2_scales(layer)
    with pytest.raises(ConfigError, match='estimator must be one of'):
        estimator_statistics(x, T, K, 'sted')
