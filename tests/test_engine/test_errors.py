from pathlib import Path

import pytest
import torch
from mmengine.registry import HOOKS, init_default_scope
from mmpretrain.registry import MODELS

import mmirnet  # noqa: F401
from mmirnet.engine import run
from mmirnet.engine.errors import one_line_errors, unknown_argument

BACKBONE = dict(type='mmpretrain.IRResNet_CIFAR', depth=20)


@pytest.mark.parametrize(
    'registry, cfg, message',
    [
        (
            HOOKS,
            dict(type='EDEHook', t_mim=0.1),
            "EDEHook has no argument 't_mim'; did you mean 't_min'?",
        ),
        (
            HOOKS,
            dict(type='WholeCheckpointHook', intervall=1),
            "did you mean 'interval'?",
        ),
        (
            HOOKS,
            dict(type='EDEHook', colour=1),
            "allowed are ['by_epoch', 'interval', 't_max', 't_min']",
        ),
        (
            MODELS,
            dict(BACKBONE, structur='bireal'),
            "IRResNet_CIFAR has no argument 'structur'; did you mean 'structure'?",
        ),
        (
            MODELS,
            dict(BACKBONE, conv_cfg=dict(type='IRConv2d', estimater='ede')),
            "IRConv2d has no argument 'estimater'; did you mean 'estimator'?",
        ),
        (
            MODELS,
            dict(type='mmpretrain.BNLinearClsHead', num_classes=2, in_chanels=3),
            "BNLinearClsHead needs the argument 'in_channels'",
        ),
        (
            MODELS,
            dict(
                type='mmpretrain.ImageClassifier',
                backbone=dict(BACKBONE, norm_evil=True),
            ),
            "did you mean 'norm_eval'?",
        ),
    ],
)
def test_names_the_nearest_argument(registry, cfg, message):
    init_default_scope('mmpretrain')
    with pytest.raises(TypeError) as caught:
        registry.build(cfg)
    assert message in unknown_argument(caught.value)


@pytest.mark.parametrize(
    'bug',
    [lambda: 'a' + 1, lambda: MODELS.build(dict(type='mmpretrain.ResNet', deep=18))],
)
def test_other_errors_are_not_ours_to_explain(bug):
    with pytest.raises(TypeError) as caught:
        bug()
    assert unknown_argument(caught.value) is None


class TestOneLineErrors:
    """one_line_errors: whose fault it is decides."""

    @staticmethod
    def ours():
        run.load_config('absent::a.py', None, 'none')

    @staticmethod
    def systems():
        Path('absent').read_bytes()

    @staticmethod
    def torchs():
        torch.zeros(2) + torch.zeros(3)

    @staticmethod
    def a_bug():
        run._average_over_flips(None)

    @pytest.mark.parametrize(
        ('fault', 'message'),
        [
            ('ours', 'error: CONFIG absent::a.py: there is no package absent\n'),
            ('systems', "error: [Errno 2] No such file or directory: 'absent'\n"),
        ],
    )
    def test_the_users(self, capsys, fault, message):
        with pytest.raises(SystemExit) as exit, one_line_errors():
            getattr(self, fault)()
        assert exit.value.code == 2
        assert capsys.readouterr().err == message

    @pytest.mark.parametrize('bug', ['torchs', 'a_bug'])
    def test_bugs_keep_their_traceback(self, bug):
        with pytest.raises((RuntimeError, AttributeError)), one_line_errors():
            getattr(self, bug)()

    def test_names_the_rank(self, capsys, monkeypatch):
        monkeypatch.setenv('RANK', '3')
        with pytest.raises(SystemExit), one_line_errors():
            self.systems()
        assert capsys.readouterr().err.startswith('[rank 3] error: ')
