"""Costs against hand calculation, published figures and packed files."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
import safetensors
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn
from warm_python import python

from mmirnet import binary
from mmirnet.analysis import summary
from mmirnet.analysis.cost.count import summarize_config
from mmirnet.analysis.cost.table import short
from mmirnet.apis.packing import pack_checkpoint
from mmirnet.binary import IRConv2d, IRLinear
from mmirnet.errors import ConfigError
from mmirnet.models import Maxout, RPReLU
from mmirnet.packed import pack, write

ROOT = Path(__file__).parents[2]


def config(stem, folder='irnet'):
    return ROOT / 'configs' / folder / f'{stem}.py'


def build(stem, folder='irnet'):
    init_default_scope('mmpretrain')
    return MODELS.build(Config.fromfile(config(stem, folder)).model)


@pytest.fixture(scope='module')
def resnet20():
    return summary(build('resnet20_bireal_cifar10'), (3, 32, 32))


def test_resnet20_by_hand(resnet20):
    """16, 32, 64 channels at 32, 16, 8 pixels a side; six 3x3 convolutions each."""
    total = resnet20.total
    equal = [  # same channels in and out: six in the first stage, five in the others
        6 * (16 * 16 * 9) * 32**2,
        5 * (32 * 32 * 9) * 16**2,
        5 * (64 * 64 * 9) * 8**2,
    ]
    wider = [(16 * 32 * 9) * 16**2, (32 * 64 * 9) * 8**2]
    assert total.binary_macs == sum(equal + wider) == 40_108_032
    stem, classifier = (3 * 16 * 9) * 32**2, 64 * 10
    assert total.float_macs == stem + classifier == 443_008
    assert total.ops == 40_108_032 / 64 + 443_008
    assert resnet20.saving == pytest.approx((40_108_032 + 443_008) / 1_069_696)

    binary_weights = 9 * (6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64 + 64)  # the last in front of the classifier
    others = 3 * 16 * 9 + norms + 64 * 10 + 10
    assert total.parameters == binary_weights + others
    assert total.bytes_fp32 == 4 * (binary_weights + others)
    # 144, 288 and 576 bits of a filter are 3, 5 and 9 words; then an exponent.
    filters = [(6 * 16 + 32, 3), (5 * 32 + 64, 5), (5 * 64, 9)]
    packed = sum(out * (8 * words + 1) for out, words in filters)
    assert total.bytes_packed == packed + 4 * others


@pytest.mark.parametrize(
    ('stem', 'macs', 'ops', 'factor'),
    [
        ('resnet18_bireal_in1k', 1.81e9, (1.63e8, 1.64e8), 11.06),
        ('resnet34_bireal_in1k', 3.66e9, (1.925e8, 1.935e8), 18.99),
    ],
)
def test_bireal_nets_published_operations(stem, macs, ops, factor):
    """Table 4 of Bi-Real Net: full precision, binary, and the factor between them.

    The factors have four digits and confirm what is counted. The operations have
    three: 1.63e8 was cut off, 1.93e8 was rounded.
    """
    result = summary(build(stem), (3, 224, 224))
    total = result.total
    assert result.saving == pytest.approx(factor, abs=0.005)
    assert total.macs == pytest.approx(macs, abs=0.005e9)
    assert ops[0] <= total.ops < ops[1]
    assert total.binary_share > 0.9


def test_resnet18_by_hand():
    total = summary(build('resnet18_bireal_in1k'), (3, 224, 224)).total
    # Three stages begin with half as many channels at twice the side.
    block = 64 * 64 * 9 * 56**2
    assert total.binary_macs == 4 * block + 3 * (block // 2 + 3 * block)
    stem, shortcut = 3 * 64 * 49 * 112**2, 64 * 128 * 28**2
    assert total.float_macs == stem + 3 * shortcut + 512 * 1000 == 137_793_536


def classifier(backbone, head, width, classes=10):
    init_default_scope('mmpretrain')
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type=head, num_classes=classes, in_channels=width),
        )
    )


def adabin_resnet20(**options):
    backbone = dict(
        type='IRResNet_CIFAR',
        depth=20,
        conv_cfg=dict(type='AdaBinConv2d'),
        act_cfg=dict(type='Maxout'),
    )
    return classifier(backbone | options, 'BNLinearClsHead', 64)


def reactnet_resnet18(classes=1000, **options):
    backbone = dict(
        type='IRResNet',
        depth=18,
        conv_cfg=dict(type='ReActConv2d'),
        act_cfg=dict(type='RPReLU'),
        shortcut='avg_conv',
        stem_act=False,
    )
    return classifier(backbone | options, 'LinearClsHead', 512, classes)


FILES = {
    'resnet20_bireal_cifar10': lambda: build('resnet20_bireal_cifar10'),
    'vgg-small_cifar10': lambda: build('vgg-small_cifar10'),
    'AdaBin': adabin_resnet20,
    'AdaBin 1/32': lambda: adabin_resnet20(
        conv_cfg=dict(type='AdaBinConv2d', binarize_input=False),
        act_cfg=dict(type='PReLU'),
    ),
    'ReActNet': lambda: reactnet_resnet18(10),
    'ReActNet, one slope': lambda: reactnet_resnet18(
        10, act_cfg=dict(type='RPReLU', num_parameters=1)
    ),
    'ReCU': lambda: adabin_resnet20(
        conv_cfg=dict(type='ReCUConv2d'), shortcut='avg_pad'
    ),
    'mean': lambda: adabin_resnet20(conv_cfg=dict(type='IRConv2d', scale='mean')),
}


@pytest.mark.parametrize('name', FILES)
def test_packed_bytes_are_those_of_a_file(name, tmp_path):
    model = FILES[name]()
    write(pack(model, (32, 32)), tmp_path / 'a.safetensors')
    stored = safetensors.deserialize((tmp_path / 'a.safetensors').read_bytes())
    layers = summary(model, (3, 32, 32)).layers
    for layer in layers:
        own = [
            len(e['data']) for name, e in stored if name.startswith(f'{layer.name}.')
        ]
        assert layer.bytes_packed == sum(own), layer.name
    assert sum(layer.bytes_packed for layer in layers) == sum(
        len(entry['data']) for _, entry in stored
    )


def test_layers_of_resnet20(resnet20):
    layers = {layer.name: layer for layer in resnet20.layers}
    stem, first = layers['backbone.conv1'], layers['backbone.layer1.0.conv1']
    assert (stem.bits, stem.binary_share, stem.bops) == ('32/32', 0, 0)
    assert (first.bits, first.binary_share) == ('1/1', 1)
    assert (stem.log2_scales, sum(first.log2_scales.values())) == ({}, 16)
    assert layers['backbone.layer2.0.conv1'].output == (1, 32, 16, 16)
    assert layers['head.fc'].output == (1, 10)
    assert layers['head.bn'].macs == 0
    assert resnet20.total.bits == '1/1'
    assert sum(resnet20.total.log2_scales.values()) == 6 * 16 + 6 * 32 + 6 * 64


def test_float_activations_make_float_operations():
    """MMPretrain's own ResNet with our layers, W/A bits 1/32."""
    result = summary(build('resnet18_w1a32_cifar10', 'examples'), (3, 32, 32))
    total = result.total
    assert (total.bits, total.bops, result.saving) == ('1/32', 0, 1)
    assert total.float_macs == total.macs > 5e8
    assert 20 < result.compression < 32


