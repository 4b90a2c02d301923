import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from small_run import LIGHT
from tiny import Points, TinyNet, tiny_runner
from torch import nn

from mmirnet import files
from mmirnet.engine import AtomicCheckpointHook
from mmirnet.engine.checkpoint import (
    check_intact,
    find_intact_checkpoint,
    load_checkpoint_file,
)
from mmirnet.errors import CheckpointError


def runner_of(folder, hooks=(), options=(), **hook):
    return tiny_runner(
        folder,
        [dict(type='EDEHook'), *hooks],
        default_hooks=dict(
            checkpoint={**dict(type='AtomicCheckpointHook', interval=1), **hook}
        ),
        **dict(options),
    )


def test_every_checkpoint_carries_a_digest(tmp_path):
    runner_of(tmp_path).train()
    files = sorted(tmp_path.glob('*.pth'))
    assert [f.name for f in files] == [f'epoch_{i}.pth' for i in (1, 2, 3)]
    for file in files:
        assert b'mmirnet-sha256:' in file.read_bytes()[-79:]
        check_intact(file)
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_3.pth')


def test_the_old_checkpoint_goes_when_the_new_one_is_there(tmp_path, monkeypatch):
    runner = runner_of(tmp_path, max_keep_ckpts=1)
    save = runner.save_checkpoint
    there = []

    def spy(*args, **kwargs):
        there.append({p.name for p in tmp_path.glob('*.pth')})
        save(*args, **kwargs)

    monkeypatch.setattr(runner, 'save_checkpoint', spy)
    runner.train()
    assert there == [set(), {'epoch_1.pth'}, {'epoch_2.pth'}]
    assert {p.name for p in tmp_path.glob('*.pth')} == {'epoch_3.pth'}


class TestFoundAgain:
    """What a hook writes, under any of its options, is found by --resume."""

    @pytest.mark.parametrize(
        ('hook', 'loop', 'name'),
        [
            (dict(out_dir='{}/elsewhere'), {}, 'elsewhere/run/epoch_3.pth'),
            (dict(filename_tmpl='net-{}.ckpt'), {}, 'run/net-3.ckpt'),
            (
                dict(out_dir='{}/elsewhere', filename_tmpl='net-{}.ckpt'),
                {},
                'elsewhere/run/net-3.ckpt',
            ),
            (
                dict(by_epoch=False, interval=5),
                dict(train_cfg=dict(type='DeterministicIterLoop', max_iters=12)),
                'run/iter_12.pth',
            ),
            (dict(interval=2, save_last=False), {}, 'run/epoch_2.pth'),
            (dict(save_begin=2, max_keep_ckpts=1), {}, 'run/epoch_3.pth'),
            (
                dict(published_keys=['meta', 'state_dict', 'message_hub']),
                {},
                'run/epoch_3.pth',
            ),
        ],
    )
    @pytest.mark.parametrize('pointer', [True, False])
    def test_wherever_it_is(self, tmp_path, hook, loop, name, pointer):
        hook = {k: v.format(tmp_path) if k == 'out_dir' else v for k, v in hook.items()}
        by_epoch = not loop
        options = dict(loop, custom_hooks=[dict(type='EDEHook', by_epoch=by_epoch)])
        runner_of(tmp_path / 'run', options=options, **hook).train()
        if not pointer:
            (tmp_path / 'run' / 'last_checkpoint').unlink()
        found = find_intact_checkpoint(
            tmp_path / 'run', hook.get('out_dir'), hook.get('filename_tmpl', '')
        )
        assert found == str(tmp_path / name)

    def test_a_relative_folder_is_meant_from_where_training_started(
        self, tmp_path, monkeypatch
    ):
        (tmp_path / 'there').mkdir()
        monkeypatch.chdir(tmp_path)
        runner_of(tmp_path / 'run', out_dir='out').train()
        monkeypatch.chdir(tmp_path / 'there')
        expected = str(tmp_path / 'out/run/epoch_3.pth')
        assert find_intact_checkpoint(tmp_path / 'run') == expected

    def test_a_moved_run_is_found_where_it_is_now(self, tmp_path):
        runner_of(tmp_path / 'run').train()
        shutil.copytree(tmp_path / 'run', tmp_path / 'copy')
        expected = str(tmp_path / 'copy' / 'epoch_3.pth')
        assert find_intact_checkpoint(tmp_path / 'copy') == expected


