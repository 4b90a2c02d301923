"""Each structure against a transcription of the released one, layer for layer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from few_blocks import few_blocks
from mmengine.config import Config
from mmpretrain.registry import MODELS
from small_run import ROOT
from torch import nn

import mmirnet  # noqa: F401
from mmirnet.analysis.cost.measure import saved_bytes
from mmirnet.binary import IRConv2d, binary_layers, ede, set_ede, set_schedule
from mmirnet.errors import ConfigError
from mmirnet.models import BiRealBlock, IRResNet, IRResNet_CIFAR, IRVGGSmall, Maxout
from mmirnet.models.blocks import build_shortcut

W1A32 = dict(
    conv_cfg=dict(type='IRConv2d', binarize_input=False), act_cfg=dict(type='ReLU')
)
BACKBONES = {
    'resnet18': lambda **kw: IRResNet(depth=18, **kw),
    'resnet34': lambda **kw: IRResNet(depth=34, **kw),
    'resnet20_cifar': lambda **kw: IRResNet_CIFAR(depth=20, **kw),
    'resnet18_cifar': lambda **kw: IRResNet_CIFAR(depth=18, **kw),
    'vgg-small': IRVGGSmall,
}


def bireal_block(x, block, act, shortcut):
    x = act(block.bn1(block.conv1(x)) + shortcut(x))
    return act(block.bn2(block.conv2(x)) + x)


def normal_block(x, block, act, shortcut):
    y = block.bn2(block.conv2(act(block.bn1(block.conv1(x)))))
    return act(y + shortcut(x))


def option_a(block, planes):
    def shortcut(x):
        if block.downsample is None:
            return x
        x = x[:, :, ::2, ::2]
        return F.pad(x, (0, 0, 0, 0, planes // 4, planes // 4), 'constant', 0)

    return shortcut


def option_b(block, planes):
    def shortcut(x):
        if block.downsample is None:
            return x
        conv, bn = block.downsample
        assert type(conv) is nn.Conv2d and conv.kernel_size == (1, 1)
        return bn(conv(x))

    return shortcut


def released_resnet(net, x, act, block, option, stem):
    """The released forward pass over our layers, by their released names."""
    x = stem(net, x)
    for i, planes in enumerate(net_channels(net)):
        for b in getattr(net, f'layer{i + 1}'):
            x = block(x, b, act, option(b, planes))
    return x


def net_channels(net):
    layers = [getattr(net, f'layer{i + 1}') for i in range(net.num_stages)]
    return [layer[0].conv1.out_channels for layer in layers]


def stem_act(act):
    return lambda net, x: act(net.bn1(net.conv1(x)))


def stem_bare(net, x):
    return net.bn1(net.conv1(x))


def stem_pool(act):
    return lambda net, x: F.max_pool2d(act(net.bn1(net.conv1(x))), 3, 2, 1)


def released_vgg(net, x):
    def conv_bn_act(x, layer, pool):
        x = layer.conv(x)
        return F.hardtanh(layer.bn(F.max_pool2d(x, 2) if pool else x))

    x = conv_bn_act(x, net.conv0, False)
    x = conv_bn_act(x, net.layer1[0], True)
    x = conv_bn_act(x, net.layer2[0], False)
    x = conv_bn_act(x, net.layer2[1], True)
    x = conv_bn_act(x, net.layer3[0], False)
    return conv_bn_act(x, net.layer3[1], True)


RELEASED = {
    'resnet20 1/1': (
        lambda: IRResNet_CIFAR(depth=20),
        lambda net, x: released_resnet(
            net, x, F.hardtanh, bireal_block, option_a, stem_act(F.hardtanh)
        ),
    ),
    'resnet20 normal 1/1': (
        lambda: IRResNet_CIFAR(depth=20, structure='normal'),
        lambda net, x: released_resnet(
            net, x, F.hardtanh, normal_block, option_a, stem_act(F.hardtanh)
        ),
    ),
    'resnet20 1/32': (
        lambda: IRResNet_CIFAR(
            depth=20, structure='normal', stem_act=False, **copy.deepcopy(W1A32)
        ),
        # the released code has one more ReLU behind the last stage, where all
        # numbers are >= 0 already
        lambda net, x: F.relu(
            released_resnet(net, x, F.relu, normal_block, option_a, stem_bare)
        ),
    ),
    'resnet18 cifar 1/1': (
        lambda: IRResNet_CIFAR(depth=18, structure='normal', stem_act=False),
        lambda net, x: released_resnet(
            net, x, F.hardtanh, normal_block, option_b, stem_bare
        ),
    ),
    'vgg-small': (IRVGGSmall, released_vgg),
    'resnet18 imagenet 1/1': (
        lambda: IRResNet(depth=18),
        lambda net, x: released_resnet(
            net, x, F.hardtanh, bireal_block, option_b, stem_pool(F.hardtanh)
        ),
    ),
    'resnet34 imagenet 1/32': (
        lambda: IRResNet(depth=34, structure='normal', **copy.deepcopy(W1A32)),
        lambda net, x: released_resnet(
            net, x, F.relu, normal_block, option_b, stem_pool(F.relu)
        ),
    ),
}


@pytest.mark.parametrize('name', RELEASED)
def test_equals_the_released_structure(name):
    torch.manual_seed(0)
    build, released = RELEASED[name]
    net = build()
    net.init_weights()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight, 0.8, 0.3)
            nn.init.normal_(m.bias, 0, 0.3)
    set_ede(net, 1.0)
    twin = copy.deepcopy(net)
    x = torch.randn(2, 3, 64, 64) if 'imagenet' in name else torch.randn(2, 3, 32, 32)
    ours, theirs = net(x)[-1], released(twin, x)
    assert torch.equal(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for (n, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-6), n
    for p, q in zip(net.buffers(), twin.buffers(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize('depth', [18, 20])
def test_adabins_resnets_have_maxout_after_each_sum_and_the_stem(depth):
    def block(x, b, act, shortcut):
        x = b.act1(b.bn1(b.conv1(x)) + shortcut(x))
        return b.act2(b.bn2(b.conv2(x)) + x)

    config = ROOT / f'configs/adabin/adabin_resnet{depth}_bireal_cifar10.py'
    net = MODELS.build(Config.fromfile(config).model.backbone).eval()
    maxout = [m for m in net.modules() if isinstance(m, Maxout)]
    for m in maxout:  # other slopes at each place
        for slope in m.parameters():
            nn.init.normal_(slope)
    x = torch.randn(1, 3, 32, 32)
    stem = stem_act(net.act)
    assert torch.equal(net(x)[-1], released_resnet(net, x, None, block, option_a, stem))
    assert len(maxout) == depth - 1


@pytest.mark.parametrize(
    'name, blocks, binary, params',
    [
        ('resnet20_cifar', (3, 3, 3), 18, 269_072),
        ('resnet18_cifar', (2, 2, 2, 2), 16, 11_168_832),
        ('vgg-small', (1, 2, 2), 5, 4_578_176),
        ('resnet18', (2, 2, 2, 2), 16, 11_176_512),
        ('resnet34', (3, 4, 6, 3), 32, 21_284_672),
    ],
)
def test_size(name, blocks, binary, params):
    net = BACKBONES[name]()
    stages = [getattr(net, f'layer{i + 1}') for i in range(net.num_stages)]
    assert tuple(len(stage) for stage in stages) == blocks
    assert len(list(binary_layers(net))) == binary
    assert sum(p.numel() for p in net.parameters()) == params


@pytest.mark.parametrize(
    'name, channels, strides',
    [
        ('resnet20_cifar', (16, 32, 64), (1, 2, 4)),
        ('resnet18_cifar', (64, 128, 256, 512), (1, 2, 4, 8)),
        ('vgg-small', (128, 256, 512), (2, 4, 8)),
        ('resnet18', (64, 128, 256, 512), (4, 8, 16, 32)),
        ('resnet34', (64, 128, 256, 512), (4, 8, 16, 32)),
    ],
)
def test_feature_maps(name, channels, strides):
    net = BACKBONES[name](out_indices=tuple(range(len(channels)))).eval()
    shapes = [tuple(f.shape) for f in net(torch.randn(1, 3, 64, 96))]
    assert shapes == [
        (1, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)
    ]
    some = BACKBONES[name](out_indices=(0, -1)).eval()
    some.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 32, 32)
    for a, b in zip(some(x), (net(x)[0], net(x)[-1]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('name', ['resnet18', 'resnet18_cifar'])
def test_downsample_is_full_precision_unless_asked(name):
    def kinds(**kwargs):
        net = BACKBONES[name](**kwargs)
        return {
            type(m) for m in net.modules() if getattr(m, 'kernel_size', 0) == (1, 1)
        }

    assert kinds() == {nn.Conv2d}
    assert kinds(downsample_conv_cfg=dict(type='IRConv2d')) == {IRConv2d}


@pytest.mark.parametrize('name', ['resnet20_cifar', 'vgg-small', 'resnet18'])
class TestTrainingArguments:
    def test_frozen_stages(self, name):
        net = BACKBONES[name](frozen_stages=1)
        net.train()
        frozen = [*net.stem_modules(), net.layer1]
        assert not any(p.requires_grad for m in frozen for p in m.parameters())
        assert not any(m.training for m in frozen)
        assert all(p.requires_grad for p in net.layer2.parameters())
        assert net.layer2.training

    def test_norm_eval(self, name):
        net = BACKBONES[name](norm_eval=True)
        net.train()
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and not any(m.training for m in norms)
        assert net.layer2.training

    def test_with_cp_changes_nothing_but_memory(self, name):
        plain = BACKBONES[name]()
        cp = BACKBONES[name](with_cp=True)
        cp.load_state_dict(plain.state_dict())
        x = torch.randn(2, 3, 32, 32)
        saved = {}
        for key, net in (('plain', plain), ('cp', cp)):
            set_ede(net, 1.0)
            kept = []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda a, kept=kept: kept.append(a.numel()) or a, lambda a: a
            ):
                y = net(x)[-1]
            saved[key] = sum(kept)
            y.square().sum().backward()
        for p, q in zip(plain.parameters(), cp.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-5)
        # Statistics too have seen the batch once.
        for p, q in zip(plain.buffers(), cp.buffers(), strict=True):
            assert torch.allclose(p, q, rtol=1e-5)
        assert saved['cp'] < saved['plain']

    @pytest.mark.parametrize(
        'kwargs, message',
        [
            (dict(out_indices=(7,)), r'out_indices must lie in -\d\.\.\d .*\(7,\)'),
            (dict(frozen_stages=9), r'frozen_stages must lie in -1\.\.\d, got 9'),
            (dict(out_indices=(2, -2, 2)), r'names a stage twice: \(2, -2, 2\)'),
            (dict(out_indices=2), 'must be a sequence of stages, got 2'),
            (dict(out_indices=()), 'must name one stage at least'),
        ],
    )
    def test_refuses(self, name, kwargs, message):
        with pytest.raises(ValueError, match=message):
            BACKBONES[name](**kwargs)


@pytest.mark.parametrize('backbone', [IRResNet, IRResNet_CIFAR])
@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(depth=50), r'depth must be one of \[.*18.*\], got 50'),
        (
            dict(depth=18, structure='real'),
            r"structure must be one of .*'bireal'.*'real'",
        ),
    ],
)
def test_unknown_choice(backbone, kwargs, message):
    with pytest.raises(ValueError, match=message):
        backbone(**kwargs)


@pytest.mark.parametrize(
    'name, std',
    [
        ('resnet20_cifar', lambda w: (2 / w[0].numel()) ** 0.5),
        ('vgg-small', lambda w: (2 / (w.shape[0] * w[0, 0].numel())) ** 0.5),
        ('resnet34', lambda w: (2 / (w.shape[0] * w[0, 0].numel())) ** 0.5),
        # torch's own: uniform within 1/sqrt(fan in)
        ('resnet18_cifar', lambda w: (1 / 3 / w[0].numel()) ** 0.5),
    ],
)
def test_initialisation(name, std):
    net = BACKBONES[name]()
    net.init_weights()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            w = module.weight
            assert w.std().item() == pytest.approx(std(w), rel=0.05)


@pytest.mark.parametrize('name', BACKBONES)
def test_compiles_to_one_graph(name):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    with few_blocks():
        net = BACKBONES[name]()
    compiled = torch.compile(net, fullgraph=True, backend=counter)
    for progress in (0, 0.5):
        set_ede(net, *ede(progress))
        compiled(torch.randn(2, 3, 32, 32))[-1].sum().backward()
    assert counter.frame_count == 1


@pytest.mark.parametrize('compiled', [False, True])
def test_training_keeps_no_more_than_in_full_precision(compiled):
    def blocks(conv_cfg):
        options = dict(
            stride=1,
            downsample=None,
            conv_cfg=conv_cfg,
            norm_cfg=dict(type='BN'),
            act_cfg=dict(type='Hardtanh'),
        )
        return nn.Sequential(*(BiRealBlock(16, 16, **options) for _ in range(2)))

    binary, full = blocks(dict(type='IRConv2d')), blocks(None)
    x = torch.randn(4, 16, 16, 16)
    if compiled:
        # As inductor decides what to keep, without its code for the CPU.
        binary.compile(backend='aot_eager_decomp_partition')
        binary(x).sum().backward()
    kept, allowed = (
        saved_bytes(lambda n=n: n(x), n.parameters()) for n in (binary, full)
    )
    assert kept < 1.1 * allowed


@pytest.mark.parametrize(
    'cfg',
    [
        dict(type='mmpretrain.ResNet', depth=18),
        dict(type='mmpretrain.VGG', depth=11),
        dict(type='mmpretrain.MobileNetV2'),  # groups
    ],
    ids=lambda cfg: cfg['type'],
)
def test_conv_cfg_makes_mmpretrain_models_binary(cfg):
    net = MODELS.build(dict(conv_cfg=dict(type='IRConv2d'), **cfg))
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    binary = [m for m in convs if isinstance(m, IRConv2d)]
    assert len(binary) == len(convs) > 5
    if 'Mobile' in cfg['type']:
        assert any(m.groups > 1 for m in binary)
    out = net(torch.randn(2, 3, 32, 32))
    sum(f.sum() for f in out).backward()
    assert all(m.weight.grad.isfinite().all() for m in binary)


def test_conv_module():
    from mmcv.cnn import ConvModule

    module = ConvModule(
        4,
        8,
        3,
        conv_cfg=dict(type='IRConv2d', binarize_input=False),
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='Hardtanh'),
    )
    assert isinstance(module.conv, IRConv2d)
    assert module(torch.randn(2, 4, 8, 8)).abs().max() <= 1


@pytest.mark.parametrize('name', BACKBONES)
def test_activations_can_be_left_out(name):
    net = BACKBONES[name](act_cfg=None).eval()
    assert not any(isinstance(module, nn.Hardtanh) for module in net.modules())
    assert net(torch.randn(1, 3, 64, 64))[0].abs().max() > 1


@pytest.mark.parametrize('structure', ['bireal', 'normal'])
@pytest.mark.parametrize('per_channel', [False, True])
@pytest.mark.parametrize('name', BACKBONES)
def test_an_activation_with_weights_is_one_module_a_place(name, structure, per_channel):
    act_cfg = dict(type='PReLU', init=0.3)
    if per_channel:
        act_cfg['num_parameters'] = 64  # whatever the number
    options = dict(act_cfg=act_cfg, norm_cfg=dict(type='BN'), frozen_stages=1)
    net = BACKBONES[name](
        **options | ({} if 'vgg' in name else {'structure': structure})
    )
    calls, widths = [], {}

    def see(module, args, out):
        calls.append(module)
        widths[module] = out.shape[1]

    for module in net.modules():
        if isinstance(module, nn.PReLU):
            module.register_forward_hook(see)
    net.eval()(torch.randn(1, 3, 32, 32))
    assert len(set(calls)) == len(calls) > 5
    assert set(calls) == {m for m in net.modules() if isinstance(m, nn.PReLU)}
    for module, width in widths.items():
        assert module.num_parameters == (width if per_channel else 1)
    assert not calls[0].weight.requires_grad  # of the stem, which is frozen
    assert calls[-1].weight.requires_grad


@pytest.mark.parametrize('name', BACKBONES)
def test_activations_without_weights_are_not_in_the_state_dict(name):
    assert not [key for key in BACKBONES[name]().state_dict() if 'act' in key]


def test_shortcuts_without_a_convolution_take_no_config():
    with pytest.raises(ValueError, match='shortcuts of ResNet-20 have no convolution'):
        IRResNet_CIFAR(depth=20, downsample_conv_cfg=dict(type='IRConv2d'))


def avg_pool(x):
    """2x2 means, by hand; of the pixels there are where the number is odd."""
    ones = torch.ones_like(x)
    x, ones = (F.pad(a, (0, x.shape[3] % 2, 0, x.shape[2] % 2)) for a in (x, ones))
    corners = [(slice(i, None, 2), slice(j, None, 2)) for i in (0, 1) for j in (0, 1)]
    return sum(x[:, :, i, j] for i, j in corners) / sum(
        ones[:, :, i, j] for i, j in corners
    )


def zero_channels(x, out):
    front = (out - x.shape[1]) // 2
    return F.pad(x, (0, 0, 0, 0, front, out - x.shape[1] - front))


def option_pad(block, planes):
    def shortcut(x):
        return (
            x if block.downsample is None else zero_channels(x[..., ::2, ::2], planes)
        )

    return shortcut


def option_avg_pad(block, planes):
    return lambda x: (
        x if block.downsample is None else zero_channels(avg_pool(x), planes)
    )


def option_avg_conv(block, planes):
    def shortcut(x):
        if block.downsample is None:
            return x
        _, conv, bn = block.downsample
        assert type(conv) is nn.Conv2d and conv.stride == (1, 1)
        return bn(F.conv2d(avg_pool(x), conv.weight))

    return shortcut


OPTIONS = {
    'pad': option_pad,
    'conv': option_b,
    'avg_pad': option_avg_pad,
    'avg_conv': option_avg_conv,
}
RESNETS = [name for name in BACKBONES if 'resnet' in name]


@pytest.mark.parametrize('size', [(32, 32), (37, 50)])
@pytest.mark.parametrize('shortcut', OPTIONS)
@pytest.mark.parametrize('name', ['resnet20_cifar', 'resnet18'])
def test_shortcuts_equal_their_formulas(name, shortcut, size):
    net = BACKBONES[name](
        shortcut=shortcut,
        stem_act=False,
        conv_cfg=None,
        act_cfg=dict(type='PReLU', init=0.3),
    )
    net = net.double().eval()
    x = torch.randn(2, 3, *size, dtype=torch.double)
    stem = stem_bare if 'cifar' in name else stem_pool(lambda x: x)
    expected = released_resnet(
        net,
        x,
        lambda x: F.leaky_relu(x, net.layer1[0].act1.weight.item()),
        bireal_block,
        OPTIONS[shortcut],
        stem,
    )
    torch.testing.assert_close(net(x)[-1], expected)


def reactnet_act(x, act):
    x = x + act.shift_in.view(-1, 1, 1)
    return F.prelu(x, act.weight) + act.shift_out.view(-1, 1, 1)


def adabin_act(x, act):
    positive, negative = (p.view(-1, 1, 1) for p in (act.positive, act.negative))
    return positive * F.relu(x) - negative * F.relu(-x)


#: Activation, its formula, and the shortcut of three recipes.
RECIPES = {
    'ReActNet': ('RPReLU', reactnet_act, 'avg_conv'),
    'AdaBin': ('Maxout', adabin_act, 'pad'),
    'ReCU': ('Hardtanh', lambda x, act: F.hardtanh(x), 'avg_pad'),
}


@pytest.mark.parametrize('size', [(8, 8), (7, 10), (1, 3)])
@pytest.mark.parametrize('channels', [(4, 8), (5, 12), (3, 3)])
@pytest.mark.parametrize('recipe', RECIPES)
def test_blocks_of_other_recipes_equal_their_formulas(recipe, channels, size):
    kind, act, shortcut = RECIPES[recipe]
    width, planes = channels
    options = dict(
        conv_cfg=dict(type='IRConv2d', binarize_input=False),
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type=kind),
    )
    downsample = build_shortcut(shortcut, width, planes, None, options['norm_cfg'])
    first = BiRealBlock(width, planes, 2, downsample, **options)
    net = nn.Sequential(first, BiRealBlock(planes, planes, 1, None, **options)).double()
    set_ede(net, 1.0)
    for p in net.parameters():
        nn.init.normal_(p)
    twin = copy.deepcopy(net)
    x = torch.randn(2, width, *size, dtype=torch.double)
    expected = x
    for block in twin:
        identity = OPTIONS[shortcut](block, planes)(expected)
        y = block.bn1(block.conv1(expected)) + identity
        expected = act(y, block.act1)
        y = block.bn2(block.conv2(expected)) + expected
        expected = act(y, block.act2)
    y = net(x)
    torch.testing.assert_close(y, expected)
    for out in (y, expected):
        out.square().mean().backward()
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


def recipe_block(recipe, **options):
    kind, _, shortcut = RECIPES[recipe]
    conv = 'ReActConv2d' if recipe == 'ReActNet' else f'{recipe}Conv2d'
    norm_cfg = dict(type='BN')
    downsample = build_shortcut(shortcut, 4, 8, None, norm_cfg)
    block = BiRealBlock(
        4,
        8,
        2,
        downsample,
        conv_cfg=dict(type=conv),
        norm_cfg=norm_cfg,
        act_cfg=dict(type=kind),
        **options,
    )
    for _, layer in binary_layers(block):
        if layer.schedule.numbers:
            set_schedule(block, layer.schedule.name, *layer.t_and_k.tolist())
    return block


@pytest.mark.parametrize('recipe', RECIPES)
def test_blocks_of_other_recipes_compile_and_are_recomputed(recipe):
    plain = recipe_block(recipe)
    x = torch.randn(2, 4, 6, 6)
    compiled, checkpointed = copy.deepcopy(plain), recipe_block(recipe, with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    compiled.compile(fullgraph=True, backend='aot_eager')
    results = []
    for block in (plain, compiled, checkpointed):
        inputs = x.clone().requires_grad_()
        y = block(inputs)
        y.square().sum().backward()
        results.append([y, inputs.grad, *(p.grad for p in block.parameters())])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('recipe', RECIPES)
def test_blocks_of_other_recipes_stay_in_half_precision(recipe):
    block = recipe_block(recipe)
    x = torch.randn(2, 4, 6, 6).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize('name', RESNETS)
def test_default_shortcuts_are_those_of_the_architecture(name):
    default = 'pad' if name == 'resnet20_cifar' else 'conv'
    for shortcut in OPTIONS:
        same = repr(BACKBONES[name](shortcut=shortcut)) == repr(BACKBONES[name]())
        assert same == (shortcut == default)


@pytest.mark.parametrize('name', RESNETS)
@pytest.mark.parametrize('shortcut', ['pad', 'avg_pad'])
def test_shortcuts_of_zero_channels_take_no_config(name, shortcut):
    message = rf"downsample_conv_cfg: .* no convolution \(shortcut='{shortcut}'\)"
    with pytest.raises(ConfigError, match=message):
        BACKBONES[name](shortcut=shortcut, downsample_conv_cfg=dict(type='Conv2d'))


@pytest.mark.parametrize('name', RESNETS)
@pytest.mark.parametrize('shortcut', ['conv', 'avg_conv'])
def test_shortcuts_with_a_convolution_take_a_config(name, shortcut):
    net = BACKBONES[name](shortcut=shortcut, downsample_conv_cfg=dict(type='IRConv2d'))
    wide = [m for m in net.modules() if getattr(m, 'kernel_size', 0) == (1, 1)]
    assert wide and all(isinstance(m, IRConv2d) for m in wide)


@pytest.mark.parametrize('shortcut', ['A', 'avg', '', True, ['pad'], 'Pad'])
@pytest.mark.parametrize('name', RESNETS)
def test_unknown_shortcuts_are_refused(name, shortcut):
    with pytest.raises(ConfigError, match=r"shortcut must be one of .*'avg_conv'"):
        BACKBONES[name](shortcut=shortcut)


@pytest.mark.parametrize('kind', ['RPReLU', 'Maxout'])
@pytest.mark.parametrize('name', BACKBONES)
def test_learned_activations_have_the_width_of_their_place(name, kind):
    net = BACKBONES[name](act_cfg=dict(type=kind))
    set_ede(net, 1.0)
    net(torch.randn(2, 3, 32, 32))[-1].sum().backward()
    acts = [m for m in net.modules() if type(m).__name__ == kind]
    plain = BACKBONES[name]()
    assert len(acts) == sum(type(m).__name__ == 'Hardtanh' for m in plain.modules())
    assert all(p.grad.any() for m in acts for p in m.parameters())


def test_a_stem_without_activation():
    net = IRResNet(depth=18, stem_act=False).eval()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(net.stem(x), stem_pool(lambda x: x)(net, x))


@pytest.mark.parametrize('momentum', [0.1, None])
def test_recomputed_blocks_count_a_batch_once(momentum):
    options = dict(
        stride=1,
        downsample=None,
        conv_cfg=dict(type='IRConv2d'),
        norm_cfg=dict(type='BN', momentum=momentum),
        act_cfg=dict(type='Hardtanh'),
    )
    block = BiRealBlock(4, 4, with_cp=True, **options)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    for batch in (1, 2):
        y = block(x)
        before = copy.deepcopy(dict(block.named_buffers()))
        y.sum().backward()
        for name, buffer in block.named_buffers():
            assert torch.equal(buffer, before[name]), name
        assert block.norm1.num_batches_tracked == batch
        assert block.norm1.momentum == momentum
    block.compile(backend='aot_eager')
    block(x).sum().backward()