def test_full_precision_saves_nothing():
    result = summary(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 8, 8))
    assert (result.compression, result.saving, result.total.bits) == (1, 1, '32/32')
    assert [layer.name for layer in result.layers] == ['0']


def test_linear_groups_and_sides():
    conv = IRConv2d(6, 4, (3, 1), stride=(2, 1), groups=2)
    net = nn.Sequential(conv, nn.Flatten(), IRLinear(4 * 3 * 7, 5))
    first, last = summary(net, (6, 7, 7)).layers
    assert (first.output, first.binary_macs) == ((1, 4, 3, 7), 4 * 3 * 3 * 3 * 7)
    assert first.bytes_packed == 4 * (8 + 1) + 4 * 4  # one word each, four biases
    assert last.binary_macs == 4 * 3 * 7 * 5
    assert last.bytes_packed == 5 * (2 * 8 + 1) + 4 * 5


def test_a_layer_used_twice_costs_its_bytes_once():
    conv = IRConv2d(4, 4, 3, padding=1, bias=False)
    net = nn.ModuleDict(dict(a=nn.Sequential(conv), b=nn.Sequential(nn.ReLU(), conv)))
    net.forward = lambda x: net['b'](net['a'](x))
    (layer,) = summary(net, (4, 5, 5)).layers
    assert layer.name == 'a.0'
    assert layer.binary_macs == 2 * 4 * 4 * 9 * 25
    assert layer.parameters == 4 * 4 * 9


