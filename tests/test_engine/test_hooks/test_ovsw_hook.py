"""OvSW's gradients against the same formulas, one weight after another."""

import math
import os
import signal
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from killed_runs import differences, fingerprint, state
from mmengine.optim import OptimWrapper, OptimWrapperDict
from tiny import TinyNet, tiny_runner
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmirnet.binary import IRConv2d, IRLinear, OvSWConv2d, ReActConv2d, ReCULinear
from mmirnet.engine import OvSWHook
from mmirnet.engine.hooks.ovsw_hook import scale_up
from mmirnet.errors import ConfigError

SGD = dict(type='SGD', lr=0.1, momentum=0.9)


def trained(model, optimizer, hook, gradients, wrapper=OptimWrapper):
    """Steps with given gradients; the hook is called as a runner calls it."""
    runner = SimpleNamespace(
        model=model, optim_wrapper=wrapper(optimizer=optimizer), _resume=False
    )
    hook.before_train(runner)
    for step in gradients:
        for parameter, gradient in zip(model.parameters(), step, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        optimizer.step()
    hook.after_train(runner)


def same(a, b):
    assert differences(fingerprint(a), fingerprint(b)) == []


def layers(dtype=torch.double):
    torch.manual_seed(0)
    model = nn.Sequential(IRConv2d(3, 4, 3, bias=False), IRLinear(7, 5, bias=False))
    return model.to(dtype)


def gradients_for(model, steps=6):
    """Filters with small, large and no gradients."""
    sizes = torch.tensor([1e-4, 1.0, 0.0, 1e-3, 0.1])
    return [
        [
            torch.randn_like(p) * sizes[: len(p)].view(-1, *[1] * (p.dim() - 1))
            for p in model.parameters()
        ]
        for _ in range(steps)
    ]


def literally(weights, steps, lr, min_ratio, silent_decay):
    """OvSW with plain gradient descent, as the paper writes it."""

    def signs(filter_):
        mean = sum(filter_) / len(filter_)
        return [w - mean >= 0 for w in filter_]

    filters = [f.flatten().tolist() for p in weights for f in p]
    averages = [[0.0] * len(f) for f in filters]
    counts = [0, 0, 0]
    for step in steps:
        gradients = [f.flatten().tolist() for g in step for f in g]
        for w, g, average in zip(filters, gradients, averages, strict=True):
            before = signs(w)
            small = math.sqrt(sum(x * x for x in g))
            least = min_ratio * math.sqrt(sum(x * x for x in w))
            factor = least / small if 0 < small < least else 1.0
            counts[0] += factor != 1
            for i in range(len(w)):
                silent = average[i] < 1e-4
                counts[1 + silent] += 1
                w[i] -= lr * (factor * g[i] + silent * silent_decay * w[i])
            for i, sign in enumerate(signs(w)):
                average[i] = 0.999 * average[i] + (1 - 0.999) * (sign != before[i])
    assert all(counts)  # each rule had something to do
    return filters, averages


def test_the_same_as_a_loop_over_the_weights():
    model = layers()
    steps = gradients_for(model)
    hook = OvSWHook(min_ratio=0.04, silent_decay=0.5)
    wanted, averages = literally(model.parameters(), steps, 0.3, 0.04, 0.5)
    trained(model, torch.optim.SGD(model.parameters(), lr=0.3), hook, steps)
    got = [f.flatten().tolist() for p in model.parameters() for f in p]
    kept = [f.flatten().tolist() for a in hook.averages.values() for f in a]
    for ours, theirs in ((got, wanted), (kept, averages)):
        for one, other in zip(ours, theirs, strict=True):
            assert one == pytest.approx(other, rel=1e-12, abs=1e-15)


def test_a_weight_is_silent_again_after_2302_steps():
    assert 0.001 * 0.999**2301 >= 1e-4 > 0.001 * 0.999**2302
    model = layers()
    hook = OvSWHook()
    sgd = torch.optim.SGD(model.parameters(), lr=0.3)
    trained(model, sgd, hook, gradients_for(model, 1))
    for average in hook.averages.values():
        assert average.unique().tolist() == [0.0, pytest.approx(0.001)]


@pytest.mark.parametrize(
    'make',
    [
        lambda: OvSWConv2d(3, 4, 3, bias=False),
        lambda: ReCULinear(27, 4, bias=False),
        lambda: IRConv2d(3, 4, 3, bias=False, balance=False, standardize=False),
    ],
)
def test_counts_changes_of_the_signs_that_a_layer_computes_with(make):
    layer = make()
    before = layer.quantized().signs
    gradient = torch.randn_like(layer.weight)
    others = [None] * (len(list(layer.parameters())) - 1)
    hook = OvSWHook()
    model = nn.Sequential(layer)
    sgd = torch.optim.SGD(model.parameters(), lr=0.3)
    trained(model, sgd, hook, [[gradient, *others]])
    changed = layer.quantized().signs != before
    assert changed.any() and not changed.all()
    assert torch.equal(hook.averages['0'] > 0, changed)


def test_layers_with_real_weights_are_left_alone():
    layer = ReActConv2d(3, 4, 3, bias=False, binarize_weight=False)
    model = nn.Sequential(layer, IRLinear(3, 4, bias=False))
    hook = OvSWHook()
    sgd = torch.optim.SGD(model.parameters(), lr=0.3)
    trained(model, sgd, hook, [])
    assert hook.averages.keys() == {'1'}


def test_filters_without_gradient_stay_finite():
    gradient = torch.zeros(2, 3)
    gradient[1] = 1e-15
    scale_up(gradient, torch.ones(2, 3), 0.1)
    assert gradient[0].tolist() == [0, 0, 0]
    assert gradient[1].tolist() == pytest.approx([0.1] * 3)
    scale_up(gradient, torch.zeros(2, 3), 0.1)
    assert gradient.isfinite().all()


OPTIMIZERS = {
    'SGD': dict(lr=0.1, momentum=0.9, weight_decay=1e-2),
    'Adam': dict(lr=0.1),
    'AdamW': dict(lr=0.1, amsgrad=True),
    'RMSprop': dict(lr=0.1),
}


@pytest.mark.parametrize('kind', OPTIMIZERS)
def test_without_effect_it_changes_no_optimizer(kind):
    """Some optimizers take any entry in their state for their own."""
    model, plain = layers(), layers()
    steps = gradients_for(model)
    steps[0] = [steps[0][0], None]  # the second layer's state starts later
    kinds = getattr(torch.optim, kind)
    made = [kinds(m.parameters(), **OPTIMIZERS[kind]) for m in (model, plain)]
    trained(model, made[0], OvSWHook(min_ratio=0, silent_decay=0), steps)
    for step in steps:
        for parameter, gradient in zip(plain.parameters(), step, strict=True):
            parameter.grad = gradient
        made[1].step()
    same(model.state_dict(), plain.state_dict())
    states = [m.state_dict()['state'] for m in made]
    assert [s.keys() for s in states[0].values()] == [
        s.keys() for s in states[1].values()
    ]


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('unscaled_before', [False, True])
def test_mixed_precision_has_no_say(fused, unscaled_before):
    model, plain = layers(torch.float), layers(torch.float)
    steps = gradients_for(model, 4)
    hooks = OvSWHook(silent_decay=0.25), OvSWHook(silent_decay=0.25)
    sgd = [torch.optim.SGD(m.parameters(), 0.25, fused=fused) for m in (model, plain)]
    trained(plain, sgd[1], hooks[1], steps)

    scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)

    class Scaled:
        """An optimizer wrapper's part."""

        optimizer = sgd[0]

    runner = SimpleNamespace(model=model, optim_wrapper=Scaled)
    hooks[0].before_train(runner)
    for step in steps:
        scaler.scale(torch.zeros(()))
        for parameter, gradient in zip(model.parameters(), step, strict=True):
            parameter.grad = gradient * 1024
        if unscaled_before:
            scaler.unscale_(sgd[0])
        scaler.step(sgd[0])
        scaler.update()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    same(hooks[0].averages, hooks[1].averages)


