import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmpretrain.registry import MODELS
from small_run import ROOT

from mmirnet.apis.conversion import ARCHITECTURES, convert, convert_state_dict
from mmirnet.engine.checkpoint import load_checkpoint_file
from mmirnet.errors import CheckpointError


def released(arch, classes=10):
    """A checkpoint with the names and shapes of the released code."""
    shapes = {}

    def conv(name, out, width, kernel):
        shapes[f'{name}.weight'] = (out, width, kernel, kernel)

    def norm(name, width):
        for part in ('weight', 'bias', 'running_mean', 'running_var'):
            shapes[f'{name}.{part}'] = (width,)
        shapes[f'{name}.num_batches_tracked'] = ()

    def linear(name, width):
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = (classes, width), (classes,)

    if arch == 'vgg-small':
        for i, (width, out) in enumerate(
            [(3, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
        ):
            conv(f'conv{i}', out, width, 3)
            norm(f'bn{i}', out)
        linear('fc', 8192)
    else:
        widths, blocks = {
            'resnet20': ((16, 32, 64), (3, 3, 3)),
            'resnet18-cifar': ((64, 128, 256, 512), (2, 2, 2, 2)),
            'resnet18': ((64, 128, 256, 512), (2, 2, 2, 2)),
            'resnet34': ((64, 128, 256, 512), (3, 4, 6, 3)),
        }[arch]
        imagenet = arch in ('resnet18', 'resnet34')
        conv('conv1', widths[0], 3, 7 if imagenet else 3)
        norm('bn1', widths[0])
        before = widths[0]
        for stage, (width, number) in enumerate(zip(widths, blocks, strict=True), 1):
            for block in range(number):
                name = f'layer{stage}.{block}'
                conv(f'{name}.conv1', width, before, 3)
                norm(f'{name}.bn1', width)
                conv(f'{name}.conv2', width, width, 3)
                norm(f'{name}.bn2', width)
                if before != width and arch != 'resnet20':
                    shortcut = 'downsample' if imagenet else 'shortcut'
                    conv(f'{name}.{shortcut}.0', width, before, 1)
                    norm(f'{name}.{shortcut}.1', width)
                before = width
        norm('bn2', before)
        linear('fc' if imagenet else 'linear', before)
    return {
        name: torch.tensor(7) if shape == () else torch.rand(shape)
        for name, shape in shapes.items()
    }


def ours(arch, classes):
    cifar = dict(type='IRResNet_CIFAR', depth=20)
    backbone, width = {
        'resnet20': (cifar, 64),
        'resnet18-cifar': (dict(cifar, depth=18), 512),
        'resnet18': (dict(type='IRResNet', depth=18), 512),
        'resnet34': (dict(type='IRResNet', depth=34), 512),
        'vgg-small': (dict(type='IRVGGSmall'), 8192),
    }[arch]
    neck, head = 'GlobalAveragePooling', 'BNLinearClsHead'
    if arch == 'vgg-small':
        neck, head = 'FlattenNeck', 'LinearClsHead'
    init_default_scope('mmpretrain')
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type=neck),
            head=dict(type=head, num_classes=classes, in_channels=width),
        )
    )


#: Where some of the released tensors have to go.
PLACES = {
    'resnet20': {
        'conv1.weight': 'backbone.conv1.weight',
        'bn1.bias': 'backbone.bn1.bias',
        'layer2.0.bn2.running_var': 'backbone.layer2.0.bn2.running_var',
        'layer3.2.conv2.weight': 'backbone.layer3.2.conv2.weight',
        'bn2.weight': 'head.bn.weight',
        'linear.bias': 'head.fc.bias',
    },
    'resnet18-cifar': {
        'layer2.0.shortcut.0.weight': 'backbone.layer2.0.downsample.0.weight',
        'layer4.0.shortcut.1.running_mean': (
            'backbone.layer4.0.downsample.1.running_mean'
        ),
        'bn2.bias': 'head.bn.bias',
    },
    'resnet18': {
        'layer2.0.downsample.0.weight': 'backbone.layer2.0.downsample.0.weight',
        'fc.weight': 'head.fc.weight',
    },
    'resnet34': {'layer3.5.conv1.weight': 'backbone.layer3.5.conv1.weight'},
    'vgg-small': {
        'conv0.weight': 'backbone.conv0.conv.weight',
        'bn1.bias': 'backbone.layer1.0.bn.bias',
        'conv3.weight': 'backbone.layer2.1.conv.weight',
        'bn5.running_var': 'backbone.layer3.1.bn.running_var',
        'fc.weight': 'head.fc.weight',
    },
}


