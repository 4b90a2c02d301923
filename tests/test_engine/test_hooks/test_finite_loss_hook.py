import copy
import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from tiny import Points, TinyNet, tiny_runner
from torch.utils._python_dispatch import TorchDispatchMode

from mmirnet.binary import BNNConv2d, IRConv2d, ReCUConv2d
from mmirnet.engine import FiniteLossHook
from mmirnet.errors import NonFiniteError

NAN, INF = math.nan, math.inf
HOOKS = [dict(type='FiniteLossHook'), dict(type='EDEHook')]


class DivergingNet(TinyNet):
    """Loses its loss in the sixth step, or a gradient under a loss that stays."""

    def __init__(self, value=1, gradient=False):
        super().__init__()
        self.value, self.gradient = value, gradient

    def forward(self, inputs, label, mode='tensor'):
        out = super().forward(inputs, label, mode)
        if mode == 'loss' and len(self.seen) == 6:
            out['loss'] = out['loss'] * self.value
            if self.gradient:  # of a root at zero
                out['loss'] += (self.net[3].bias * 0).sum().sqrt()
        return out


class Plant(Hook):
    """Puts a number into a tensor of the model at a point of training."""

    def __init__(self, when, tensor, value, priority='VERY_HIGH', iteration=6):
        self.tensor, self.value = tensor, value
        self.priority, self.iteration = priority, iteration
        setattr(self, when, self.plant)

    def plant(self, runner, *args, **kwargs):
        if runner.iter + 1 >= self.iteration:
            runner.model.state_dict()[self.tensor].view(-1)[0] = self.value


def stopped(folder, *hooks, **kwargs):
    """What the hook says; checkpoints are written every epoch."""
    runner = tiny_runner(
        folder,
        [*hooks, *HOOKS],
        default_hooks=dict(checkpoint=dict(type='AtomicCheckpointHook', interval=1)),
        **kwargs,
    )
    with pytest.raises(NonFiniteError) as error:
        runner.train()
    return str(error.value), runner


@pytest.mark.parametrize('value', [NAN, INF])
def test_a_lost_loss(tmp_path, value):
    message, runner = stopped(tmp_path, model=DivergingNet(value))
    assert message.startswith(
        f'the loss is {value}: weights, statistics and images were finite'
    )
    assert 'iteration 6 of epoch 2' in message
    assert "lr={'lr': [0.1]}" in message
    assert f't={10 ** (-1 + 2 / 3):.4f}'[:6] in message
    assert message.endswith('epoch_1.pth')
    assert len(runner.model.seen) == 6


@pytest.mark.parametrize('value', [NAN, INF])
@pytest.mark.parametrize(
    'tensor',
    ['net.0.weight', 'net.0.bias', 'net.1.weight', 'net.1.running_var', 'net.3.bias'],
)
class TestWeightsAndStatistics:
    def test_before_training(self, tmp_path, tensor, value):
        model = TinyNet()
        model.state_dict()[tensor].view(-1)[0] = value
        message, runner = stopped(tmp_path, model=model)
        assert message.startswith(f'{tensor} is not finite before training starts;')
        assert not runner.model.seen
        assert message.endswith('not there yet')

    def test_in_front_of_an_iteration(self, tmp_path, tensor, value):
        """It alone is named, though the step has spread it."""
        plant = Plant('before_train_iter', tensor, value)
        message, _ = stopped(tmp_path, plant)
        assert message.startswith(f'{tensor} is not finite')
        assert 'stopped at iteration 6 of epoch 2' in message
        assert message.endswith('epoch_1.pth')

    def test_after_the_last_iteration(self, tmp_path, tensor, value):
        plant = Plant('after_train_iter', tensor, value, 'LOWEST', iteration=12)
        message, _ = stopped(tmp_path, plant)
        assert message.startswith(f'{tensor} is not finite')
        assert 'stopped at iteration 12 of epoch 3' in message

    def test_no_checkpoint_is_written(self, tmp_path, tensor, value):
        plant = Plant('after_train_epoch', tensor, value, 'NORMAL', iteration=8)
        message, _ = stopped(tmp_path, plant)
        assert message.startswith(f'{tensor} is not finite, so no checkpoint is made')
        assert message.endswith('epoch_1.pth')
        assert [file.name for file in tmp_path.glob('*.pth')] == ['epoch_1.pth']
        assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_1.pth')


@pytest.mark.parametrize(
    'conv, numbers',
    [(IRConv2d, ', t=0.1, k=10;'), (ReCUConv2d, ', tau=0.85;'), (BNNConv2d, ';')],
)
def test_the_numbers_of_the_schedule_have_their_names(tmp_path, conv, numbers):
    model = TinyNet(conv=conv)
    model.net[0].weight.data[0] = NAN
    message, _ = stopped(tmp_path, model=model)
    assert f"lr={{'lr': [0.1]}}{numbers}" in message


def test_a_gradient_under_a_finite_loss(tmp_path):
    message, runner = stopped(tmp_path, model=DivergingNet(gradient=True))
    assert message.startswith('net.3.bias is not finite since the step of iteration 6')
    assert len(runner.model.seen) == 7


@pytest.mark.parametrize('value', [NAN, INF])
def test_an_image(tmp_path, value):
    data = Points()
    data.x[5, 0, 1, 1] = value
    loader = dict(
        batch_size=6,
        dataset=data,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    message, _ = stopped(tmp_path, train_dataloader=loader)
    # Even where a sign would make 1 of infinity.
    assert message.startswith("batch['inputs'] is not finite")
    assert 'iteration 1 of epoch 1' in message


def test_one_weight_of_a_vgg_small(tmp_path):
    """A sign must not hide it: nothing but the loss is looked at in this run."""
    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='IRVGGSmall'),
            neck=dict(type='FlattenNeck'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=8192),
        )
    )
    with torch.no_grad():
        model.backbone.layer2[0].conv.weight[3, 2, 1, 0] = NAN
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    loss = model.train()(torch.randn(2, 3, 32, 32), samples, mode='loss')['loss']
    assert loss.isnan()


class Masked(TinyNet):
    """Infinity may be meant."""

    def __init__(self):
        super().__init__()
        self.register_buffer('mask', torch.tensor([0.0, -INF]))
        self.empty = torch.nn.Parameter(torch.zeros(0))
        self.large = torch.nn.Parameter(torch.full((2,), 1e300, dtype=torch.double))


@pytest.mark.parametrize('model', [TinyNet, Masked])
def test_a_good_run_goes_on(tmp_path, model):
    runner = tiny_runner(tmp_path, HOOKS, model=model())
    runner.train()
    assert len(runner.model.seen) == 12


class Reads(TorchDispatchMode):
    """Counts what makes Python wait for the device."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        self.number += '_local_scalar_dense' in name or '_to_copy' in name
        return function(*args, **(kwargs or {}))


def test_reads_one_number_behind_the_loss(tmp_path):
    runner = tiny_runner(tmp_path)
    runner.message_hub.update_scalar('train/loss', 0.5)
    hook = FiniteLossHook()
    hook.before_train(runner)
    with Reads() as before:
        hook.before_train_iter(runner, 0)
    with Reads() as after:
        hook.after_train_iter(runner, 0)
    assert (before.number, after.number) == (0, 1)


def test_weights_are_not_changed(tmp_path):
    runner = tiny_runner(tmp_path)
    before = copy.deepcopy(runner.model.state_dict())
    hook = FiniteLossHook()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    hook.before_save_checkpoint(runner, dict(state_dict=runner.model.state_dict()))
    after = runner.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
