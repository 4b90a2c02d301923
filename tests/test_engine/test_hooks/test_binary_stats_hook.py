import json
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper
from tiny import TinyNet, tiny_runner
from torch import distributed, multiprocessing, nn

from mmirnet.binary import (
    IRConv2d,
    IRLinear,
    ReActConv2d,
    bit_entropy,
    input_statistics,
    log2_scales,
    weight_statistics,
)
from mmirnet.engine import BinaryStatsHook
from mmirnet.engine.hooks.binary_stats_hook import _average_over_ranks


class WatchedNet(TinyNet):
    """Keeps inputs, gradients and signs of its binary layer, step by step."""

    def __init__(self):
        super().__init__()
        self.inputs, self.grads, self.signs = [], [], [self.sign()]
        self.net[0].weight.register_hook(self.grads.append)

    def sign(self):
        return self.net[0].binary_weight().detach() > 0

    def train_step(self, data, optim_wrapper):
        self.inputs.append(data['inputs'])
        out = super().train_step(data, optim_wrapper)
        self.signs.append(self.sign())
        return out


def records(runner):
    """The hook's lines in scalars.json, by step."""
    path = next(Path(runner.log_dir).rglob('scalars.json'))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line['step']: line for line in lines if 'binary/flips' in line}


def train(folder, model=None, interval=1, **kwargs):
    hooks = [dict(type='EDEHook'), dict(type='BinaryStatsHook', interval=interval)]
    runner = tiny_runner(folder, hooks, model=model or WatchedNet(), **kwargs)
    runner.train()
    return runner


def test_a_resumed_run_counts_flips_from_the_last_record(tmp_path):
    """Records at iterations 5 and 10; checkpoints at 4, 8 and 12."""
    hook = dict(type='AtomicCheckpointHook', interval=1)
    options = dict(interval=5, default_hooks=dict(checkpoint=hook))
    whole = records(train(tmp_path / 'whole', **options))
    assert whole[10]['binary/flips'] > 0
    checkpoint = tmp_path / 'whole/epoch_2.pth'
    options.update(resume=True, load_from=str(checkpoint))
    again = records(train(tmp_path / 'again', **options))
    assert again[10] == whole[10]
    saved = torch.load(checkpoint)
    signs = saved['binary_stats']['net.0']  # 6 filters of 4 x 3 x 3, eight in a byte
    assert signs.shape == (27,)


def test_statistics_of_every_record(tmp_path):
    runner = train(tmp_path, interval=5)
    net = runner.model
    found = records(runner)
    assert sorted(found) == [5, 10]  # of 12
    flips = []
    for step, row in found.items():
        values = {k.removeprefix('binary/net.0/'): v for k, v in row.items()}
        flipped = net.signs[step] ^ net.signs[step - 5]
        flips.append(flipped.float().mean().item())
        assert values['flips'] == pytest.approx(flips[-1], rel=1e-5)
        grad = net.grads[step - 1].abs()
        variance = grad.var(correction=0).item()
        assert values['gradient_variance'] == pytest.approx(variance, rel=1e-3)
        positive = (net.inputs[step - 1] >= 0).float().mean((0, 2, 3))
        entropy = bit_entropy(positive).mean().item()
        assert values['input_entropy'] == pytest.approx(entropy, rel=1e-5)
        assert values['input_dead'] == 0
        t, k = net.seen[step - 1]
        curve = k * torch.tanh(t * net.inputs[step - 1])
        difference = net.inputs[step - 1].sign() - curve
        error = difference.square().mean().sqrt().item()
        assert values['input_error'] == pytest.approx(error, rel=1e-4)
        # A single layer is all there is.
        for name, value in values.items():
            if not name.startswith('binary/') and name != 'step':
                assert row[f'binary/{name}'] == value
    assert max(flips) > 0
    weight = weight_statistics(net.net[0])['entropy'].item()
    last = train(tmp_path / 'all', interval=12)
    assert records(last)[12]['binary/weight_entropy'] == pytest.approx(weight)


def test_nothing_is_left_behind(tmp_path):
    net = train(tmp_path, interval=5).model
    assert not net.net[0]._forward_pre_hooks
    assert len(net.net[0].weight._backward_hooks) == 1  # the test's own


def test_training_is_the_same_with_it(tmp_path):
    plain = tiny_runner(tmp_path / 'a', [dict(type='EDEHook')])
    plain.train()
    watched = tiny_runner(
        tmp_path / 'b', [dict(type='EDEHook'), dict(type='BinaryStatsHook', interval=1)]
    )
    watched.train()
    for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(a, b)


class TwoLayers(TinyNet):
    """A 1/1 and a frozen 1/32 layer of different sizes, with a dead channel."""

    def __init__(self):
        super().__init__()
        frozen = IRLinear(54, 8, binarize_input=False, scale=None)
        frozen.weight.data = torch.randn(8, 54).mul(2).exp()  # few far above the mean
        frozen.requires_grad_(False)
        self.net[3] = nn.Sequential(frozen, nn.Linear(8, 2))

    def forward(self, inputs, label, mode='tensor'):
        inputs = inputs.clone()
        inputs[:, 0] = 1
        return super().forward(inputs, label, mode)


