"""Layers and networks of every recipe: model, packed file, runtime and ONNX agree."""

import numpy as np
import pytest
import torch
from networks import dyadic_images, warm_up
from packed_models import classifier
from torch import nn

from mmirnet import binary
from mmirnet.binary import IRConv2d, IRLinear
from mmirnet.errors import PackedFileError, UnsupportedModelError
from mmirnet.models import Maxout, RPReLU
from mmirnet.packed import Simulation, pack, read, write
from mmirnet.packed.format import version_of
from mmirnet.packed.latent import load_packed_checkpoint
from mmirnet.runtime import Session, instruction_sets

LAYERS = [getattr(binary, name) for name in binary.recipes.__all__]
CONVS = [layer for layer in LAYERS if issubclass(layer, nn.Conv2d)]
LINEARS = [layer for layer in LAYERS if issubclass(layer, nn.Linear)]
ISAS = instruction_sets()


def trained(model):
    """Learned numbers as training leaves them, of both signs where they may be."""
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if name in ('alpha', 'shift', 'shift_in', 'shift_out', 'beta_a'):
                    # Sums with images of eighths are exact, and some are zero.
                    parameter.copy_(torch.randn_like(parameter).mul(8).round().div(8))
                elif name == 'alpha_a':
                    parameter.uniform_(0.3, 2)
            if isinstance(module, (nn.PReLU, RPReLU, Maxout)):
                slopes = [module.weight] if hasattr(module, 'weight') else []
                for slope in slopes or [module.positive, module.negative]:
                    slope.normal_(0.4, 0.5)
    return model.eval()


def check_exact(model, size, channels=5):
    """The same bits in the model, the simulation, and the runtime on every path."""
    model = trained(model)
    packed = pack(model, size)
    x = dyadic_images(3, channels, *size)
    with torch.no_grad():
        wanted = model(x)
        assert torch.equal(Simulation(packed)(x), wanted)
    assert len(wanted.unique()) > 4
    for isa in ISAS:
        got = Session(packed, 1, isa).predict(x)
        np.testing.assert_array_equal(got, wanted.numpy())
    return packed


WINDOWS = {
    '3x3': dict(kernel_size=3, padding=1),
    'stride': dict(kernel_size=3, padding=1, stride=2),
    '1x1': dict(kernel_size=1),
    'bias': dict(kernel_size=5, padding=2, bias=True),
}
OTHERS = {
    'groups': dict(kernel_size=3, padding=1, groups=5),
    'sides': dict(kernel_size=(3, 2), padding=(1, 0)),
    'dilation': dict(kernel_size=2, dilation=2, padding='same'),
}


@pytest.mark.parametrize('window', WINDOWS)
@pytest.mark.parametrize('layer', CONVS, ids=lambda layer: layer.__name__)
def test_convolutions(layer, window):
    conv = layer(5, 10, **{'bias': False} | WINDOWS[window])
    check_exact(nn.Sequential(conv, nn.Flatten()), (7, 6))


@pytest.mark.parametrize('window', OTHERS)
@pytest.mark.parametrize('layer', CONVS, ids=lambda layer: layer.__name__)
def test_other_geometries(layer, window):
    net = nn.Sequential(layer(5, 10, bias=False, **OTHERS[window]), nn.Flatten())
    if layer is binary.AdaBinConv2d:
        match = r'cannot pack 0 \(AdaBinConv2d\).*\(AdaBin\): only with one group'
        with pytest.raises(UnsupportedModelError, match=match):
            pack(net, (7, 6))
    else:
        check_exact(net, (7, 6))


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('layer', LINEARS, ids=lambda layer: layer.__name__)
def test_linear_layers(layer, bias):
    check_exact(nn.Sequential(nn.Flatten(), layer(5 * 12, 7, bias=bias)), (4, 3))