class Score(Hook):
    """Validations whose metrics get better."""

    priority = 'HIGHEST'

    def after_train_epoch(self, runner):
        (saver,) = (h for h in runner.hooks if isinstance(h, AtomicCheckpointHook))
        saver.after_val_epoch(runner, dict(acc=float(runner.iter)))


def test_a_copied_run_leaves_the_best_checkpoint_of_the_other(tmp_path):
    best = dict(save_best='acc', rule='greater')
    runner_of(tmp_path / 'run', [Score()], **best).train()
    kept = list((tmp_path / 'run').glob('best_*'))
    assert len(kept) == 1
    shutil.copytree(tmp_path / 'run', tmp_path / 'copy')
    options = dict(train_cfg=dict(by_epoch=True, max_epochs=4), resume=True)
    options['load_from'] = str(tmp_path / 'copy' / 'epoch_3.pth')
    runner_of(tmp_path / 'copy', [Score()], options, **best).train()
    assert kept[0].exists()
    (better,) = (tmp_path / 'copy').glob('best_*')
    assert better.name != kept[0].name


class TestLeftovers:
    def test_a_killed_write_is_cleared_away_by_the_next_run(self, tmp_path):
        process = subprocess.Popen([sys.executable, '-c', ''])
        process.wait()
        left = f'.epoch_9.pth.0a1b2c3d-{process.pid}-{files._host()}.writing'
        (tmp_path / left).write_bytes(b'half')
        runner_of(tmp_path).train()
        assert not list(tmp_path.glob('.*'))

    def test_the_lock_goes_with_the_end_of_training(self, tmp_path):
        runner_of(tmp_path).train()
        assert not (tmp_path / 'run.lock').exists()

    def test_a_second_run_in_the_folder_is_refused(self, tmp_path):
        code = LIGHT + (
            'import sys; from mmirnet.files import lock_folder; '
            'lock = lock_folder(sys.argv[1]); print(flush=True); sys.stdin.read()'
        )
        with subprocess.Popen(
            [sys.executable, '-c', code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other:
            other.stdout.readline()
            try:
                with pytest.raises(OSError, match=f'process {other.pid} .*--work-dir'):
                    runner_of(tmp_path).train()
            finally:
                other.kill()

    def test_a_folder_that_cannot_be_written_is_named_before_training(self, tmp_path):
        (tmp_path / 'file').write_bytes(b'')
        runner = runner_of(tmp_path / 'run', out_dir=str(tmp_path / 'file'))
        with pytest.raises(OSError, match=r'cannot write .*/file/run'):
            runner.train()
        assert runner.model.seen == []


class Described(Points):
    """With metainfo such as configs and data sets bring along."""

    def __init__(self, **metainfo):
        super().__init__()
        self.metainfo = metainfo


class Notes(Hook):
    """Leaves something in the run's records."""

    def __init__(self, value):
        self.value = value

    def after_train_iter(self, runner, **kwargs):
        runner.message_hub.update_info('notes', self.value)


def described(folder, value=(), options=(), **metainfo):
    loader = dict(
        batch_size=12,
        dataset=Described(**metainfo),
        sampler=dict(type='DefaultSampler'),
        collate_fn=dict(type='default_collate'),
    )
    options = dict(options, train_dataloader=loader)
    return runner_of(folder, [Notes(value)] if value != () else [], options)


def test_any_metainfo_and_records_are_resumed(tmp_path):
    metainfo = dict(
        classes=('a', 'b'),
        palette=ConfigDict(a=[1, 2, 3]),
        sizes={1, 2},
        mean=np.float32(0.5),
        table=np.arange(4, dtype='u2'),
        root=Path('data'),
        nothing=None,
        kind=torch.float16,
    )
    described(tmp_path, ConfigDict(seen=np.str_('x')), **metainfo).train()
    saved = load_checkpoint_file(str(tmp_path / 'epoch_3.pth'))
    assert saved['meta']['dataset_meta'] == dict(
        metainfo, mean=0.5, table=[0, 1, 2, 3], root='data'
    )
    assert saved['message_hub']['runtime_info']['notes'] == dict(seen='x')
    four = dict(train_cfg=dict(by_epoch=True, max_epochs=4))
    four.update(resume=True, load_from=str(tmp_path / 'epoch_3.pth'))
    runner = described(tmp_path, options=four, **metainfo)
    runner.train()
    assert runner.epoch == 4


def test_metainfo_that_cannot_be_saved_is_named_before_training(tmp_path):
    runner = described(tmp_path, loader=object())
    message = r"train_dataloader.dataset.metainfo\['loader'\] is a builtins.object"
    with pytest.raises(CheckpointError, match=message):
        runner.train()
    assert runner.model.seen == []


def test_records_that_cannot_be_saved_are_named_at_the_first_save(tmp_path):
    with pytest.raises(CheckpointError, match=r"\['notes'\] is a tiny.TinyNet, which"):
        described(tmp_path, TinyNet()).train()
    assert not list(tmp_path.glob('*.pth'))


def test_what_a_later_hook_adds_is_checked_as_well(tmp_path):
    class Late(Hook):
        priority = 'LOWEST'

        def before_save_checkpoint(self, runner, checkpoint):
            checkpoint['late'] = Path('x')

    with pytest.raises(
        CheckpointError, match=r'epoch_1\.pth is not written.*PosixPath'
    ):
        runner_of(tmp_path, [Late()]).train()


@pytest.mark.parametrize(
    'scheduler',
    [
        dict(type='MultiStepLR', milestones=[1, 2]),
        dict(type='LinearLR', start_factor=0.1, end=2),
        dict(type='OneCycleLR', eta_max=0.1, total_steps=8),
        dict(type='CosineAnnealingLR', T_max=4),
        dict(type='ReduceOnPlateauLR', monitor='acc', rule='greater'),
        dict(
            type='CosineRestartLR', periods=[2, 2], restart_weights=[1, 0.5], eta_min=0
        ),
        dict(type='PolyLR', eta_min=1e-4, begin=0, end=4),
        dict(type='ExponentialLR', gamma=0.5),
        dict(type='StepLR', step_size=1),
        dict(type='ConstantLR', factor=0.5, end=2),
        dict(type='ConstantMomentum', factor=0.5, end=2),
    ],
    ids=lambda s: s['type'],
)
def test_every_scheduler_is_resumed(tmp_path, scheduler):
    def lr(runner):
        return [g['lr'] for g in runner.optim_wrapper.param_groups]

    def run(folder, **options):
        options = dict(
            param_scheduler=dict(scheduler),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
            train_cfg=dict(by_epoch=True, max_epochs=4),
            **options,
        )
        runner = runner_of(tmp_path / folder, options=options)
        runner.train()
        return runner

    whole = run('whole')
    options = dict(load_from=str(tmp_path / 'whole' / 'epoch_2.pth'), resume=True)
    assert lr(run('resumed', **options)) == lr(whole)


@pytest.mark.parametrize('done', [3, 4])
def test_gradients_of_several_optimizers_are_kept(done):
    """A model of its own training step has one for each of its parts."""
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    parts = {
        name: OptimWrapper(torch.optim.SGD([p], 0.1), accumulative_counts=4)
        for name, p in model.named_parameters()
    }
    for part in parts.values():
        part._inner_count = done
    runner = SimpleNamespace(model=model, optim_wrapper=OptimWrapperDict(**parts))
    hook = AtomicCheckpointHook()
    hook._gather_gradients(runner)
    names = [set(gradients) for gradients in hook._gradients]
    assert names == ([{'weight', 'bias'}] if done == 3 else [])


@pytest.mark.parametrize(
    ('metrics', 'options', 'best'),
    [
        ({'accuracy/top1': 50.0, 'loss': 1.0}, {}, 'accuracy/top1'),
        ({'single-label/f1-score': 50.0}, {}, 'single-label/f1-score'),
        ({'support': 4, 'loss': 1.0}, {}, 'loss'),
        ({'result': torch.eye(2), 'recall': 1.0}, {}, 'recall'),
        ({'support': 4}, {}, None),
        ({'support': 4}, {'rule': 'greater'}, 'support'),
    ],
)
def test_the_best_checkpoint_by_the_first_metric_that_can_be_judged(
    tmp_path, metrics, options, best
):
    runner = runner_of(tmp_path, save_best='auto', **options)
    runner.train()
    said = []
    runner.logger.warning = said.append
    hook = next(h for h in runner.hooks if isinstance(h, AtomicCheckpointHook))
    hook.after_val_epoch(runner, metrics)
    found = list(tmp_path.glob('best_*'))
    if best is None:
        assert not found and "knows none of ['support']" in said[0]
    else:
        assert found[0].name == f'best_{best.replace("/", "_")}_epoch_3.pth'
