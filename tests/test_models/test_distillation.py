"""Losses of a classifier with a teacher or a regulariser."""

import copy
import math

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from small_classifier import CLASSIFIER, build
from torch import nn

from mmirnet.binary import BiPerConv2d, BiPerLinear
from mmirnet.errors import ConfigError
from mmirnet.models import BiPerRegulariser, DistillationLoss


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """Config of a teacher with a checkpoint."""
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.manual_seed(7)
    torch.save(build().state_dict(), path)
    return dict(type='Teacher', config=CLASSIFIER, checkpoint=str(path))


def binary(**options):
    torch.manual_seed(0)
    return build(type='BinaryClassifier', **options)


def batch(n=4):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 3, 9, 9, generator=generator)
    return images, [DataSample().set_gt_label(i % 3) for i in range(n)]


class TestDistillationLoss:
    @pytest.mark.parametrize('temperature', [1.0, 4.0])
    def test_formula(self, temperature):
        y, z = torch.randn(2, 5, 3, dtype=torch.double).tolist()
        total = 0.0
        for student, teacher in zip(y, z, strict=True):
            p, q = (
                [math.exp(v / temperature) for v in row] for row in (teacher, student)
            )
            total -= sum(
                a / sum(p) * math.log(b / sum(q)) for a, b in zip(p, q, strict=True)
            )
        loss = DistillationLoss(loss_weight=0.5, temperature=temperature)
        wanted = 0.5 * temperature**2 * total / 5
        got = loss(*(torch.tensor(v, dtype=torch.double) for v in (y, z)))
        assert got.item() == pytest.approx(wanted, rel=1e-12)

    @pytest.mark.parametrize('name', ['loss_weight', 'temperature'])
    @pytest.mark.parametrize('value', [0, -1.0, math.nan, math.inf, '1.0'])
    def test_arguments(self, name, value):
        with pytest.raises(
            ConfigError, match=f'{name} must be a number, more than 0, got'
        ):
            DistillationLoss(**{name: value})


def test_alone_it_is_an_image_classifier():
    model = binary()
    torch.manual_seed(0)
    plain = build()
    assert model.state_dict().keys() == plain.state_dict().keys()
    losses = [m.loss(*batch()) for m in (model, plain)]
    assert losses[0].keys() == losses[1].keys() == {'loss'}
    assert torch.equal(losses[0]['loss'], losses[1]['loss'])


@pytest.mark.parametrize('label_weight', [0.0, 0.25])
def test_weighted_sum(teacher, label_weight):
    model = binary(
        teacher=teacher,
        label_weight=label_weight,
        distillation=dict(type='DistillationLoss', loss_weight=3.0, temperature=2.0),
    )
    torch.manual_seed(0)
    plain = build()
    images, samples = batch()
    losses = model.loss(images, samples if label_weight else None)
    wanted = {}
    if label_weight:
        wanted['label_loss'] = label_weight * plain.loss(images, samples)['loss']
    other = build()
    other.load_state_dict(torch.load(teacher['checkpoint']))
    logits = binary()(images), other.eval()(images)
    wanted['distillation_loss'] = DistillationLoss(3.0, 2.0)(*logits)
    assert losses.keys() == wanted.keys()
    for name in wanted:
        assert torch.equal(losses[name], wanted[name])
    # The head has seen the batch once.
    assert model.head.bn.num_batches_tracked == 1


def test_the_teacher_is_no_part_of_the_model(teacher):
    model = binary(teacher=teacher)
    plain = binary()
    model.init_weights()
    network = model.teacher.network
    before = copy.deepcopy(network.state_dict())
    model.train()
    model.loss(*batch())['distillation_loss'].backward()
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not {id(p) for p in network.parameters()} & {
        id(p) for p in model.parameters()
    }
    assert network not in set(model.modules())
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_copies_and_averages_have_no_teacher_loaded(teacher):
    model = binary(teacher=teacher)
    model.init_weights()
    for other in (copy.deepcopy(model), ExponentialMovingAverage(model).module):
        assert other.teacher.network is None
        wanted = model.loss(*batch())['distillation_loss']
        assert torch.equal(other.loss(*batch())['distillation_loss'], wanted)


def test_the_teacher_moves_with_the_model(teacher):
    model = binary(teacher=teacher)
    model.init_weights()
    model.double().to(memory_format=torch.channels_last)
    weight = model.teacher.network.backbone.conv1.weight
    assert weight.dtype == torch.double
    assert weight.is_contiguous(memory_format=torch.channels_last)
    model.to('meta')
    assert model.teacher.network.backbone.conv1.weight.is_meta


