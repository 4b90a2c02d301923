import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn
from torch._dynamo.testing import CompileCounter

from mmirnet.engine import PackedPreciseBNHook
from mmirnet.engine.precise_bn import fold, folded, unfold


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.bn1 = nn.BatchNorm2d(6)
        self.act = nn.ReLU()
        self.fc = nn.Linear(6, 4)
        self.bn2 = nn.BatchNorm1d(4)

    def forward(self, x, mode='tensor'):
        return self.bn2(self.fc(self.act(self.bn1(self.conv(x))).mean((2, 3))))


@pytest.fixture
def net():
    net = Net()
    for bn in (net.bn1, net.bn2):
        bn.load_state_dict(fold(torch.randn(2, bn.num_features)))
    return net


def batches(n=4):
    return [dict(x=3 + 2 * torch.randn(16, 3, 8, 8)) for _ in range(n)]


def test_fold_evaluates_to_slope_and_offset_bit_for_bit():
    slope, offset = affine = torch.randn(2, 500)
    bn = nn.BatchNorm1d(500).eval()
    bn.load_state_dict(fold(affine))
    x = 10 * torch.randn(4, 500)
    zero, one = torch.zeros(500), torch.ones(500)
    # torch 2.11 refuses an eps of 0.
    wanted = nn.functional.batch_norm(x, zero, one, slope, offset, eps=1e-38)
    assert torch.equal(bn(x), wanted)


def test_unfold_keeps_the_function_and_adds_the_statistics(net):
    data = batches()
    x = data[0]['x']
    wanted = net.eval()(x)
    net.train()
    unfold(net, data)
    assert net.training
    torch.testing.assert_close(net.eval()(x), wanted, atol=1e-4, rtol=1e-4)

    maps = net.conv(torch.cat([batch['x'] for batch in data]))
    mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(net.bn1.running_mean, mean)
    torch.testing.assert_close(net.bn1.running_var, variance)
    # In training the batch's own statistics give nearly the same.
    everything = torch.cat([batch['x'] for batch in data])
    wanted = net(everything)
    torch.testing.assert_close(net.train()(everything), wanted, atol=1e-3, rtol=1e-3)


def test_norms_with_another_epsilon_are_measured_behind_the_packed_ones(net):
    """fold() knows torch's epsilon alone."""
    data, exact = batches(), copy.deepcopy(net)
    net.bn1.eps = net.bn2.eps = 0.5
    for one in (exact, net):
        unfold(one, data)
    for name, value in exact.bn2.named_buffers():
        torch.testing.assert_close(net.bn2.get_buffer(name), value)
    x = data[0]['x']
    torch.testing.assert_close(net.eval()(x), exact.eval()(x), atol=1e-4, rtol=1e-4)


def test_others_are_left_alone(net):
    net.bn1 = nn.BatchNorm2d(6)
    before = {k: v.clone() for k, v in net.bn1.state_dict().items()}
    assert folded(net) == [net.bn2]
    unfold(net, batches(1))
    assert folded(net) == []
    for name, value in net.bn1.state_dict().items():
        assert torch.equal(value, before[name])


def test_hook_takes_as_many_batches_as_it_says(net, caplog):
    runner = SimpleNamespace(
        model=net, train_dataloader=iter(batches(3)), logger=logging.getLogger()
    )
    with caplog.at_level(logging.INFO):
        PackedPreciseBNHook(batches=2).before_train(runner)
        PackedPreciseBNHook(batches=2).before_train(runner)  # nothing left to do
    assert len(list(runner.train_dataloader)) == 1
    assert [r.message.split(':')[0] for r in caplog.records] == [
        '2 batch norms from a packed file'
    ]


def test_compiled_graphs_know_nothing_of_it(net):
    graphs = CompileCounter()
    net.compile(backend=graphs)
    unfold(net, batches(1))
    assert graphs.frame_count == 0
    net.eval()(batches(1)[0]['x'])
    assert graphs.frame_count == 1