@pytest.mark.parametrize('layer', LAYERS, ids=lambda layer: layer.__name__)
def test_binary_weights_alone(layer):
    """Float sums, in another order for a linear layer than in training."""
    shape = (5, 8) if layer in LINEARS else (5, 8, 3)
    first = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if layer in LINEARS else []
    net = trained(nn.Sequential(*first, layer(*shape, binarize_input=False)))
    net.append(nn.Flatten())
    packed, x = pack(net, (5, 6)), torch.randn(3, 5, 5, 6)
    with torch.no_grad():
        wanted, got = net(x), Simulation(packed)(x)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(Session(packed, 1).predict(x), got, 1e-5, 1e-5)


@pytest.mark.parametrize('layer', LAYERS, ids=lambda layer: layer.__name__)
def test_real_weights_are_refused(layer):
    first = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if layer in LINEARS else []
    shape = (5, 8) if layer in LINEARS else (5, 8, 3)
    net = nn.Sequential(*first, layer(*shape, binarize_weight=False), nn.Flatten())
    match = rf'\({layer.__name__}\): its weights are real, with binarize_weight=False'
    with pytest.raises(UnsupportedModelError, match=match) as error:
        pack(net, (5, 6))
    assert '\n' not in str(error.value)


def test_a_mean_scale():
    conv = IRConv2d(5, 10, 3, scale='mean', padding=1, bias=False)
    packed = check_exact(nn.Sequential(conv, nn.Flatten()), (7, 6))
    assert '0.scale' in packed.tensors
    assert '0.exponent' not in packed.tensors


@pytest.mark.parametrize('bias', [True, False])
def test_a_mean_scale_of_a_linear_layer(bias):
    """The scale is behind the sum of integers, as in a convolution."""
    linear = IRLinear(5 * 12, 7, scale='mean', bias=bias)
    packed = check_exact(nn.Sequential(nn.Flatten(), linear), (4, 3))
    assert '1.scale' in packed.tensors


def test_scales_that_are_powers_of_two_are_exponents():
    conv = binary.ReCUConv2d(5, 4, 3, bias=False)
    net = nn.Sequential(conv, nn.Flatten()).eval()
    for alpha, role in (([0.5, 1, 2, 4], 'exponent'), ([0.5, 1, -2, 4], 'scale')):
        conv.alpha.data = torch.tensor(alpha)
        assert f'0.{role}' in pack(net, (5, 6)).tensors
    for alpha in ([0.5, 1, 0, 4], [0.5, 1, 2**-40, 4]):
        conv.alpha.data = torch.tensor(alpha)
        assert '0.scale' in pack(net, (5, 6)).tensors


@pytest.mark.parametrize('near', [2.0**-10, 1.0, 2.0**20])
def test_a_scale_beside_a_power_of_two_keeps_its_bits(near):
    """Its log2 rounds to a whole number."""
    conv = binary.DoReFaConv2d(5, 4, 3, bias=False)
    conv.weight.data = conv.weight.data.sign() * near * (1 + 2**-23)
    assert conv.quantized().scale[0] == near * (1 + 2**-23)
    packed = check_exact(nn.Sequential(conv, nn.Flatten()), (7, 6))
    assert '0.scale' in packed.tensors


@pytest.mark.parametrize('alpha', [-0.7, 0.0])
def test_an_adabin_whose_input_turned(alpha):
    conv = binary.AdaBinConv2d(5, 8, 3, padding=1, bias=False)
    net = trained(nn.Sequential(conv, nn.Flatten()))
    with torch.no_grad():
        conv.alpha_a.fill_(alpha)
        conv.beta_a.fill_(0.125)
    packed, x = pack(net, (5, 6)), dyadic_images(3, 5, 5, 6)
    assert (x == 0.125).any()
    with torch.no_grad():
        wanted = net(x)
        assert torch.equal(Simulation(packed)(x), wanted)
    np.testing.assert_array_equal(Session(packed, 1).predict(x), wanted.numpy())


class OwnConv2d(binary.BinaryConv2d, nn.Conv2d):
    """A user's layer of a known recipe."""

    rule = 'XNOR'


def test_a_layer_of_ones_own():
    check_exact(nn.Sequential(OwnConv2d(5, 8, 3, bias=False), nn.Flatten()), (7, 6))


