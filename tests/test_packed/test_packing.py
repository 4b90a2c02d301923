import numpy as np
import pytest
import torch
from networks import mixed_network, warm_up
from packed_models import ARCHITECTURES, classifier
from torch import nn

from mmirnet.binary import IRConv2d, ReActConv2d
from mmirnet.errors import ConfigError, UnsupportedModelError
from mmirnet.packed import pack, read, unpack, write
from mmirnet.runtime import Session, load


def test_packed_file_gives_the_same_answers(packed_model, tmp_path):
    model, packed, size = packed_model
    path = tmp_path / 'model.safetensors'
    write(packed, path)
    x = torch.randn(8, 3, size, size)
    with torch.no_grad():
        wanted = model(x)
        assert torch.equal(unpack(path)(x), wanted)
    got = load(path, threads=2).predict(x)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert (got.argmax(1) == wanted.numpy().argmax(1)).all()


def test_a_bit_a_weight(packed_model):
    """Signs take a bit, an exponent a byte for each channel, no more."""
    model, packed, _ = packed_model
    for name, layer in model.named_modules():
        if isinstance(layer, IRConv2d):
            signs = packed.tensors[f'{name}.signs']
            assert 0 <= 64 * signs.size - layer.weight.numel() < 64 * len(signs)
            assert packed.tensors[f'{name}.exponent'].dtype == np.int8


def test_file_sizes(tmp_path):
    sizes = {}
    for name, width in (('resnet20-bireal', 10), ('resnet18-bireal', 1000)):
        backbone, features, size = ARCHITECTURES[name]
        model = classifier(backbone, features)
        model.head.fc = nn.Linear(features, width)
        path = tmp_path / name
        write(pack(model, (size, size)), path)
        sizes[name] = path.stat().st_size
    assert sizes['resnet20-bireal'] <= 60_000
    assert sizes['resnet18-bireal'] <= 4_300_000


@pytest.mark.parametrize('dtype', ['fp16', 'bf16'])
def test_reduced_float_types(dtype, tmp_path):
    model = warm_up(mixed_network(), 3, 9, 9)
    full, reduced = (pack(model, (9, 9), float_dtype=t) for t in ('fp32', dtype))
    path = tmp_path / 'model.safetensors'
    write(reduced, path)
    again = read(path)
    weight = getattr(torch, {'fp16': 'float16', 'bf16': 'bfloat16'}[dtype])
    rounded = model[0].weight.detach().to(weight).float().numpy()
    np.testing.assert_array_equal(again.tensors['0.weight'], rounded)
    np.testing.assert_array_equal(again.tensors['1.affine'], full.tensors['1.affine'])
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        wanted = unpack(path)(x)
    np.testing.assert_allclose(Session(again, 1).predict(x), wanted, atol=1e-4)


def test_normalisation_and_classes_travel(tmp_path):
    backbone, width, size = ARCHITECTURES['resnet20-bireal']
    model = classifier(backbone, width)
    names = [f'class {i}' for i in range(10)]
    path = tmp_path / 'model.safetensors'
    write(pack(model, (size, size), names), path)
    engine = load(path)
    assert engine.input['mean'] == [120, 110, 100]
    assert engine.input['std'] == [60, 50, 40]
    assert engine.classes == names
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    data = dict(inputs=list(torch.from_numpy(images).permute(0, 3, 1, 2)))
    x = model.data_preprocessor(data)['inputs']
    np.testing.assert_array_equal(engine.predict(images), engine.predict(x))


@pytest.mark.parametrize(
    ('head', 'scores'),
    [
        ('BNLinearClsHead', dict(scores='softmax', threshold=None, topk=None)),
        ('MultiLabelLinearClsHead', dict(scores='sigmoid', threshold=0.5, topk=None)),
    ],
)
def test_scores_are_those_of_the_head(head, scores):
    backbone, width, _ = ARCHITECTURES['resnet20-bireal']
    assert pack(classifier(backbone, width, head=head), (8, 8)).head == scores


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(input_size=224), r'input_size must be .*, not 224'),
        (dict(input_size=(8,)), 'input_size must be'),
        (dict(input_size=(8, 8, 8)), 'input_size must be'),
        (dict(input_size=(0, 8)), 'input_size must be'),
        (dict(input_size=(-1, 8)), 'input_size must be'),
        (dict(input_size=(10**7, 10**7)), 'input_size must be'),
        (dict(input_size=('8', '8')), 'input_size must be'),
        (dict(input_size=(8.0, 8.0)), 'input_size must be'),
        (dict(float_dtype='int8'), r"float_dtype must be one of .*'bf16'.*'int8'"),
        (dict(classes=['a']), '5 logits do not fit the classes'),
        (dict(classes=range(5)), 'classes: must be a list of names'),
    ],
)
def test_arguments_that_cannot_be_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        pack(mixed_network().eval(), **{'input_size': (9, 9), **arguments})


def test_arguments_of_other_kinds():
    network = mixed_network().eval()
    for names in (tuple('abcde'), np.array(list('abcde'))):
        packed = pack(network, np.array([9, 9]), names)
        assert packed.classes == list('abcde')
        assert type(packed.classes[0]) is str
        assert packed.shapes['input'] == (3, 9, 9)


def test_a_weight_that_a_reduced_type_does_not_hold_is_named():
    network = mixed_network().eval()
    first = next(m for m in network.modules() if type(m) is nn.Conv2d)
    first.weight.data[0] = 1e10
    with pytest.raises(UnsupportedModelError, match=r'1e\+10 is more than fp16 holds'):
        pack(network, (9, 9), float_dtype='fp16')
    pack(network, (9, 9), float_dtype='bf16')


@pytest.mark.parametrize(
    'images', [torch.zeros(1, 3, 18, 18), torch.zeros(1, 3, 9, 9, dtype=torch.uint8)]
)
def test_the_simulation_refuses_other_images(images, tmp_path):
    write(pack(mixed_network().eval(), (9, 9)), tmp_path / 'a.safetensors')
    with pytest.raises(ConfigError, match=r'floats of shape \(N, 3, 9, 9\), not torch'):
        unpack(tmp_path / 'a.safetensors')(images)


def test_packing_leaves_the_model_as_it_was():
    model = mixed_network().train()
    next(model.children()).eval()  # a frozen part
    modes = [module.training for module in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    pack(model, (9, 9))
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_compiled_models_pack():
    model = mixed_network()
    plain = pack(model, (9, 9))
    model.compile()
    next(model.children()).compile()
    assert pack(model, (9, 9)).graph == plain.graph


def network_with(layer):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        layer,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


@pytest.mark.parametrize(
    'layer',
    [
        nn.GELU(),
        nn.GroupNorm(2, 8),
        nn.MaxPool2d(2, dilation=2),
        ReActConv2d(8, 8, 3, binarize_weight=False, bias=False),
        nn.BatchNorm2d(8, track_running_stats=False),
    ],
    ids=str,
)
def test_unsupported_layers_are_named(layer):
    with pytest.raises(UnsupportedModelError, match=r'cannot pack (model\.)?1'):
        pack(network_with(layer), (9, 9))
