import copy
import zipfile

import pytest
import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import nn

from mmirnet.engine.weights import (
    check_checkpoint,
    fitting_weights,
    load_weights,
)
from mmirnet.errors import CheckpointError


class TestCheckCheckpoint:
    """On a network of two layers."""

    @pytest.fixture
    def model(self):
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    @pytest.mark.parametrize('wrap', [dict, lambda w: dict(state_dict=w, meta={})])
    @pytest.mark.parametrize('prefix', ['', 'module.'])
    def test_accepts_its_own(self, tmp_path, model, wrap, prefix):
        weights = {prefix + name: w for name, w in model.state_dict().items()}
        torch.save(wrap(weights), tmp_path / 'own.pth')
        check_checkpoint(str(tmp_path / 'own.pth'), model)

    @pytest.mark.parametrize(
        ('other', 'message'),
        [
            (nn.Linear(3, 4), '0 of 4 weights fit; 0.weight is missing in the file'),
            (
                nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)),
                r'2 of 4 .*1.weight is \(5, 4\) in the file and \(2, 4\) in the model',
            ),
            (
                nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)),
                '4 of 4 .*2.weight is .* and missing in the model',
            ),
        ],
    )
    def test_refuses_another_architecture(self, tmp_path, model, other, message):
        path = str(tmp_path / 'other.pth')
        torch.save(other.state_dict(), path)
        with pytest.raises(ValueError, match=message):
            check_checkpoint(path, model)

    def test_partial_needs_something_in_common(self, tmp_path, model):
        path = str(tmp_path / 'other.pth')
        torch.save(nn.Sequential(nn.Linear(3, 4)).state_dict(), path)
        check_checkpoint(path, model, partial=True)
        torch.save(nn.Linear(3, 4).state_dict(), path)
        with pytest.raises(ValueError, match='0 of 4 weights fit'):
            check_checkpoint(path, model, partial=True)

    @pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.9, 0.999])
    def test_refuses_a_truncated_file(self, tmp_path, model, share):
        path = tmp_path / 'cut.pth'
        torch.save(model.state_dict(), path)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match=r'cut\.pth (is|cannot)'):
            check_checkpoint(str(path), model)

    @pytest.mark.parametrize('content', [[1, 2], 'text', torch.zeros(3)])
    def test_refuses_what_holds_no_weights(self, tmp_path, model, content):
        path = str(tmp_path / 'list.pth')
        torch.save(content, path)
        with pytest.raises(ValueError, match=r'list\.pth holds no weights'):
            check_checkpoint(path, model)


@pytest.fixture(scope='module')
def classifier():
    """A small classifier with backbone, neck and head."""
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='IRResNet_CIFAR', depth=20),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=64),
        )
    )


def renamed(weights, change):
    return {change(name): w for name, w in weights.items()}


#: Files that hold the right weights, by what a user would call them.
FILES = {
    'state_dict': lambda w: dict(state_dict=w, meta={}),
    'model': lambda w: dict(model=w, epoch=3, optimizer=dict(state={0: w})),
    'net': lambda w: dict(net=w),
    'state_dict_ema': lambda w: dict(state_dict_ema=w),
    'nested': lambda w: dict(checkpoint=dict(model=dict(state_dict=w))),
    'compiled': lambda w: renamed(w, lambda n: f'_orig_mod.{n}'),
    'compiled inside': lambda w: renamed(
        w, lambda n: n.replace('backbone.', 'backbone._orig_mod.')
    ),
    'several GPUs, compiled': lambda w: dict(
        model=renamed(w, lambda n: f'module._orig_mod.{n}')
    ),
    'several GPUs': lambda w: dict(state_dict=renamed(w, lambda n: f'module.{n}')),
    'another wrapper': lambda w: dict(
        state_dict=renamed(w, lambda n: f'model.classifier.{n}')
    ),
    'without backbone': lambda w: renamed(w, lambda n: n.removeprefix('backbone.')),
    'without parts': lambda w: dict(
        net=renamed(w, lambda n: n.removeprefix('backbone.').removeprefix('head.'))
    ),
    'old batch norms': lambda w: {
        n: v for n, v in w.items() if 'num_batches_tracked' not in n
    },
    'beside the worse one': lambda w: dict(
        student=renamed(w, lambda n: f'x{n}'), teacher=w
    ),
}


@pytest.mark.parametrize('file', FILES)
def test_right_weights_are_found(tmp_path, classifier, file):
    path = str(tmp_path / 'file.pth')
    torch.save(FILES[file](classifier.state_dict()), path)
    model = copy.deepcopy(classifier)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7)
    load_weights(model, path)
    for name, weight in classifier.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name


