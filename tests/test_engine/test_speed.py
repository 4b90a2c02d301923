import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import nn
from torch._dynamo.testing import CompileCounter

from mmirnet.binary import set_ede
from mmirnet.engine import run
from mmirnet.engine.speed import allow_tf32, compile_model

init_default_scope('mmpretrain')
DIGITS = 'mmirnet::irnet/resnet20_bireal_digits.py'


def classifier():
    cfg = dict(type='ImageClassifier', backbone=dict(type='IRVGGSmall'))
    model = MODELS.build(cfg)
    set_ede(model, 1.0)
    return model


@pytest.fixture
def counter():
    torch._dynamo.reset()
    return CompileCounter()


class TestCompileModel:
    def test_two_graphs_are_enough(self, counter):
        model = classifier()
        compile_model(model, backend=counter)

        def step(n, train):
            model.train(train)
            with torch.set_grad_enabled(train):
                out = model(inputs=torch.randn(n, 3, 8, 8))[0]
            if train:
                out.sum().backward()

        for t in (0.1, 0.5):  # epochs
            set_ede(model, t)
            for n in (8, 8, 5):  # a smaller last batch
                step(n, train=True)
            assert counter.frame_count == (1 if t == 0.1 else 2)
            for n in (12, 12, 3):
                step(n, train=False)
            assert counter.frame_count == 2

    def test_is_the_same_network(self, counter):
        plain = classifier()
        compiled = copy.deepcopy(plain)
        compile_model(compiled, backend=counter)
        x = torch.randn(4, 3, 8, 8)
        assert torch.equal(compiled(x)[0], plain(x)[0])
        assert counter.frame_count == 1
        assert compiled.state_dict().keys() == plain.state_dict().keys()

    def test_copies_compute_with_their_own_weights(self, counter):
        model = classifier()
        compile_model(model, backend=counter)
        x = torch.randn(4, 3, 8, 8)
        before = model(x)[0]
        twin = copy.deepcopy(model)
        for p in model.parameters():
            nn.init.normal_(p)
        assert torch.equal(twin(x)[0], before)
        assert not torch.equal(model(x)[0], before)

    def test_needs_a_backbone(self):
        with pytest.raises(ValueError, match='a backbone, got Linear'):
            compile_model(nn.Linear(2, 2))


@pytest.fixture
def tf32():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize('allow', [True, False])
def test_tf32_is_what_the_config_says(allow, tf32):
    allow_tf32(allow)
    assert torch.backends.cudnn.allow_tf32 == allow
    assert torch.backends.cuda.matmul.allow_tf32 == allow


def train(tmp_path, name, **options):
    """Two epochs of three batches in memory, the last of them smaller."""
    options = {
        'in_memory': True,
        'train_dataloader.dataset.indices': 80,
        'train_dataloader.batch_size': 32,
        'val_dataloader.dataset.indices': 40,
        'train_cfg.max_epochs': 2,
        'default_hooks.logger.interval': 1,
        'log_level': 'WARNING',
        **options,
    }
    return run.train(DIGITS, work_dir=str(tmp_path / name), cfg_options=options)


@pytest.mark.parametrize('last', [False, True])
def test_resumes_exactly_in_memory(tmp_path, last):
    whole = train(tmp_path, 'whole', channels_last=last).model.state_dict()
    layout = torch.channels_last if last else torch.contiguous_format
    weight = whole['backbone.layer1.0.conv1.weight']
    assert weight.is_contiguous(memory_format=layout)
    saved = tmp_path / 'whole' / 'epoch_1.pth'
    again = train(
        tmp_path, 'again', load_from=str(saved), resume=True, channels_last=last
    )
    assert again.epoch == 2
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, whole[name]), name


def test_the_tools_compile_the_backbone_alone(tmp_path, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(Runner, '_maybe_compile', pytest.fail)
    graphs = torch._dynamo.utils.counters['stats']
    before = graphs['unique_graphs']
    train(tmp_path, 'run', compile=dict(backend='eager'))
    assert graphs['unique_graphs'] - before == 2  # training and evaluation
    written = Config.fromfile(tmp_path / 'run' / 'resnet20_bireal_digits.py')
    assert written.compile == dict(backend='eager')
