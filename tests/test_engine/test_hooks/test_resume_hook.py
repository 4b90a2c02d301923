import warnings
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from tiny import Points, TinyNet, tiny_runner

from mmirnet.engine import ResumeHook
from mmirnet.errors import CheckpointError

COSINE = dict(type='CosineAnnealingLR', T_max=2)
SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)


class Record(Hook):
    """The settings and EDE of each iteration."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, **kwargs):
        group = runner.optim_wrapper.optimizer.param_groups[0]
        kept = {k: group[k] for k in ('lr', 'momentum', 'weight_decay') if k in group}
        hub = runner.message_hub
        self.seen.append(dict(kept, t=hub.get_scalar('train/t').current()))


@pytest.fixture
def train(tmp_path):
    """Trains in a folder; what the iterations saw and what the log said."""

    def run(
        folder,
        epochs=2,
        scheduler=COSINE,
        optimizer=SGD,
        batch=6,
        hook=(),
        ede=(),
        hooks=(),
        loop=None,
        images=24,
        model=None,
        **options,
    ):
        record, lines = Record(), []
        optim_wrapper = options.pop('optim_wrapper', dict(optimizer=dict(optimizer)))
        runner = tiny_runner(
            tmp_path / folder,
            [dict(type='EDEHook', **dict(ede)), record, *hooks],
            model=model,
            train_cfg=loop or dict(type='DeterministicEpochLoop', max_epochs=epochs),
            train_dataloader=dict(
                batch_size=batch,
                dataset=Points(images),
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
            ),
            optim_wrapper=optim_wrapper,
            param_scheduler=scheduler,
            default_hooks=dict(
                checkpoint={
                    **dict(type='AtomicCheckpointHook', interval=1),
                    **dict(hook),
                }
            ),
            **options,
        )
        runner.logger.info = runner.logger.warning = lambda m, *a: lines.append(str(m))
        runner.train()
        said = [line for line in lines if line.startswith('Resumed after')]
        assert len(said) == bool(options.get('resume'))
        return record.seen, said[0] if said else '', runner

    return run


@pytest.mark.parametrize(
    'change',
    [
        dict(epochs=4, scheduler=dict(COSINE, T_max=4)),
        dict(epochs=4),
        dict(epochs=4, optimizer=dict(SGD, lr=0.02)),
        dict(epochs=4, optimizer=dict(SGD, momentum=0.5, weight_decay=0.0)),
        dict(epochs=4, scheduler=dict(type='MultiStepLR', milestones=[1, 3])),
        dict(
            epochs=4,
            scheduler=[
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=12),
                dict(type='CosineAnnealingLR', T_max=16, by_epoch=False),
            ],
        ),
        dict(epochs=4, scheduler=dict(type='OneCycleLR', eta_max=0.3, total_steps=4)),
        dict(
            epochs=4,
            scheduler=dict(
                type='CosineAnnealingLR', T_max=4, convert_to_iter_based=True
            ),
        ),
        dict(epochs=4, scheduler=dict(type='ExponentialLR', gamma=0.5)),
        dict(epochs=4, scheduler=[COSINE, dict(type='ConstantMomentum', end=3)]),
        dict(epochs=4, scheduler=None),
        dict(epochs=4, ede=dict(by_epoch=False, t_max=5)),
        dict(
            epochs=4,
            batch=12,
            auto_scale_lr=dict(enable=True, base_batch_size=6),
            scheduler=dict(type='CosineAnnealingLR', T_max=8, by_epoch=False),
        ),
    ],
    ids=lambda c: ' '.join(c),
)
def test_settings_follow_the_new_config(train, change):
    """As in a run that had it from the start."""
    train('run')
    expected, _, _ = train('other', **change)
    seen, said, runner = train('run', resume=True, **change)
    half = len(expected) // 2
    assert len(seen) == half
    assert seen == expected[half:]
    assert '- max_epochs 2 -> 4' in said
    assert runner.iter == runner.max_iters


def test_what_changed_and_what_is_done_about_it(train):
    train('run')
    change = dict(
        epochs=4,
        scheduler=dict(COSINE, T_max=4),
        optimizer=dict(SGD, lr=0.2),
        batch=12,
        randomness=dict(seed=5),
        optim_wrapper=dict(type='Bf16OptimWrapper', optimizer=dict(SGD, lr=0.2)),
    )
    _, said, runner = train('run', resume=True, **change)
    assert runner.seed == 0
    for line in [
        'Resumed after epoch 2, iteration 4. Changed since',
        '- batch size 6 -> 12: training continues with the first image of an epoch; an '
        'epoch has 2 iterations, so that 8 iterations count as 4',
        '- max_epochs 2 -> 4: schedules without a length of their own, and EDE',
        '- optimizer: lr 0.1 -> 0.2',
        '- param_scheduler[0], CosineAnnealingLR: T_max 2 -> 4',
        'schedules follow the config, as after 2 epochs and 4 iterations of it: lr 0',
        '- seed 0 -> 5: the run keeps 0',
        "- precision 'OptimWrapper' -> 'Bf16OptimWrapper', as the config says",
    ]:
        assert line in said
    assert len(said.splitlines()) < 15


def test_nothing_changed_is_said_too(train):
    train('run')
    _, said, _ = train('run', resume=True)
    assert said == (
        'Resumed after epoch 2, iteration 8. The run is complete: nothing is left to '
        'train. Nothing has changed since the checkpoint was saved.'
    )


def test_an_unchanged_run_is_left_alone(train, tmp_path, monkeypatch):
    from mmirnet.engine.hooks import resume_hook

    whole, _, _ = train('whole', epochs=3)
    monkeypatch.setattr(resume_hook, 'replay', lambda *a: pytest.fail('replayed'))
    load_from = str(tmp_path / 'whole' / 'epoch_1.pth')
    seen, said, _ = train('run', epochs=3, resume=True, load_from=load_from)
    assert said == (
        'Resumed after epoch 1, iteration 4. Nothing has changed since the checkpoint '
        'was saved.'
    )
    assert seen == whole[4:]


def test_iterations_raised(train):
    loop = dict(type='DeterministicIterLoop', max_iters=6, val_interval=100)
    schedule = dict(type='CosineAnnealingLR', by_epoch=False)
    options = dict(ede=dict(by_epoch=False), hook=dict(by_epoch=False, interval=3))
    train('run', scheduler=dict(schedule, T_max=6), loop=loop, **options)
    options.update(scheduler=dict(schedule, T_max=12), loop=dict(loop, max_iters=12))
    expected, _, _ = train('other', **options)
    seen, said, _ = train('run', resume=True, **options)
    assert seen == expected[6:]
    assert '- max_iters 6 -> 12' in said


class Plateau(Hook):
    """Validations that get no better."""

    def after_train_epoch(self, runner):
        for scheduler in runner.param_schedulers:
            scheduler.step(dict(acc=1.0))


def test_what_metrics_have_reduced_stays_reduced(train):
    schedule = dict(
        type='ReduceOnPlateauLR', monitor='acc', rule='greater', patience=0, factor=0.5
    )
    options = dict(scheduler=schedule, hooks=[Plateau()])
    first, _, _ = train('run', epochs=3, **options)
    assert first[-1]['lr'] == 0.05
    options.update(optimizer=dict(SGD, lr=0.2), epochs=4)
    seen, _, runner = train('run', resume=True, **options)
    # One more reduction after the third epoch; twice the rate in the config.
    assert seen[0]['lr'] == 2 * 0.025
    assert runner.param_schedulers[0].best == 1.0


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            dict(optimizer=dict(type='Adam', lr=0.1)),
            r'has the state of SGD, and the config asks for Adam; .*load_from=\S+pth',
        ),
        (
            dict(
                optim_wrapper=dict(
                    optimizer=SGD, paramwise_cfg=dict(norm_decay_mult=0.0)
                )
            ),
            r'has 1 groups of \d+ parameters .* the config makes \d+ of \d+; ',
        ),
    ],
)
def test_another_optimizer_is_refused(train, change, message):
    train('run')
    with pytest.raises(CheckpointError, match=message):
        train('run', epochs=4, resume=True, **change)


@pytest.mark.parametrize(
    ('drop', 'message'),
    [
        (('optimizer',), 'holds no state of the optimizer; to start a new run from'),
        (
            ('message_hub', 'optimizer'),
            'holds weights, but no state of a run; to start',
        ),
        (('meta',), 'holds weights, but no state of a run; to start'),
    ],
)
def test_a_file_without_a_run_is_refused(train, tmp_path, drop, message):
    train('run')
    path = tmp_path / 'run' / 'epoch_2.pth'
    checkpoint = torch.load(path)
    torch.save({k: v for k, v in checkpoint.items() if k not in drop}, path)
    with pytest.raises(CheckpointError, match=message):
        train('run', resume=True)


def test_a_run_that_saves_no_optimizer_goes_on(train):
    options = dict(hook=dict(save_optimizer=False, save_param_scheduler=False))
    whole, _, _ = train('whole', epochs=4, **options)
    train('run', **options)
    seen, said, _ = train('run', epochs=4, resume=True, **options)
    assert 'has no optimizer state: it starts from zero' in said
    assert 'holds no schedules' in said
    assert [s['lr'] for s in seen] == [s['lr'] for s in whole[8:]]


def older(path, config=None):
    """Make a checkpoint one of a version that did not say what made it."""
    checkpoint = torch.load(path)
    hub = checkpoint['message_hub']
    for name in ('made_with', 'place_in_data'):
        del hub['runtime_info'][name], hub['resumed_keys'][name]
    checkpoint['meta']['cfg'] = hub['runtime_info']['cfg'] = config
    torch.save(checkpoint, path)


def test_older_checkpoints_follow_the_config_as_well(train, tmp_path):
    change = dict(
        epochs=4,
        scheduler=dict(COSINE, T_max=4),
        optimizer=dict(SGD, lr=0.3, weight_decay=0.0),
    )
    expected, _, _ = train('other', **change)
    train('run')
    older(tmp_path / 'run' / 'epoch_2.pth')
    seen, said, _ = train('run', resume=True, **change)
    assert seen == expected[8:]
    assert 'optimizer: lr 0.1 -> 0.3' in said and 'T_max 2 -> 4' in said


def test_older_checkpoints_that_fit_are_left_alone(train, tmp_path):
    whole, _, _ = train('whole', epochs=3)
    path = tmp_path / 'whole' / 'epoch_1.pth'
    older(path)
    seen, said, _ = train('run', epochs=3, resume=True, load_from=str(path))
    assert seen == whole[4:]
    assert 'Nothing has changed' in said


def test_older_checkpoints_name_their_optimizer_in_the_config(train, tmp_path):
    train('run')
    text = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))"
    older(tmp_path / 'run' / 'epoch_2.pth', text)
    with pytest.raises(CheckpointError, match=r'state of SGD, and .* asks for Adam'):
        train('run', resume=True, optimizer=dict(type='Adam', lr=0.1))


def test_the_text_of_a_config_is_not_run(train, tmp_path):
    train('run')
    path = tmp_path / 'run' / 'epoch_2.pth'
    checkpoint = torch.load(path)
    trap = f'open({str(tmp_path / "trace")!r}, "w")\na = 1'
    checkpoint['meta'].update(cfg=trap, config=trap)
    torch.save(checkpoint, path)
    train('run', epochs=3, resume=True)
    assert not (tmp_path / 'trace').exists()


def test_averaging_that_begins_or_ends_is_named(train):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        train('run')
        _, said, _ = train('run', epochs=3, resume=True, hooks=[dict(type='EMAHook')])
        assert 'EMAHook was added: averaging starts' in said
        _, said, _ = train('run', epochs=4, resume=True)
        assert 'EMAHook was removed: training continues from the averaged' in said


def test_other_versions_are_named(train, tmp_path):
    train('run')
    path = tmp_path / 'run' / 'epoch_2.pth'
    checkpoint = torch.load(path)
    made = checkpoint['message_hub']['runtime_info']['made_with']
    made['versions']['torch'] = '2.6.0'
    made['device'] = 'another GPU'
    torch.save(checkpoint, path)
    _, said, _ = train('run', epochs=3, resume=True)
    assert f"torch '2.6.0' -> '{torch.__version__}', device 'another GPU' -> " in said
    assert 'the last bits may differ' in said


@pytest.mark.parametrize(
    'old, more, wanted',
    [
        (dict(devices=['A', 'B'], precisions=['tf32']), 1, (['A', 'B'], ['tf32'])),
        (
            dict(device='A', precision='AmpOptimWrapper'),
            1,
            (['A'], ['AmpOptimWrapper']),
        ),
        (dict(device='A'), 1, (['A'], [])),
        (dict(devices=['A'], precisions=['tf32']), 0, (['A'], ['tf32'])),
    ],
    ids=['parts', 'older', 'no change', 'complete'],
)
def test_devices_and_precisions_of_all_parts(train, tmp_path, old, more, wanted):
    train('run')
    path = tmp_path / 'run' / 'epoch_2.pth'
    checkpoint = torch.load(path)
    made = checkpoint['message_hub']['runtime_info']['made_with']
    here = made['device']
    del made['devices'], made['precisions']
    made.update(old)
    torch.save(checkpoint, path)
    _, _, runner = train('run', epochs=2 + more, resume=True)
    made = runner.message_hub.get_info('made_with')
    assert made['devices'] == wanted[0] + [here] * more
    assert made['precisions'] == wanted[1] + ['float32'] * more


def test_mmengines_loops_are_resumed_so_too(train):
    change = dict(
        scheduler=dict(COSINE, T_max=4), loop=dict(by_epoch=True, max_epochs=4)
    )
    with_hook = dict(hooks=[dict(type='ResumeHook')])
    expected, _, _ = train('other', **change)
    train('run', loop=dict(by_epoch=True, max_epochs=2), **with_hook)
    seen, said, _ = train('run', resume=True, **change, **with_hook)
    assert seen == expected[8:]
    assert 'T_max 2 -> 4' in said


def test_net_is_trained(train):
    """The fixtures above compare what training would use, so it has to be used."""
    model = TinyNet()
    before = model.net[0].weight.detach().clone()
    train('run', model=model)
    assert not torch.equal(before, model.net[0].weight)


@pytest.mark.parametrize('resumed', [False, True])
def test_several_optimizers_are_left_alone_and_named(resumed):
    said = []
    runner = SimpleNamespace(
        optim_wrapper=OptimWrapperDict(),
        logger=SimpleNamespace(warning=said.append),
        _resume=resumed,
    )
    hook = ResumeHook()
    hook.before_run(runner)
    hook.before_train(runner)
    assert len(said) == resumed