def test_each_of_several_optimizers_steps_its_own_layers():
    model, plain = layers(), layers()
    steps = gradients_for(model)
    hooks = OvSWHook(), OvSWHook()
    trained(plain, torch.optim.SGD(plain.parameters(), lr=0.3), hooks[0], steps)
    parts = {
        str(i): OptimWrapper(torch.optim.SGD(layer.parameters(), lr=0.3))
        for i, layer in enumerate(model)
    }
    runner = SimpleNamespace(model=model, optim_wrapper=OptimWrapperDict(**parts))
    hooks[1].before_train(runner)
    for step in steps:
        for parameter, gradient in zip(model.parameters(), step, strict=True):
            parameter.grad = gradient.clone()
        for part in parts.values():
            part.optimizer.step()
    same(hooks[0].averages, hooks[1].averages)
    same(plain.state_dict(), model.state_dict())


def test_frozen_layers_are_left_alone():
    model = layers()
    model[0].weight.requires_grad_(False)
    before = deepcopy(model.state_dict())
    steps = [[None, *step[1:]] for step in gradients_for(model)]
    hook = OvSWHook()
    trained(model, torch.optim.SGD(model.parameters(), lr=0.3), hook, steps)
    assert torch.equal(model[0].weight, before['0.weight'])
    assert not torch.equal(model[1].weight, before['1.weight'])
    assert not hook.averages['0'].any()


def test_after_training_the_optimizer_is_as_before():
    model = layers()
    sgd = torch.optim.SGD(model.parameters(), lr=0.3)
    trained(model, sgd, OvSWHook(), gradients_for(model, 1))
    assert not sgd._optimizer_step_pre_hooks and not sgd._optimizer_step_post_hooks