#: Bytes of a filter beside its signs, floats of the layer, and operations an output
#: and a window beside multiply-accumulates.
SCALED = (4, 0, 1, 0)
RECIPES = {
    'BNN': (1, 0, 0, 0),
    'BiHalf': (1, 0, 0, 0),
    'DoReFa': SCALED,
    'XNOR': SCALED,
    'BiReal': SCALED,
    'ReSTE': SCALED,
    'ReCU': SCALED,
    'OvSW': SCALED,
    'BiPer': SCALED,
    'ReAct': (4, 6, 1, 0),  # a threshold an input channel
    'AdaBin': (8, 6 + 2, 2, 1),  # scale and offset, threshold, alpha_a and beta_a
}


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('recipe', RECIPES)
def test_recipes_by_hand(recipe, bias):
    a_filter, floats, an_output, a_window = RECIPES[recipe]
    conv = getattr(binary, f'{recipe}Conv2d')(6, 4, 3, groups=2, bias=bias)
    linear = getattr(binary, f'{recipe}Linear')(6, 5, bias=bias)
    (layer,) = summary(nn.Sequential(conv), (6, 7, 8)).layers
    outputs, weights = 4 * 5 * 6, 3 * 9
    assert (layer.bits, layer.binary_macs) == ('1/1', outputs * weights)
    assert layer.extra_flops == layer.flops == an_output * outputs
    windows = 2 * 5 * 6  # one of each group
    assert layer.extra_bops == a_window * windows * weights
    assert layer.bytes_packed == 4 * (8 + a_filter) + 4 * floats + 16 * bias
    assert layer.ops == layer.bops / 64 + layer.flops
    (layer,) = summary(nn.Sequential(linear), (6,)).layers
    assert layer.extra_flops == an_output * 5 and layer.extra_bops == a_window * 6
    assert layer.bytes_packed == 5 * (8 + a_filter) + 4 * floats + 20 * bias


@pytest.mark.parametrize('recipe', RECIPES)
def test_recipes_with_float_inputs(recipe):
    conv = getattr(binary, f'{recipe}Conv2d')(6, 4, 3, bias=False, binarize_input=False)
    (layer,) = summary(nn.Sequential(conv), (6, 5, 5)).layers
    assert (layer.bits, layer.bops) == ('1/32', 0)
    # AdaBin's weights are floats of two values, and the others are followed by a scale.
    has_scale = recipe not in ('BNN', 'BiHalf', 'AdaBin')
    assert layer.flops == 4 * 9 * 6 * 9 + has_scale * 4 * 9
    assert layer.bytes_packed == 4 * (8 + RECIPES[recipe][0])


@pytest.mark.parametrize('recipe', RECIPES)
def test_recipes_with_real_weights(recipe):
    conv = getattr(binary, f'{recipe}Conv2d')(6, 4, 3, binarize_weight=False)
    (layer,) = summary(nn.Sequential(conv), (6, 5, 5)).layers
    assert (layer.bits, layer.bops) == ('32/1', 0)
    learned_scale = recipe in ('ReCU', 'BiPer')
    assert layer.flops == 4 * 9 * 6 * 9 + learned_scale * 4 * 9
    assert layer.bytes_packed == 4 * sum(p.numel() for p in conv.parameters())


def test_the_mean_as_scale_is_a_float():
    conv = IRConv2d(6, 4, 3, bias=False, scale='mean')
    (layer,) = summary(nn.Sequential(conv), (6, 5, 5)).layers
    assert (layer.flops, layer.bytes_packed) == (4 * 9, 4 * (8 + 4))


def test_alpha_of_adabin_may_be_negative():
    conv = binary.AdaBinConv2d(6, 4, 3)
    nn.init.constant_(conv.alpha_a, -1)
    assert summary(nn.Sequential(conv), (6, 5, 5)).total.bops


@pytest.mark.parametrize(
    ('layer', 'operations'),
    [
        (nn.PReLU(8), 8 * 36),
        (nn.PReLU(), 8 * 36),
        (Maxout(8), 8 * 36),
        (RPReLU(8), 2 * 8 * 36),
        (nn.AvgPool2d(2), 8 * 9 * 4),
        (nn.AvgPool2d((1, 3), stride=1), 8 * 24 * 3),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)), 0),
        (nn.BatchNorm2d(8), 0),
    ],
    ids=str,
)
def test_operations_without_weights_of_filters(layer, operations):
    result = summary(nn.Sequential(nn.Conv2d(3, 8, 1), layer), (3, 6, 6))
    macs = 3 * 8 * 36
    assert result.total.macs == result.total.float_macs == macs
    assert result.total.flops == result.total.ops == macs + operations
    # Full precision has the same activations.
    assert (result.full_precision_ops, result.saving) == (macs + operations, 1)
    assert len(result.layers) == 1 + (
        operations > 0 or isinstance(layer, nn.BatchNorm2d)
    )