@pytest.mark.parametrize('number', [1, 8])
@pytest.mark.parametrize('activation', [RPReLU, Maxout, nn.PReLU])
@pytest.mark.parametrize('flat', [False, True])
def test_activations(activation, number, flat):
    conv, act = binary.BiRealConv2d(5, 8, 3, bias=False), activation(number)
    layers = [nn.Flatten(), act] if flat else [act, nn.Flatten()]
    size = (3, 3) if flat else (6, 7)
    packed = check_exact(nn.Sequential(conv, *layers), size)
    assert {'prelu'} <= {op['op'] for op in packed.graph}


ACTS = {'ReAct': 'RPReLU', 'AdaBin': 'Maxout'}
SHORTCUTS = {'ReAct': 'avg_conv', 'AdaBin': 'pad', 'ReCU': 'avg_pad'}


@pytest.fixture(
    scope='module', params=[layer.__name__[: -len('Conv2d')] for layer in CONVS]
)
def network(request):
    """A ResNet-20 in Bi-Real structure of each recipe, with its packed form."""
    name = request.param
    torch.manual_seed(0)
    backbone = dict(type='IRResNet_CIFAR', depth=20)
    backbone |= dict(conv_cfg=dict(type=f'{name}Conv2d'))
    if name in ACTS:
        backbone |= dict(act_cfg=dict(type=ACTS[name]))
    if name in SHORTCUTS:
        backbone |= dict(shortcut=SHORTCUTS[name])
    model = classifier(backbone, 64)
    model.forward = lambda x: model.head(model.neck(model.backbone(x)))
    warm_up(trained(model), 3, 16, 16)
    return model, pack(model, (16, 16))


def test_networks(network, tmp_path):
    model, packed = network
    x = torch.randn(4, 3, 16, 16)
    write(packed, tmp_path / 'model.safetensors')
    again = read(tmp_path / 'model.safetensors')
    with torch.no_grad():
        wanted, got = model(x), Simulation(again)(x)
    assert torch.equal(got, wanted)
    for isa in ISAS:
        answers = Session(again, 1, isa).predict(x)
        np.testing.assert_allclose(answers, wanted, rtol=0, atol=1e-4)
        assert (answers.argmax(1) == wanted.numpy().argmax(1)).all()
    assert len(wanted.argmax(1).unique()) > 1


def test_networks_in_onnx(network, tmp_path):
    pytest.importorskip('onnxruntime')
    from mmirnet.packed.onnx import export, largest_difference

    _, packed = network
    export(packed, tmp_path / 'model.onnx')
    x = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype('f4')
    assert largest_difference(packed, tmp_path / 'model.onnx', x) <= 1e-4


@pytest.mark.parametrize(
    ('layer', 'part'),
    [
        (binary.XNORConv2d(5, 8, 3), 'scale'),
        (binary.ReActConv2d(5, 8, 3), 'scale'),
        (binary.AdaBinConv2d(5, 8, 3), 'affine_input'),
        (nn.Sequential(IRConv2d(5, 8, 3), nn.PReLU(8)), 'prelu'),
    ],
    ids=['scale', 'threshold', 'terms', 'prelu'],
)
def test_no_latent_weights_for_other_recipes(layer, part, tmp_path):
    path = tmp_path / 'model.safetensors'
    packed = pack(nn.Sequential(layer, nn.Flatten()).eval(), (5, 6))
    write(packed, path)
    assert version_of(packed) == 3
    match = rf'model.safetensors: 0.*: it has {part}, which no layer of IR-Net has'
    with pytest.raises(PackedFileError, match=match):
        load_packed_checkpoint(path)


def test_latent_weights_of_bnn(tmp_path):
    """It has no scale, and its signs are those of Libra-PB's latent weights."""
    net = nn.Sequential(binary.BNNConv2d(5, 8, 3, bias=False), nn.Flatten()).eval()
    write(pack(net, (5, 6)), tmp_path / 'model.safetensors')
    state = load_packed_checkpoint(tmp_path / 'model.safetensors')['state_dict']
    x = torch.randn(3, 5, 5, 6)
    with torch.no_grad():
        wanted = net(x)
        net.load_state_dict(state)
        assert torch.equal(net(x), wanted)
