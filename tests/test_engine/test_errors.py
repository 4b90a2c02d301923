import pytest
from mmengine.registry import HOOKS
from mmpretrain.registry import MODELS

import mmirnet  # noqa: F401
from mmirnet.engine.errors import unknown_argument

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