def test_adabins_resnet20_by_hand(resnet20):
    """What it adds to IR-Net's network."""
    ours = summary(adabin_resnet20(), (3, 32, 32))
    outputs = 6 * 16 * 32**2 + 6 * 32 * 16**2 + 6 * 64 * 8**2
    assert ours.total.binary_macs == resnet20.total.binary_macs
    assert ours.total.float_macs == resnet20.total.float_macs
    activations = outputs + 16 * 32**2  # and the stem's
    assert ours.total.extra_flops == 2 * outputs + activations
    windows = 6 * 144 * 32**2 + (144 + 5 * 288) * 16**2 + (288 + 5 * 576) * 8**2
    assert ours.total.extra_bops == windows
    full = resnet20.total.macs + activations
    assert ours.full_precision_ops == full
    assert ours.saving == pytest.approx(full / ours.total.ops)
    assert f'{short(full)} OPs; this: ' in str(ours)


def test_reactnets_resnet18_by_hand():
    ours = summary(reactnet_resnet18(), (3, 224, 224))
    theirs = summary(build('resnet18_bireal_in1k'), (3, 224, 224)).total
    assert ours.total.binary_macs == theirs.binary_macs
    assert ours.total.float_macs == theirs.float_macs
    stages = [(64, 56), (128, 28), (256, 14), (512, 7)]
    outputs = sum(4 * channels * side**2 for channels, side in stages)
    pooled = sum(channels // 2 * side**2 for channels, side in stages[1:])
    assert ours.total.extra_flops == outputs + 2 * outputs + 4 * pooled
    assert ours.total.extra_bops == 0


@pytest.mark.parametrize('trainable', [True, False])
def test_attention_is_counted(trainable):
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0)
    net.requires_grad_(trainable)
    projections, scores = 10 * 8 * 8 * 4, 2 * 10 * 10 * 8
    feed_forward = 2 * 10 * 8 * 16
    macs = summary(net, (10, 8)).total.float_macs
    assert macs == projections + scores + feed_forward


def test_the_model_stays_as_it_was():
    net = nn.Sequential(IRConv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    summary(net, (3, 8, 8))
    assert [module.training for module in net] == [True, True, False]
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert not net[0]._forward_hooks
    assert torch.backends.mha.get_fastpath_enabled()


def test_json_and_csv_hold_the_same(tmp_path):
    files = dict(json_file=tmp_path / 'a.json', csv_file=tmp_path / 'a.csv')
    result = summarize_config(config('resnet20_w1a32_digits'), size=(16, 16), **files)
    data = json.loads(files['json_file'].read_text())
    assert data['input_shape'] == [3, 16, 16]
    assert data['total']['ops'] == result.total.ops
    assert data['compression'] == result.compression
    with files['csv_file'].open(newline='') as file:
        rows = list(csv.DictReader(file))
    for row, layer in zip(rows, [*data['layers'], data['total']], strict=True):
        for key in ('name', 'bits', 'parameters', 'bytes_packed', 'float_macs', 'ops'):
            assert row[key] == str(layer[key])
    assert rows[0]['output'] == '1x16x16x16'
    assert rows[2]['log2_scales'] == '0:16'


@pytest.mark.parametrize('size', [(48, 48), (0, 32), (-1, 32), (10**9, 10**9)])
def test_a_size_that_the_network_does_not_take_is_named(size, tmp_path):
    words = ' '.join(map(str, size)), 'x'.join(map(str, size))
    for tool in (
        lambda: summarize_config(config('vgg-small_digits'), size=size),
        lambda: pack_checkpoint(
            str(config('vgg-small_digits')), None, tmp_path / 'a.safetensors', size=size
        ),
    ):
        with pytest.raises(ConfigError, match=f'--size {words[0]}|{words[1]}.*--size'):
            tool()


def test_tool(tmp_path):
    tool = ROOT / 'tools' / 'analysis' / 'summary.py'
    words = [config('resnet20_bireal_digits'), '--json', tmp_path / 'a.json']
    done = subprocess.run(
        [python(), tool, *words], capture_output=True, text=True, check=True
    )
    result = json.loads((tmp_path / 'a.json').read_text())
    lines = done.stdout.splitlines()
    for layer in result['layers']:
        assert any(line.split()[:1] == [layer['name']] for line in lines)
    assert f'({result["compression"]:.2f} times smaller)' in lines[-1]
    assert f'({result["saving"]:.2f} times fewer)' in lines[-1]
