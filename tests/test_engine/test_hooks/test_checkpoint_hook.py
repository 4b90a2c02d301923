import pytest
from tiny import tiny_runner

from mmirnet.engine import PreemptionHook
from mmirnet.engine.checkpoint import check_whole


def runner_of(folder, **hook):
    return tiny_runner(
        folder,
        [dict(type='EDEHook')],
        default_hooks=dict(
            checkpoint=dict(type='WholeCheckpointHook', interval=1, **hook)
        ),
    )


def test_every_checkpoint_carries_a_digest(tmp_path):
    runner_of(tmp_path).train()
    files = sorted(tmp_path.glob('*.pth'))
    assert [f.name for f in files] == [f'epoch_{i}.pth' for i in (1, 2, 3)]
    for file in files:
        assert b'mmirnet-sha256:' in file.read_bytes()[-79:]
        check_whole(file)
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


def test_preemption_needs_it(tmp_path):
    runner = tiny_runner(tmp_path, [dict(type='PreemptionHook')])
    with pytest.raises(ValueError, match='WholeCheckpointHook'):
        runner.train()


def test_preemption_interval():
    with pytest.raises(ValueError, match='positive interval, got 0'):
        PreemptionHook(interval=0)