def test_layers_are_weighted_by_their_size(tmp_path):
    runner = train(tmp_path, TwoLayers())
    row = records(runner)[12]
    conv, linear = 'binary/net.0/', 'binary/net.3.0/'
    assert row['binary/input_dead'] == row[conv + 'input_dead'] == 1 / 4
    assert row[linear + 'flips'] == 0
    missing = {'input_entropy', 'gradient_variance', 'log2_s/0'}
    assert not {linear + key for key in missing} & row.keys()
    shares = {k.removeprefix(conv): v for k, v in row.items() if conv + 'log2_s' in k}
    assert shares == {
        f'log2_s/{e}': pytest.approx(n / 6)
        for e, n in log2_scales(runner.model.net[0]).items()
    }
    assert (
        shares.items() <= {k.removeprefix('binary/'): v for k, v in row.items()}.items()
    )
    n, m = 4 * 9 * 6, 54 * 8
    for key, a, b in (
        ('flips', n, m),
        ('weight_factor', n, m),
        ('weight_entropy', 6, 8),
    ):
        mean = (a * row[conv + key] + b * row[linear + key]) / (a + b)
        assert row[f'binary/{key}'] == pytest.approx(mean, rel=1e-4)
    square = n * row[conv + 'weight_error'] ** 2 + m * row[linear + 'weight_error'] ** 2
    assert row['binary/weight_error'] ** 2 == pytest.approx(square / (n + m), rel=1e-4)


def test_the_log_has_the_overall_ones(tmp_path):
    runner = train(tmp_path, interval=6, log_level='INFO')
    text = next(Path(runner.log_dir).rglob('*.log')).read_text()
    lines = [line for line in text.splitlines() if 'Binary layers' in line]
    assert [line.split('iteration ')[1].split()[0] for line in lines] == ['6', '12']
    assert f'flips: {records(runner)[6]["binary/flips"]:.4g}' in lines[0]
    assert 'net.0' not in lines[0]


def test_compiled_layers_are_seen(tmp_path):
    net = WatchedNet()
    net.net.compile(backend='eager')
    row = records(train(tmp_path, net, interval=8))[8]
    positive = (net.inputs[7] >= 0).float().mean((0, 2, 3))
    entropy = bit_entropy(positive).mean().item()
    assert row['binary/input_entropy'] == pytest.approx(entropy, rel=1e-5)


def test_real_weights_have_no_scales(tmp_path):
    """As in the first of two steps."""
    model = TinyNet()
    model.net[0] = ReActConv2d(4, 6, 3, binarize_weight=False)
    runner = tiny_runner(
        tmp_path, [dict(type='BinaryStatsHook', interval=4)], model=model
    )
    runner.train()
    first = records(runner)[4]
    assert 'binary/weight_entropy' in first and 'binary/input_entropy' in first
    assert not [name for name in first if 'log2_s' in name]


class Scaled(OptimWrapper):
    """Doubles its loss scale in every step, as AmpOptimWrapper does in some."""

    def __init__(self, model):
        super().__init__(torch.optim.SGD(model.parameters(), 0.1))
        self.loss_scaler = torch.amp.GradScaler('cpu', 8.0, growth_interval=1)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward()

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()


def test_gradients_are_divided_by_the_scale_of_their_own_loss(tmp_path):
    found = []
    for kind in (Scaled, lambda model: OptimWrapper(Scaled(model).optimizer)):
        model = TinyNet()
        hooks = [dict(type='BinaryStatsHook', interval=3)]
        runner = tiny_runner(
            tmp_path / str(len(found)), hooks, model=model, optim_wrapper=kind(model)
        )
        runner.train()
        rows = records(runner).values()
        found.append([row['binary/gradient_variance'] for row in rows])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_network_without_binary_layers(tmp_path, monkeypatch):
    hooks = [dict(type='BinaryStatsHook', interval=1)]
    runner = tiny_runner(tmp_path, hooks, binary=False)
    warned = []
    monkeypatch.setattr(runner.logger, 'warning', warned.append)
    runner.train()
    text = 'BinaryStatsHook has nothing to record: the model has no binary layers'
    assert warned.count(text) == 1
    assert records(runner) == {}


@pytest.mark.parametrize('interval', [0, -1, '1', 1.5, None])
def test_the_interval_is_positive(interval):
    with pytest.raises(ValueError, match='positive interval'):
        BinaryStatsHook(interval)


def average(rank, folder):
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2
    )
    conv = IRConv2d(3, 2, 1)
    x = torch.full((1, 3, 2, 2), 2.0 * rank - 1)  # -1 on one, +1 on the other
    x[:, 0] = 1
    seen = dict(a=input_statistics(conv, x), b=dict(gradient=torch.tensor(2.0 + rank)))
    _average_over_ranks(seen)
    result = dict(
        positive=seen['a']['positive'].tolist(), g=seen['b']['gradient'].item()
    )
    Path(folder, f'{rank}.json').write_text(json.dumps(result))
    # The group is not destroyed: with torch 2.6, that may wait for the file of the
    # meeting, which the other rank has removed.


def test_ranks_have_the_same(tmp_path):
    """What is dead on each rank need not be dead on all."""
    multiprocessing.start_processes(
        average, (str(tmp_path),), nprocs=2, start_method='fork'
    )
    for rank in range(2):
        found = json.loads((tmp_path / f'{rank}.json').read_text())
        assert found == dict(positive=[1, 0.5, 0.5], g=2.5)
