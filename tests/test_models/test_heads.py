import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmirnet.models import BNLinearClsHead, FlattenNeck


def test_batch_norm_stands_in_front_of_the_classifier():
    head = BNLinearClsHead(num_classes=5, in_channels=8)
    feats = torch.randn(16, 8) * 3 + 1
    normed = (feats - feats.mean(0)) / (feats.var(0, unbiased=False) + 1e-5).sqrt()
    expected = normed @ head.fc.weight.T + head.fc.bias
    assert torch.allclose(head((feats,)), expected, atol=1e-5)


def test_initialisation_is_torchs_own_or_as_asked():
    torch.manual_seed(0)
    head = MODELS.build(
        dict(type='mmpretrain.BNLinearClsHead', num_classes=100, in_channels=64)
    )
    head.init_weights()
    assert head.fc.weight.std().item() < 0.08  # uniform within 1/8
    kaiming = dict(type='Kaiming', layer='Linear', mode='fan_in')
    head = BNLinearClsHead(num_classes=100, in_channels=64, init_cfg=kaiming)
    head.init_weights()
    assert abs(head.fc.weight.std().item() - (2 / 64) ** 0.5) < 0.01


def test_head_gives_loss_and_prediction():
    head = BNLinearClsHead(num_classes=5, in_channels=8, topk=(1, 2))
    samples = [DataSample().set_gt_label(i) for i in (0, 3)]
    feats = (torch.randn(2, 8),)
    assert head.loss(feats, samples)['loss'].requires_grad
    assert head.predict(feats, samples)[0].pred_score.shape == (5,)


def test_flatten_neck():
    feats = (torch.randn(2, 3, 4, 5), torch.randn(2, 3))
    out = FlattenNeck()(feats)
    assert [f.shape for f in out] == [(2, 60), (2, 3)]


def test_activation_with_one_slope_a_feature():
    act_cfg = dict(type='PReLU', num_parameters=2)
    head = BNLinearClsHead(num_classes=5, in_channels=8, act_cfg=act_cfg)
    assert head.act.num_parameters == 8
    assert head((torch.randn(4, 8),)).shape == (4, 5)
