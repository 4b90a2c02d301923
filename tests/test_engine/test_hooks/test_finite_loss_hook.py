import pytest
from tiny import TinyNet, tiny_runner

from mmirnet.engine import FiniteLossHook


class DivergingNet(TinyNet):
    """Loses its loss in the sixth step."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, inputs, label, mode='tensor'):
        out = super().forward(inputs, label, mode)
        if mode == 'loss' and len(self.seen) == 6:
            out['loss'] = out['loss'] * self.value
        return out


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_stops_and_says_where(tmp_path, value):
    runner = tiny_runner(
        tmp_path,
        [dict(type='FiniteLossHook'), dict(type='EDEHook')],
        model=DivergingNet(value),
        default_hooks=dict(checkpoint=dict(type='WholeCheckpointHook', interval=1)),
    )
    with pytest.raises(ArithmeticError) as stopped:
        runner.train()
    message = str(stopped.value)
    assert f'{value}' in message
    assert 'iteration 6 of epoch 2' in message
    assert "lr={'lr': [0.1]}" in message
    assert f't={10 ** (-1 + 2 / 3):.4f}'[:6] in message
    assert 'epoch_1.pth' in message
    assert len(runner.model.seen) == 6


def test_a_good_run_goes_on(tmp_path):
    runner = tiny_runner(tmp_path, [dict(type='FiniteLossHook'), dict(type='EDEHook')])
    runner.train()
    assert len(runner.model.seen) == 12


def test_reads_what_the_log_has_and_asks_the_device_for_nothing(tmp_path):
    runner = tiny_runner(tmp_path)
    runner.message_hub.update_scalar('train/loss', 0.5)
    FiniteLossHook().after_train_iter(runner, 0, outputs=None)
