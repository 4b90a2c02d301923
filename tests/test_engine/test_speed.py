import copy

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn
from torch._dynamo.testing import CompileCounter

from mmirnet.binary import set_ede
from mmirnet.engine.speed import compile_model

init_default_scope('mmpretrain')


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