class Reads(TorchDispatchMode):
    """Counts what makes Python wait for the device."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        waits = ('_local_scalar_dense', 'nonzero', 'masked_select')
        self.number += any(name in str(function) for name in waits)
        return function(*args, **(kwargs or {}))


def test_never_waits_for_the_device():
    model = layers()
    with Reads() as reads:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        trained(model, optimizer, OvSWHook(), gradients_for(model))
    assert reads.number == 0


class StoppingNet(TinyNet):
    """Signals itself after some steps."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.stop_at = stop_at

    def forward(self, inputs, label, mode='tensor'):
        if mode == 'loss' and len(self.seen) == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(inputs, label, mode)


def run(folder, optimizer, hooks=('OvSWHook',), stop_at=None, **kwargs):
    hooks = [dict(type=kind, silent_decay=0.1) for kind in hooks]
    runner = tiny_runner(
        folder,
        [dict(type='EDEHook'), dict(type='PreemptionHook'), *hooks],
        model=StoppingNet(stop_at),
        train_cfg=dict(type='DeterministicEpochLoop', max_epochs=3),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='AtomicCheckpointHook', interval=1),
        ),
        optim_wrapper=dict(optimizer=optimizer, **kwargs.pop('wrapper', {})),
        **kwargs,
    )
    if stop_at is None:
        runner.train()
    else:
        with pytest.raises(SystemExit):
            runner.train()
    return runner


@pytest.mark.parametrize(
    'optimizer', [SGD, dict(type='Adam', lr=0.1), dict(SGD, fused=True)], ids=str
)
def test_a_resumed_run_ends_as_the_unbroken_one(tmp_path, optimizer):
    run(tmp_path / 'whole', optimizer)
    run(tmp_path / 'cut', optimizer, stop_at=6)
    run(tmp_path / 'cut', optimizer, resume=True)
    whole = state(tmp_path / 'whole')
    assert whole['ovsw'].keys() == {'net.0'}
    assert differences(whole, state(tmp_path / 'cut')) == []
    assert differences(whole, without_ovsw(tmp_path / 'none', optimizer))


def without_ovsw(folder, optimizer):
    run(folder, optimizer, hooks=())
    return dict(state(folder), ovsw=state(folder / '../whole')['ovsw'])


def test_accumulated_gradients_make_one_step(tmp_path, monkeypatch):
    calls = []
    step = OvSWHook._before_step
    monkeypatch.setattr(
        OvSWHook, '_before_step', lambda *args: calls.append(1) or step(*args)
    )
    run(tmp_path, SGD, wrapper=dict(accumulative_counts=2))
    assert len(calls) == 6


def test_only_weights_are_in_a_checkpoint_without_optimizer(tmp_path):
    runner = run(tmp_path, SGD)
    runner.save_checkpoint(str(tmp_path), 'best.pth', save_optimizer=False)
    assert 'ovsw' not in torch.load(tmp_path / 'best.pth', weights_only=True)


class TestMistakes:
    def warnings(self, runner, monkeypatch):
        said = []
        monkeypatch.setattr(runner.logger, 'warning', said.append)
        runner.train()
        return [line for line in said if line.startswith('OvSWHook')]

    def test_model_without_binary_layers(self, tmp_path, monkeypatch):
        runner = tiny_runner(tmp_path, [dict(type='OvSWHook')], binary=False)
        (line,) = self.warnings(runner, monkeypatch)
        assert 'no binary layers' in line

    def test_a_checkpoint_of_a_run_without_the_hook(self, tmp_path, monkeypatch):
        options = dict(
            default_hooks=dict(checkpoint=dict(type='AtomicCheckpointHook')),
        )
        tiny_runner(tmp_path, [dict(type='EDEHook')], **options).train()
        hooks = [dict(type='EDEHook'), dict(type='OvSWHook')]
        longer = dict(by_epoch=True, max_epochs=4)
        runner = tiny_runner(tmp_path, hooks, resume=True, train_cfg=longer, **options)
        (line,) = self.warnings(runner, monkeypatch)
        assert 'no averages of sign changes for 1 of 1 layers, such as net.0' in line

    @pytest.mark.parametrize(
        'kwargs, message',
        [
            (dict(min_ratio=-0.1), 'min_ratio must be a number, at least 0, got -0.1'),
            (dict(min_ratio=math.nan), 'min_ratio .*, got nan'),
            (dict(silent_decay=math.inf), 'silent_decay .*, got inf'),
            (dict(silent_decay='9e-4'), "silent_decay .*, got '9e-4'"),
            (dict(silent_decay=True), 'silent_decay .*, got True'),
        ],
    )
    def test_arguments(self, kwargs, message):
        with pytest.raises(ConfigError, match=message):
            OvSWHook(**kwargs)