def test_state_dict_comes_before_its_average(classifier):
    weights = classifier.state_dict()
    ema = {f'module.{n}': w + 1 for n, w in weights.items()} | {'steps': torch.ones(1)}
    found = fitting_weights(
        dict(ema_state_dict=ema, state_dict=weights), classifier, ''
    )
    assert torch.equal(found['backbone.conv1.weight'], weights['backbone.conv1.weight'])


@pytest.mark.parametrize(
    'content, message',
    [
        (dict(epoch=3, args='x'), r'f\.pth holds no weights, but epoch, args'),
        ({}, 'holds no weights, but nothing'),
        (
            dict(model={'stem.w': torch.ones(2), 'body.w': torch.ones(3)}),
            r"holds no weights of this model, but 2 tensors in \['model'\] such as "
            r'stem.w, body.w: 0 of \d+ weights fit',
        ),
        (
            {'backbone.conv1.weight': torch.ones(16, 3, 5, 5)},
            r'is of another architecture .* 0 of \d+ weights fit; '
            r'backbone.conv1.weight is \(16, 3, 5, 5\) in the file and \(16, 3, 3, 3\)',
        ),
    ],
)
@pytest.mark.parametrize('partial', [False, True])
def test_says_what_the_file_holds(tmp_path, classifier, content, message, partial):
    torch.save(content, tmp_path / 'f.pth')
    with pytest.raises(CheckpointError, match=message) as error:
        check_checkpoint(str(tmp_path / 'f.pth'), classifier, partial=partial)
    assert '\n' not in str(error.value)


def test_an_onnx_file_is_called_one(tmp_path, classifier):
    path = tmp_path / 'net.onnx'
    path.write_bytes(b'\x08\x0a\x12\x07pytorch')
    with pytest.raises(CheckpointError, match=r'net\.onnx is an ONNX model'):
        check_checkpoint(str(path), classifier)


def test_a_torchscript_file_is_called_one(tmp_path, classifier):
    path = str(tmp_path / 'net.pt')
    with zipfile.ZipFile(path, 'w') as archive:  # what torch.jit.save writes
        for name in ('data.pkl', 'constants.pkl', 'code/__torch__.py'):
            archive.writestr(f'net/{name}', b'')
    with pytest.raises(CheckpointError, match=r'net\.pt is a TorchScript model'):
        check_checkpoint(path, classifier)


class TestPretrained:
    """init_cfg=dict(type='Pretrained', ...) of a backbone."""

    def backbone(self, path, **options):
        init_cfg = dict(type='Pretrained', checkpoint=str(path), **options)
        model = MODELS.build(dict(type='IRResNet_CIFAR', depth=20, init_cfg=init_cfg))
        model.init_weights()
        return model

    @pytest.mark.parametrize('options', [{}, dict(prefix='backbone')])
    @pytest.mark.parametrize('file', ['state_dict', 'several GPUs', 'without backbone'])
    def test_takes_its_part(self, tmp_path, classifier, options, file):
        torch.save(FILES[file](classifier.state_dict()), tmp_path / 'f.pth')
        model = self.backbone(tmp_path / 'f.pth', **options)
        for name, weight in classifier.backbone.state_dict().items():
            assert torch.equal(weight, model.state_dict()[name]), name

    @pytest.mark.parametrize('options', [{}, dict(prefix='backbone')])
    def test_refuses_what_has_nothing_for_it(self, tmp_path, options):
        torch.save(nn.Linear(2, 2).state_dict(), tmp_path / 'f.pth')
        with pytest.raises(CheckpointError, match=r'f\.pth holds no weights of this'):
            self.backbone(tmp_path / 'f.pth', **options)

    def test_what_a_module_renames_itself_is_taken(self, tmp_path):
        class Renames(BaseModule):
            def __init__(self, path):
                super().__init__(dict(type='Pretrained', checkpoint=str(path)))
                self.new = nn.Linear(2, 2)
                self.register_load_state_dict_pre_hook(self.rename)

            @staticmethod
            def rename(module, state, prefix, *args):
                for name in list(state):
                    state[name.replace('old', 'new')] = state.pop(name)

        weights = {'old.weight': torch.ones(2, 2), 'old.bias': torch.ones(2)}
        torch.save(weights, tmp_path / 'f.pth')
        model = Renames(tmp_path / 'f.pth')
        model.init_weights()
        assert torch.equal(model.new.weight, weights['old.weight'])