@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize('arch', PLACES)
def test_every_tensor_gets_its_place(arch, wrapped, tmp_path):
    classes = 11 if wrapped else 10
    weights = released(arch, classes)
    checkpoint = dict(weights)
    if wrapped:
        if arch in ('resnet18', 'resnet34'):
            checkpoint['bn3.weight'] = torch.rand(512)
        checkpoint = {f'module.{name}': w for name, w in checkpoint.items()}
        checkpoint = {'state_dict': checkpoint, 'epoch': 399, 'best_prec1': 58.1}
    torch.save(checkpoint, tmp_path / 'theirs.pth')
    report = convert(tmp_path / 'theirs.pth', tmp_path / 'ours.pth', arch)
    assert f'{len(weights)} tensors' in report
    assert report.count('dropped') == wrapped * (2 + (arch in ('resnet18', 'resnet34')))

    model = ours(arch, classes)
    load_checkpoint(model, str(tmp_path / 'ours.pth'), strict=True)
    state = model.state_dict()
    assert len(state) == len(weights)
    for theirs, place in PLACES[arch].items():
        assert torch.equal(state[place], weights[theirs])
    # None is used twice: the random tensors have as many different sums.
    sums = {float(w.double().sum()) for w in weights.values()}
    assert sums == {float(w.double().sum()) for w in state.values()}


@pytest.mark.parametrize('arch', PLACES)
def test_the_architecture_that_fits_is_named(arch):
    weights = released(arch)
    for wrong in ARCHITECTURES.keys() - {arch}:
        with pytest.raises(ValueError, match=f'looks like {arch}, not {wrong}: '):
            convert_state_dict(weights, wrong)


def change(weights, name, tensor=None):
    weights = dict(weights)
    if tensor is None:
        del weights[name]
    else:
        weights[name] = tensor
    return weights


@pytest.mark.parametrize(
    ('name', 'tensor', 'message'),
    [
        ('layer1.0.conv1.weight', None, r'layer1\.0\.conv1\.weight is missing'),
        ('linear.bias', None, r'the classifier \(linear or fc\) is missing'),
        ('layer1.0.conv1.bias', torch.zeros(16), r'layer1\.0\.conv1\.bias has no'),
        ('layer1.0.bn3.bias', torch.zeros(16), r'layer1\.0\.bn3\.bias has no place'),
        ('alpha', torch.zeros(1), 'alpha has no place'),
        ('fc.bias', torch.zeros(10), 'two classifiers'),
        ('conv1.weight', torch.zeros(16, 1, 3, 3), r'\(16, 1, 3, 3\), not \(16, 3, 3'),
        ('conv1.weight', 'text', r'conv1\.weight is no tensor'),
        ('linear.bias', torch.tensor(0.0), r'classifier has a bias of shape \(\)'),
    ],
)
def test_what_does_not_fit_is_named(name, tensor, message):
    weights = change(released('resnet20'), name, tensor)
    with pytest.raises(ValueError, match=message):
        convert_state_dict(weights, 'resnet20')


@pytest.mark.parametrize(
    'checkpoint', [{'state_dict': None}, {0: torch.zeros(1)}, {'state_dict': [1]}]
)
def test_what_holds_no_state_dict_is_told(checkpoint):
    with pytest.raises(CheckpointError, match='it holds no state dict'):
        convert_state_dict(checkpoint, 'resnet20')


def test_what_needs_no_conversion_is_told():
    with pytest.raises(ValueError, match='needs no conversion'):
        convert_state_dict({'backbone.conv1.weight': torch.zeros(1)}, 'resnet20')


def test_unknown_architecture_and_files_with_code(tmp_path):
    with pytest.raises(ValueError, match='arch must be one of'):
        convert_state_dict({}, 'resnet50')
    torch.save({'conv1.weight': print}, tmp_path / 'code.pth')
    with pytest.raises(ValueError, match='refused'):
        convert(tmp_path / 'code.pth', tmp_path / 'ours.pth', 'resnet20')
    assert not (tmp_path / 'ours.pth').exists()


def test_converted_files_are_sealed(tmp_path):
    torch.save(released('resnet20'), tmp_path / 'theirs.pth')
    convert(tmp_path / 'theirs.pth', tmp_path / 'ours.pth', 'resnet20')
    data = bytearray((tmp_path / 'ours.pth').read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / 'ours.pth').write_bytes(data)
    with pytest.raises(ValueError, match='SHA-256'):
        load_checkpoint_file(str(tmp_path / 'ours.pth'))


def test_the_tool_for_irnet_offers_its_networks():
    ours = [
        arch for arch in ARCHITECTURES if 'adabin' not in arch and 'react' not in arch
    ]
    assert f'choices={ours}' in (ROOT / 'tools/convert/irnet_official.py').read_text()