def test_the_teacher_computes_under_the_autocast_of_the_model(teacher):
    model = binary(teacher=teacher)
    with torch.autocast('cpu', torch.bfloat16):
        assert model.teacher.logits(batch()[0], model).dtype == torch.bfloat16
        assert model.loss(*batch())['distillation_loss'].dtype == torch.float32


def test_a_teacher_does_not_change_the_initial_weights(teacher):
    states = []
    for options in ({}, dict(teacher=teacher)):
        model = binary(**options)
        model.init_weights()
        states.append(dict(model.state_dict(), random=torch.rand(3)))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_teacher_of_more_scores_than_its_head_says(teacher):
    model = binary(teacher=teacher)
    model.init_weights()
    model.teacher.network.head.fc = nn.Linear(8, 4)
    with pytest.raises(ConfigError, match=r'gives 4 scores for an image, .* 3$'):
        model.loss(*batch())


@MODELS.register_module(force=True)
class SumOfSquares(nn.Module):
    """A regulariser of somebody."""

    def forward(self, model):
        return sum(p.square().sum() for p in model.parameters())


@pytest.mark.parametrize('taught', [False, True])
def test_a_regulariser_is_one_more_loss(teacher, taught):
    options = dict(teacher=teacher) if taught else {}
    model = binary(regulariser=dict(type='SumOfSquares'), **options)
    losses = model.loss(*batch())
    other = losses.pop('regularisation_loss')
    wanted = binary(**options).loss(*batch())
    name = 'distillation_loss' if taught else 'label_loss'
    assert list(losses) == [name]
    assert [torch.equal(losses[name], value) for value in wanted.values()] == [True]
    squares = sum(p.square().sum() for p in model.parameters())
    assert torch.equal(other, squares)


class TestBiPerRegulariser:
    def test_formula(self):
        model = nn.Sequential(
            BiPerConv2d(2, 3, 3, omega=7.0, binarize_weight=False),
            BiPerLinear(5, 4),
            nn.Linear(4, 4),
        ).double()
        wanted = 0.0
        for layer, omega in ((model[0], 7.0), (model[1], 20.0)):
            weights = layer.weight.flatten().tolist()
            wanted += sum(math.sin(omega * w) ** 2 for w in weights) / len(weights)
        got = BiPerRegulariser(loss_weight=0.25)(model)
        assert got.item() == pytest.approx(0.25 * wanted, rel=1e-12)
        got.backward()
        assert model[0].weight.grad.any() and model[2].weight.grad is None

    def test_mistakes(self):
        with pytest.raises(
            ConfigError, match='loss_weight must be a number, more than 0'
        ):
            BiPerRegulariser(loss_weight=0)
        with pytest.raises(ConfigError, match='the model has no layers of BiPer'):
            BiPerRegulariser(loss_weight=1)(nn.Linear(2, 2))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(label_weight=0.5), 'model.label_weight has no effect without'),
        (
            dict(distillation=dict(type='DistillationLoss')),
            'model.distillation has no effect without model.teacher',
        ),
        (dict(label_weight=-1), 'model.label_weight must be a number, at least 0, got'),
        (dict(label_weight='1'), "model.label_weight .*, got '1'"),
        (
            dict(teacher=dict(type='Teacher', config=None)),
            'model.teacher.config must be a dict, a config file or a name, got None',
        ),
        (
            dict(teacher=dict(type='Teacher', config=CLASSIFIER, checkpoint=7)),
            'model.teacher.checkpoint must be a file or URL, got 7',
        ),
        (dict(teacher='resnet34.pth'), 'model.teacher needs a dict with a type, got'),
        (
            dict(teacher=dict(config=CLASSIFIER)),
            'model.teacher needs a dict with a type',
        ),
        (
            dict(
                teacher=dict(type='Teacher', config=CLASSIFIER),
                head=dict(type='MultiLabelLinearClsHead', num_classes=3, in_channels=8),
            ),
            'one score for each class, .*, and not MultiLabelLinearClsHead',
        ),
        (
            dict(teacher=dict(type='Teacher', config=CLASSIFIER), head=None),
            'one score for each class, .*, and not NoneType',
        ),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ConfigError, match=message):
        binary(**options)
