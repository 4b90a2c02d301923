import numpy as np
import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint
from networks import mixed_network, warm_up
from packed_models import classifier
from small_run import small_config
from torch import nn

from mmirnet import apis
from mmirnet.apis.packing import pack_checkpoint
from mmirnet.binary import IRConv2d, binary_layers, libra_pb
from mmirnet.packed import PackedFileError, pack, unpack, write
from mmirnet.packed.latent import latent_weight, load_packed_checkpoint


@pytest.mark.parametrize('n', [3, 9, 64, 577])
@pytest.mark.parametrize('power', [0.01, 1, 3, 9])
def test_libra_pb_gives_signs_and_exponents_back(n, power):
    weight = torch.randn(64, n)
    weight = weight.sign() * weight.abs() ** power + 0.3 * torch.randn(64, 1)
    wanted, scale = libra_pb(weight)
    signs = torch.where(wanted >= 0, 1.0, -1.0)
    exponent = scale.log2().flatten()
    latent = latent_weight(signs, exponent)
    got, got_scale = libra_pb(latent)
    assert torch.equal(got >= 0, wanted >= 0)
    assert torch.equal(got_scale, scale)
    torch.testing.assert_close(latent.abs().mean(1), scale.flatten())
    # Without standardisation the latent weights' own size is the scale.
    assert torch.equal(libra_pb(latent, standardize=False)[1], scale)


def test_the_powers_above_reach_exponents_below_zero():
    weight = torch.randn(64, 64)
    scale = libra_pb(weight.sign() * weight.abs() ** 9)[1]
    assert scale.log2().min() <= -2


def test_balanced_filters_are_plus_and_minus_s():
    signs = torch.tensor([[1.0, -1, 1, -1, 1, -1]])
    assert torch.equal(latent_weight(signs, torch.tensor([0])), signs)


def test_a_filter_of_one_sign():
    ones = torch.ones(1, 9)
    weight, scale = libra_pb(latent_weight(ones, torch.tensor([0])))
    assert bool((weight >= 0).all()) and scale.item() == 1
    with pytest.raises(ValueError, match='filter 0 is -1 throughout'):
        latent_weight(-ones, torch.tensor([0]))


def heavy_tails(model):
    """Some channels with an exponent below zero, and one constant filter."""
    with torch.no_grad():
        for _, layer in binary_layers(model):
            layer.weight[::2] = layer.weight[::2] ** 9
            layer.weight[0] = 0.5
    return model


@pytest.mark.parametrize('name', ['mixed', 'resnet20', 'resnet18'])
def test_the_first_evaluation_is_that_of_the_packed_file(name, tmp_path):
    size = 9 if name == 'mixed' else 32
    build = {
        'mixed': mixed_network,
        'resnet20': lambda: classifier(dict(type='IRResNet_CIFAR', depth=20), 64),
        'resnet18': lambda: classifier(
            dict(type='IRResNet', depth=18, downsample_conv_cfg=dict(type='IRConv2d')),
            512,
        ),
    }[name]
    model = heavy_tails(build())
    if name != 'mixed':
        model.forward = lambda x: model.head(model.neck(model.backbone(x)))
    warm_up(model, 3, size, size)
    path = tmp_path / 'model.safetensors'
    packed = pack(model, (size, size))
    assert any(t.min() < 0 for n, t in packed.tensors.items() if 'exponent' in n)
    write(packed, path)

    other = build()
    state = load_packed_checkpoint(path)['state_dict']
    other.load_state_dict(state)
    other.eval()
    if name != 'mixed':
        other.forward = lambda x: other.head(other.neck(other.backbone(x)))
    x = torch.randn(4, 3, size, size)
    with torch.no_grad():
        assert torch.equal(other(x), unpack(path)(x))
    again = pack(other, (size, size))
    for key, tensor in packed.tensors.items():
        np.testing.assert_array_equal(again.tensors[key], tensor)


def test_pretrained_weights_of_a_part(tmp_path):
    model = classifier(dict(type='IRResNet_CIFAR', depth=20), 64)
    path = tmp_path / 'model.safetensors'
    write(pack(model, (32, 32), [str(i) for i in range(10)]), path)
    pretrained = dict(type='Pretrained', checkpoint=str(path), prefix='backbone')
    backbone = dict(type='IRResNet_CIFAR', depth=20, init_cfg=pretrained)
    other = classifier(backbone, 64)
    other.init_weights()
    weight = model.backbone.conv1.weight
    assert torch.equal(other.backbone.conv1.weight, weight)
    assert not torch.equal(other.head.fc.weight, model.head.fc.weight)
    checkpoint = load_checkpoint(BaseModule(), str(path))
    assert checkpoint['meta']['dataset_meta'] == {'classes': list('0123456789')}
    assert checkpoint['meta']['packed'].startswith('sha256:')


def test_a_file_that_libra_pb_never_gives_is_refused(tmp_path):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False),
        IRConv2d(4, 2, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 2),
    )
    packed = pack(model, (4, 4))
    packed.tensors['1.signs'] = np.zeros_like(packed.tensors['1.signs'])
    path = tmp_path / 'model.safetensors'
    write(packed, path)
    message = r'model\.safetensors: 1\.signs: filter 0 is -1 throughout'
    with pytest.raises(PackedFileError, match=message):
        load_packed_checkpoint(path)


def test_a_run_fine_tunes_a_packed_file(tmp_path):
    """Every weight moves by little, and the batch norms stay the functions they were.

    Without momentum they keep the statistics measured before the first step, so that
    slope and offset can be compared with the file's.
    """
    config = str(small_config(tmp_path / 'a'))
    options = {'train_cfg.max_epochs': 1}
    apis.train(config, work_dir=str(tmp_path / 'a'), cfg_options=options)
    packed = str(tmp_path / 'packed.safetensors')
    pack_checkpoint(config, str(tmp_path / 'a' / 'epoch_1.pth'), packed)

    options |= {
        'load_from': packed,
        'optim_wrapper.optimizer.lr': 1e-4,
        'model.backbone.norm_cfg': dict(type='BN', momentum=0.0),
    }
    config = str(small_config(tmp_path / 'b'))
    model = apis.train(config, work_dir=str(tmp_path / 'b'), cfg_options=options).model
    given = load_packed_checkpoint(packed)['state_dict']
    norms = dict(model.backbone.named_modules(prefix='backbone'))
    norms = {k: m for k, m in norms.items() if isinstance(m, nn.BatchNorm2d)}
    assert len(norms) == 19
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, given[name]), name
        if name.rpartition('.')[0] not in {*norms, 'head.bn'}:
            torch.testing.assert_close(parameter, given[name], atol=1e-3, rtol=0)
    for name, bn in norms.items():
        slope = bn.weight / (bn.running_var + bn.eps).sqrt()
        offset = bn.bias - bn.running_mean * slope
        for now, key in ((slope, 'weight'), (offset, 'bias')):
            before = given[f'{name}.{key}']
            torch.testing.assert_close(now, before, atol=1e-3, rtol=0)


def test_a_packed_file_cannot_be_resumed(tmp_path):
    config = small_config(tmp_path / 'd')
    with pytest.raises(ValueError, match=r'load_from=x\.safetensors'):
        apis.train(str(config), resume='x.safetensors')
